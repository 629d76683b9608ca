"""Made-up rollouts."""

import numpy as np

from rl.replay.rollout import Rollout

H, W, F, A = 3, 4, 184, 5


def random_rollout(length: int, seed: int) -> Rollout:
    """An unfinished run of random observations and actions."""
    rng = np.random.default_rng(seed)
    return Rollout(
        track="short",
        is_exploration=True,
        fill_buffer=True,
        seed=seed,
        weights_version=0,
        frames=rng.integers(0, 256, (length, H, W), dtype=np.uint8),
        floats=rng.standard_normal((length, F)).astype(np.float32),
        actions=rng.integers(0, A, length).astype(np.uint8),
        action_was_greedy=rng.random(length) < 0.5,
        q_values=rng.standard_normal((length, A)).astype(np.float32),
        meters=np.arange(length + 1, dtype=np.float64),
        time_ms=np.arange(0, 50 * (length + 1), 50, dtype=np.int32),
        next_frame=np.zeros((H, W), np.uint8),
        next_floats=np.zeros(F, np.float32),
        finished=False,
        race_time_ms=300_000,
    )
