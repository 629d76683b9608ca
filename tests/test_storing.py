"""What the memory holds of a rollout: rewards and potentials of the frames at which it came."""

from pathlib import Path

import numpy as np

from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout
from rl.run.build import build_run
from rl.training.loop import store_rollout
from tests.rl_samples import tiny_config

CHANGES = {
    "engineered_kamikaze_reward_schedule": [[0, 0.0], [1000, 0.0], [2000, 3.0]],
    "global_schedule_speed": 1.0,
    "number_times_single_memory_is_used_before_discard": 3,
    "rewards": {"shaped_reward_dist_to_cur_vcp": -0.4, "shaped_reward_min_dist_to_cur_vcp": 0.0},
}


def test_rewards_follow_their_schedule_and_potentials_are_stored(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, **CHANGES)
    collector = Collector(CollectorPlan.from_config(cfg), IQN(cfg.network))
    rollouts: list[Rollout] = []
    while len(rollouts) < 1:
        rollouts += collector.step(0)
    rollout = rollouts[0]
    stored = []
    for frames in (0, 2000):
        run = build_run(cfg)
        run.statistics.frames_played = frames
        store_rollout(run, rollout)
        stored.append(run.memory.rows())
        assert run.statistics.memories_generated > 0
        assert run.pace.due == 3 * run.statistics.memories_generated
    # The step to the finish has no extras, and the last row is no step.
    extra = (stored[1]["rewards"] - stored[0]["rewards"])[:-2]
    plain_gas = rollout.actions[:-1] == 0
    assert plain_gas.any()
    np.testing.assert_allclose(extra[plain_gas], 3.0, atol=1e-5)
    assert set(np.round(extra, 3)) <= {0.0, 3.0}
    for rows in stored:
        # The first waypoint is the current line point, in the car's own frame.
        distance = np.linalg.norm(rollout.all_floats()[:, 62:65], axis=1)
        np.testing.assert_allclose(rows["potentials"], -0.4 * distance, rtol=1e-4, atol=1e-5)
        assert np.ptp(rows["potentials"]) > 0.01
