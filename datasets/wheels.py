"""The order of the four wheels, which differs between the game and the 184 floats.

The game counts around the car: front left, front right, rear right, rear left. The contract, the
simulator and everything learnt there have front left, front right, rear left, rear right.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from datasets.contract.floats import N_WHEELS
from datasets.contract.surfaces import N_SURFACES

WheelOrder = Literal["contract", "game"]
CONTRACT: Final = "contract"
GAME: Final = "game"
CAPTURED_SOURCE: Final = "captured game"
"""Source of the datasets that were imported from captures of the game."""
GAME_WHEELS: Final = (0, 1, 3, 2)
"""The game's wheel in each place of the contract; the mapping is its own inverse."""


def wheel_order_of(facts: Mapping[str, Any]) -> WheelOrder:
    """Return the order of the wheels in floats of which some facts are known.

    Before there was an order among the facts, captures of the game were imported in the game's.

    Args:
        facts: plain values, `source` and `wheel_order` among them where they are known.
    """
    if "wheel_order" in facts:
        return GAME if facts["wheel_order"] == GAME else CONTRACT
    return GAME if facts.get("source") == CAPTURED_SOURCE else CONTRACT


def gear_and_wheels_in_contract_order(
    values: npt.NDArray[np.floating],
) -> npt.NDArray[np.floating]:
    """Return floats 21 to 52 with the wheels in the contract's order.

    Args:
        values: (n, 32) sliding, contact and damper of each wheel, four numbers of the gearbox, then
            the surfaces of each wheel; wheels as the game has them.
    """
    wheels = np.array(GAME_WHEELS)
    blocks = [N_WHEELS * block + wheels for block in range(3)]
    gear = np.arange(3 * N_WHEELS, 3 * N_WHEELS + 4)
    surfaces = gear[-1] + 1 + (N_SURFACES * wheels[:, None] + np.arange(N_SURFACES)).ravel()
    return values[:, np.concatenate([*blocks, gear, surfaces])]
