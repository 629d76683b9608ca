"""Several maps in one cycle: their order, what is learnt from, and numbers by map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from datasets.contract.files import read_json
from datasets.contract.floats import MARGIN
from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.config.experiment import RLConfig
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout
from rl.run.build import build_run
from rl.run.save_and_resume import RunSaver
from rl.training.train import train
from tests.rl_samples import straight_line, tiny_config

NEAR_M, FAR_M = 40.0, 60.0


def two_maps(folder: Path, **changes: Any) -> RLConfig:
    """Two straight tracks: `near` is learnt from, `far` is driven along its own line alone."""
    paths = {}
    for name, length_m in (("near", NEAR_M), ("far", FAR_M)):
        (folder / name).mkdir()
        paths[name] = str(straight_line(folder / name, length_m))
    near = {"short_name": "near", "map_path": paths["near"]}
    far = {"short_name": "far", "map_path": paths["far"], "reference_line_path": paths["far"]}
    entries = [
        {**near, "is_exploration": True, "repeat": 2},
        {**far, "is_exploration": True, "fill_buffer": False},
        {**near, "is_exploration": False},
        {**far, "is_exploration": False, "fill_buffer": False, "repeat": 3},
    ]
    return tiny_config(folder, map_cycle={"entries": entries}, **changes)


ROUND = [
    ("near", True, True),
    ("near", True, True),
    ("far", True, False),
    ("near", False, True),
    ("far", False, False),
    ("far", False, False),
    ("far", False, False),
]


def driven(cfg: RLConfig, count: int, index: int = 0, of: int = 1) -> list[Rollout]:
    torch.manual_seed(0)
    network = IQN(cfg.network)
    collector = Collector(CollectorPlan.from_config(cfg, index, of), network, network)
    rollouts: list[Rollout] = []
    while len(rollouts) < count:
        rollouts += collector.step(0)
    return rollouts


@pytest.mark.parametrize(("index", "of", "first"), [(0, 1, 0), (1, 3, 2), (2, 3, 4)])
def test_runs_follow_the_cycle_and_collectors_start_apart(
    tmp_path: Path, index: int, of: int, first: int
) -> None:
    environment = {"cutoff_rollout_if_race_not_finished_within_duration_ms": 500}
    performance = {"serial": True, "cars_per_collector": 1}
    cfg = two_maps(tmp_path, environment=environment, performance=performance)
    rollouts = driven(cfg, 9, index, of)
    found = [(r.track, r.is_exploration, r.fill_buffer) for r in rollouts]
    assert found == [ROUND[(first + k) % len(ROUND)] for k in range(9)]
    for rollout in rollouts:
        length_m = NEAR_M if rollout.track == "near" else FAR_M
        assert rollout.floats[0, MARGIN] == pytest.approx(length_m, abs=3.0)


def test_map_outside_the_buffer_is_driven_and_measured_but_not_learnt_from(tmp_path: Path) -> None:
    cfg = two_maps(tmp_path, memory_size_schedule=[[0, [5000, 60]]])
    result = train(cfg, max_frames=900)
    assert result.grad_steps > 0

    run = build_run(cfg)
    RunSaver(result.folder).restore(run)
    used = run.memory.total
    assert 60 < used < result.frames  # `far` is missing
    to_finish = run.memory.rows()["floats"][:, MARGIN]
    assert NEAR_M - 5.0 < to_finish.max() < NEAR_M + 5.0

    stats = read_json(result.folder.stats)
    best = stats["alltime_min_ms"]
    assert set(best) == {"near", "far"}
    assert best["near"] < best["far"] < 300_000
    assert set(stats["rolling_mean_ms"]) == {"near", "far"}

    events = EventAccumulator(str(Path(cfg.tensorboard_dir) / cfg.run_name))
    tags = set(events.Reload().Tags()["scalars"])
    for kind in ("explo", "eval"):
        assert f"Race/{kind}_race_time_trained_near" in tags
        assert f"Race/{kind}_race_time_blind_far" in tags
    assert not {tag for tag in tags if "trained_far" in tag or "blind_near" in tag}
    for name, length in (("near", best["near"]), ("far", best["far"])):
        assert np.isclose(events.Scalars(f"alltime_min_ms_{name}")[-1].value, length)
