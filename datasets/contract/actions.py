"""The 12 joint key actions and the two time steps, shared by replays, networks and environments.

An action is a combination of the four keys (accelerate, brake, left, right). Replays hold one
action per physics tick of 10 ms; an agent holds its action for 50 ms.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

TICK_MS: Final = 10
ACTION_MS: Final = 50
TICKS_PER_ACTION: Final = ACTION_MS // TICK_MS

KEY_NAMES: Final = ("accelerate", "brake", "left", "right")
ACTION_KEYS: Final[npt.NDArray[np.uint8]] = np.array(
    [
        [1, 0, 0, 0],
        [1, 0, 1, 0],
        [1, 0, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 0, 1],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ],
    dtype=np.uint8,
)
"""(12, 4) uint8: accelerate, brake, left, right of each action."""

N_ACTIONS: Final = len(ACTION_KEYS)
ACTION_FORWARD: Final = 0
ACTION_BACKWARD: Final = 6
ACTION_NAMES: Final = tuple(
    "+".join(name for name, pressed in zip(KEY_NAMES, keys, strict=True) if pressed) or "coast"
    for keys in ACTION_KEYS
)


def _keys_to_action_table() -> npt.NDArray[np.uint8]:
    table = np.zeros(16, dtype=np.uint8)
    for bits in range(16):
        keys = [(bits >> shift) & 1 for shift in (3, 2, 1, 0)]
        if keys[2] and keys[3]:  # left and right together cancel
            keys[2] = keys[3] = 0
        table[bits] = int(np.flatnonzero((np.array(keys) == ACTION_KEYS).all(axis=1))[0])
    return table


KEYS_TO_ACTION: Final[npt.NDArray[np.uint8]] = _keys_to_action_table()
"""(16,) uint8: the action of the bits accelerate*8 + brake*4 + left*2 + right."""


def keys_to_actions(keys: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Return the action of each key combination.

    Args:
        keys: (..., 4) truthy where accelerate, brake, left, right are pressed.

    Returns:
        (...,) uint8 action indices; left and right together count as neither.
    """
    pressed = (np.asarray(keys) != 0).astype(np.int64)
    actions: npt.NDArray[np.uint8] = KEYS_TO_ACTION[pressed @ np.array([8, 4, 2, 1])]
    return actions
