"""Building the state of a fresh run from its configuration."""

import numpy as np

from datasets.contract.floats import N_FLOATS
from rl.config.experiment import RLConfig
from rl.evaluation.champion import Champion
from rl.learning.learner import Learner
from rl.learning.pace import LearningPace
from rl.learning.plateau import PlateauBreaker
from rl.learning.resets import ResetTrigger
from rl.network.devices import resolve_device, resolve_dtype
from rl.replay.memory import ReplayMemory
from rl.run.state import Run
from rl.run.statistics import RunStatistics


def build_run(cfg: RLConfig) -> Run:
    """Build a fresh run: random weights that depend on `cfg.seed` alone, an empty memory."""
    device = resolve_device(cfg.performance.device)
    compiled = cfg.performance.compile
    learner = Learner(
        cfg.network,
        cfg,
        cfg.btr,
        averaging_decay=cfg.averaging.decay,
        seed=cfg.seed,
        device=device,
        dtype=resolve_dtype(cfg.performance.precision, device),
        compiled=compiled == "on" or (compiled == "auto" and device.type == "cuda"),
    )
    memory = ReplayMemory(
        cfg.schedules_at(0).memory_capacity,
        cfg.network.image_hw,
        N_FLOATS,
        cfg,
        pin_memory=device.type == "cuda",
    )
    return Run(
        cfg=cfg,
        learner=learner,
        memory=memory,
        pace=LearningPace(),
        resets=ResetTrigger(cfg),
        plateau=PlateauBreaker(cfg.plateau_breaker),
        statistics=RunStatistics(),
        champion=Champion(),
        rng=np.random.default_rng([cfg.seed, 0]),
        next_evaluation_frames=cfg.evaluation.every_frames or 0,
    )
