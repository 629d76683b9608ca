"""The mini-race at sampling: how a virtual 7 s window shortens and ends a transition."""

import numpy as np
import numpy.typing as npt

from datasets.contract.minirace import MINI_RACE_ACTIONS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def limit_to_window(clock: Ints, length: Ints, to_finish: Ints) -> tuple[Ints, Bools]:
    """Cut transitions at the end of the window.

    Args:
        clock: (B,) elapsed actions at s, in [0, 140).
        length: (B,) actions n of each transition, >= 1.
        to_finish: (B,) actions from s to the finish; huge for a run without one.

    Returns:
        (B,) actions n' <= n that are rewarded, and (B,) whether the transition is terminal: the
        window ends within it, or the race does.
    """
    end = clock + length
    used = length - np.maximum(end - MINI_RACE_ACTIONS, 0)
    return used, (used >= to_finish) | (end >= MINI_RACE_ACTIONS)
