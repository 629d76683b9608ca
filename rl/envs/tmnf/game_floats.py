"""The 184 floats of a car in the game."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract import floats as layout
from datasets.contract.actions import TICK_MS
from datasets.contract.floats import previous_actions
from datasets.contract.line import ReferenceLine
from datasets.contract.surfaces import ASPHALT, DIRT, GRASS, N_SURFACES, TURBO
from datasets.wheels import GAME_WHEELS
from rl.envs.jit import compiled
from rl.envs.observation import margin_to_finish, write_motion, write_waypoints
from rl.envs.tmnf.state_blob import GameState

F64 = npt.NDArray[np.float64]

GROUP_OF_MATERIAL: Final = {
    **dict.fromkeys((0, 1, 16, 18, 19), ASPHALT),
    **dict.fromkeys((2, 20), GRASS),
    **dict.fromkeys((5, 6, 8, 17), DIRT),
    **dict.fromkeys((7, 26), TURBO),
}
"""Surface of each material of the game; all others have no flag."""
_NO_FLAG: Final = (False,) * N_SURFACES
_FLAGS: Final = {
    material: tuple(surface == group for surface in range(N_SURFACES))
    for material, group in GROUP_OF_MATERIAL.items()
}
"""Flags of the surfaces, by material."""
_MARGIN: Final = layout.MARGIN
_WHEELS_AND_GEAR: Final = slice(layout.WHEEL_SLIDING.start, layout.CONTACT_GROUPS.stop)


def write_game_floats(
    out: npt.NDArray[np.float32],
    state: GameState,
    line: ReferenceLine,
    *,
    zone: int,
    meters: float,
    gearbox_counter: int,
    ticks: npt.NDArray[np.uint8],
) -> None:
    """Write the floats of a car; the layout is `datasets.contract.floats`.

    Args:
        out: (184,) float32.
        state: of the car; its wheels are brought into the contract's order.
        line: that is followed.
        zone: of the line.
        meters: along the line.
        gearbox_counter: observations in a row in which a gear was being changed.
        ticks: (M,) action of each 10 ms of the race so far.
    """
    out[layout.PREVIOUS_ACTIONS] = previous_actions(ticks, np.array([TICK_MS * len(ticks)]))[0]
    out[_WHEELS_AND_GEAR] = (
        *(state.sliding[wheel] for wheel in GAME_WHEELS),
        *(state.contact[wheel] for wheel in GAME_WHEELS),
        *(state.dampers[wheel] for wheel in GAME_WHEELS),
        *(state.gearbox, state.gear, state.rpm, gearbox_counter),
        *(flag for wheel in GAME_WHEELS for flag in _FLAGS.get(state.materials[wheel], _NO_FLAG)),
    )
    motion = (state.position, state.rotation, state.velocity, state.angular_velocity)
    _write_place(out, *motion, line.zone_centers, line.cumulative, zone, meters)
    out[layout.CLOCK] = 0.0
    out[layout.FREEWHEELING] = state.is_freewheeling


@compiled
def _write_place(
    out: npt.NDArray[np.float32],
    position: F64,
    rotation: F64,
    velocity: F64,
    angular_velocity: F64,
    centers: F64,
    cumulative: F64,
    zone: int,
    meters: float,
) -> None:
    """Write motion, waypoints and margin in one call."""
    write_motion(out, rotation, velocity, angular_velocity)
    write_waypoints(out, position, rotation, zone, centers, 0)
    out[_MARGIN] = margin_to_finish(meters, cumulative, 0, len(centers))
