"""Whether the observations of a replay memory can be what runs left there."""

import numpy as np

from datasets.contract.actions import N_ACTIONS
from rl.replay.ring import LAST, TEST, TRAIN, ObservationRing
from rl.replay.sum_tree import SumTree


def check_observations(ring: ObservationRing, tree: SumTree | None) -> None:
    """Raise if a run is broken, or a slot has a weight that it should not have.

    Args:
        ring: of the observations.
        tree: sampling weights of its slots; None without priorities.

    Raises:
        ValueError: what is wrong.
    """
    slots = ring.slots(ring.oldest)
    if len(slots) == 0:
        return
    left = ring.columns["steps_left"][slots]
    kinds = ring.columns["kinds"][slots]
    if (ring.columns["actions"][slots] >= N_ACTIONS).any():
        raise ValueError(f"replay memory: actions that are not below {N_ACTIONS}")
    for name, column in ring.columns.items():
        if column.dtype.kind == "f" and not np.isfinite(column[slots]).all():
            raise ValueError(f"replay memory: {name} that are not finite")
    if (left < 0).any() or (kinds > TEST).any():
        raise ValueError("replay memory: transitions of no kind, or after a run's end")
    if not np.array_equal(left == 0, kinds == LAST):
        raise ValueError("replay memory: transitions that start after the last action")
    inside = left[:-1] > 0
    if left[-1] != 0 or not np.array_equal(left[1:][inside], left[:-1][inside] - 1):
        raise ValueError("replay memory: a run whose slots do not follow each other")
    if tree is not None:
        tree.check_valid()
        if not np.array_equal(tree.get(slots) > 0.0, kinds == TRAIN):
            raise ValueError("replay memory: weights on other slots than training transitions")
