"""Building the state of a fresh run from its configuration."""

import numpy as np

from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import N_FLOATS
from rl.config.experiment import RLConfig
from rl.evaluation.champion import Champion
from rl.learning.ladder import WeightLadder
from rl.learning.learner import Learner
from rl.learning.pace import LearningPace
from rl.learning.plateau import PlateauBreaker
from rl.learning.resets import ResetTrigger
from rl.network.devices import resolve_device, resolve_dtype
from rl.network.freezing import FrozenEncoder
from rl.network.iqn import IQN
from rl.network.prior import ActionPrior
from rl.replay.memory import ReplayMemory
from rl.run.state import Run, RunPrior
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
    return Run(
        cfg=cfg,
        learner=learner,
        memory=_memory(cfg, learner, with_prior=False),
        pace=LearningPace(),
        resets=ResetTrigger(cfg),
        plateau=PlateauBreaker(cfg.plateau_breaker),
        statistics=RunStatistics(),
        champion=Champion(),
        rng=np.random.default_rng([cfg.seed, 0]),
        next_evaluation_frames=cfg.evaluation.every_frames or 0,
    )


def install_prior(run: Run, policy: IQN, *, floor: float) -> None:
    """Give a run whose memory is empty a prior on the choice of actions.

    Its memory keeps log preferences from here on, its cars explore as `cfg.prior` says, and its
    image encoder is frozen if that says so.

    Args:
        run: its weights are those that it starts or goes on with.
        policy: the cloned policy; it is copied, and asked with as many fractions as the run
            drives with (`nn.iqn.k`): they cost most of the time of driving.
        floor: lowest log preference.
    """
    fractions = policy.config.iqn.model_copy(update={"k": run.cfg.network.iqn.k})
    copy = IQN(policy.config.model_copy(update={"iqn": fractions}))
    copy.load_state_dict(policy.state_dict())
    frozen = ActionPrior(copy.to(run.learner.device), floor)
    has_cloned_encoder = run.learner.online.has_encoder_of(frozen.network)
    run.cfg = run.cfg.with_prior(has_cloned_encoder=has_cloned_encoder)
    run.learner.use_options(run.cfg.network)
    run.learner.settle_encoder()
    run.memory = _memory(run.cfg, run.learner, with_prior=True)
    run.prior = RunPrior(frozen, WeightLadder(run.cfg.prior))


def _memory(cfg: RLConfig, learner: Learner, *, with_prior: bool) -> ReplayMemory:
    return ReplayMemory(
        cfg.schedules_at(0).memory_capacity,
        cfg.network.image_hw,
        N_FLOATS,
        cfg,
        pin_memory=learner.device.type == "cuda",
        preferences=N_ACTIONS if with_prior else None,
        encoder=FrozenEncoder(learner.online) if learner.has_settled_encoder else None,
    )
