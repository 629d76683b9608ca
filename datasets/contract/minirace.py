"""The mini-race: a fixed horizon of 7 s whose elapsed time is float 0 of the observation.

The clock restarts at every sampled transition, so one stored transition can stand anywhere in the
window. The value of a state at clock c is the undiscounted reward of the next 140 - c actions,
which lets the discount be 1. Behavioural cloning and reinforcement learning draw the clock alike: a
network trained at clock 0 alone would be queried by every later target where it has never been.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_MS

MINI_RACE_MS: Final = 7_000
MINI_RACE_ACTIONS: Final = MINI_RACE_MS // ACTION_MS
OVERSAMPLE_LONG_TERM_STEPS: Final = 40
OVERSAMPLE_MAXIMUM_TERM_STEPS: Final = 5

REWARD_PER_MS: Final = -6 / 5_000
"""Reward of one millisecond of race time."""
REWARD_PER_M: Final = 5 / 500
"""Reward of one metre of progress along the reference line."""


def draw_clock(rng: np.random.Generator, size: int) -> npt.NDArray[np.int64]:
    """Elapsed actions of the mini-race, one per sampled transition.

    x is uniform on the integers of [-35, 145) and the clock is max(|x| - 5, 0): P(0) = 11/180, each
    of 1..30 has 2/180, each of 31..139 has 1/180, so short remaining horizons are rarer.

    Returns:
        (size,) int64 in [0, 140).
    """
    low = OVERSAMPLE_MAXIMUM_TERM_STEPS - OVERSAMPLE_LONG_TERM_STEPS
    high = MINI_RACE_ACTIONS + OVERSAMPLE_MAXIMUM_TERM_STEPS
    drawn = np.abs(rng.integers(low, high, size=size)) - OVERSAMPLE_MAXIMUM_TERM_STEPS
    clock: npt.NDArray[np.int64] = np.maximum(drawn, 0).astype(np.int64)
    return clock
