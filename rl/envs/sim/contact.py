"""Where a car is on its road: the section under it, the surface under its wheels, the walls.

`road` is the car's own part (M, 12) of the ground table, see `rl.envs.sim.road`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import ASPHALT, GRASS
from rl.envs.jit import compiled
from rl.envs.sim.car import (
    AIRBORNE,
    AT_WALL,
    CAR,
    FIRST_SURFACE,
    GRADE,
    GROUND_Y,
    N_WHEELS,
    ROAD_D,
    ROAD_S,
    TICK_S,
    VX,
    VZ,
    X,
    Z,
)
from rl.envs.sim.road import (
    CENTER_X,
    CENTER_Y,
    CENTER_Z,
    LEFT_EDGE,
    LEFT_WALL,
    LEFT_X,
    LEFT_Z,
    PATCH,
    PATCH_HIGH,
    PATCH_LOW,
    RIGHT_EDGE,
    RIGHT_WALL,
)

F64 = npt.NDArray[np.float64]

ROAD_END_M: Final = 0.9  # a car may roll this far beyond the last but one section


@compiled
def _beyond(road: F64, row: int, x: float, z: float) -> float:
    """Metres from the section's plane to (x, z), along the road."""
    dx, dz = x - road[row, CENTER_X], z - road[row, CENTER_Z]
    return float(dz * road[row, LEFT_X] - dx * road[row, LEFT_Z])


@compiled
def locate(road: F64, row: int, x: float, z: float) -> int:
    """Return the last row, near `row`, whose section the point has passed.

    Searched from `row` outwards, since roads cross over themselves.
    """
    last = len(road) - 2
    while row < last and _beyond(road, row + 1, x, z) >= 0.0:
        row += 1
    while row > 0 and _beyond(road, row, x, z) < 0.0:
        row -= 1
    return row


@compiled
def surface_at(road: F64, row: int, d: float) -> int:
    """Surface of a section at a lateral coordinate."""
    row = min(max(row, 0), len(road) - 1)
    if d > road[row, LEFT_EDGE] or -d > road[row, RIGHT_EDGE]:
        return GRASS
    if road[row, PATCH_LOW] <= d <= road[row, PATCH_HIGH]:
        return int(road[row, PATCH])
    return ASPHALT


@compiled
def project(state: F64, road: F64, row: int, sin_yaw: float, cos_yaw: float) -> int:
    """Find the car on its road: fill ROAD_S, ROAD_D, GRADE, GROUND_Y and the wheels' surfaces.

    Sine and cosine of the heading are handed on: they would cost more than the rest.
    A flying car keeps the surfaces that its wheels touched last.
    """
    x, z = state[X], state[Z]
    a = locate(road, row, x, z)
    b = a + 1
    before = _beyond(road, a, x, z)
    gap = max(before - _beyond(road, b, x, z), 1e-3)
    u = min(max(before / gap, 0.0), 1.0)
    da = (x - road[a, CENTER_X]) * road[a, LEFT_X] + (z - road[a, CENTER_Z]) * road[a, LEFT_Z]
    db = (x - road[b, CENTER_X]) * road[b, LEFT_X] + (z - road[b, CENTER_Z]) * road[b, LEFT_Z]
    rise = road[b, CENTER_Y] - road[a, CENTER_Y]
    state[ROAD_S] = a + u
    state[ROAD_D] = da + u * (db - da)
    state[GRADE] = rise / max(gap, 0.2)
    state[GROUND_Y] = road[a, CENTER_Y] + u * rise
    if state[AIRBORNE] == 0.0:
        _touch(state, road, a, sin_yaw, cos_yaw)
    return a


@compiled
def _touch(state: F64, road: F64, row: int, sin_yaw: float, cos_yaw: float) -> None:
    """Surface under each wheel, from the heading relative to the road."""
    lx, lz = road[row, LEFT_X], road[row, LEFT_Z]
    along = cos_yaw * lx - sin_yaw * lz
    across = sin_yaw * lx + cos_yaw * lz
    for wheel in range(N_WHEELS):
        ahead = CAR.wheel_base if wheel < 2 else -CAR.wheel_base
        side = CAR.wheel_track if wheel % 2 == 0 else -CAR.wheel_track
        wheel_row = math.floor(state[ROAD_S] + ahead * along - side * across)
        wheel_d = state[ROAD_D] + ahead * across + side * along
        state[FIRST_SURFACE + wheel] = surface_at(road, wheel_row, wheel_d)


@compiled
def hold_between_walls(state: F64, road: F64, a: int, sin_yaw: float, cos_yaw: float) -> int:
    """Pushes the car back onto the ground between the walls; the speed into the wall is lost."""
    b = a + 1
    u = state[ROAD_S] - a
    left = road[a, LEFT_WALL] + u * (road[b, LEFT_WALL] - road[a, LEFT_WALL]) - CAR.half_width
    right = road[a, RIGHT_WALL] + u * (road[b, RIGHT_WALL] - road[a, RIGHT_WALL]) - CAR.half_width
    d = state[ROAD_D]
    lx, lz = road[a, LEFT_X], road[a, LEFT_Z]
    near = d > left - CAR.wall_reach or -d > right - CAR.wall_reach
    state[AT_WALL] = 1.0 if near else 0.0
    excess = d - left if d > left else min(d + right, 0.0)
    if excess != 0.0:
        side = 1.0 if excess > 0.0 else -1.0
        _hit(state, lx * side, lz * side)
        state[X] -= excess * lx
        state[Z] -= excess * lz
        return project(state, road, a, sin_yaw, cos_yaw)
    if a == 0 or a == len(road) - 2:  # the road's two ends are walls too
        beyond = _beyond(road, a, state[X], state[Z])
        if (a == 0 and beyond < CAR.wall_reach) or (a > 0 and beyond > ROAD_END_M - CAR.wall_reach):
            state[AT_WALL] = 1.0
        if a == 0 and beyond < 0.0:
            _hit(state, lz, -lx)
            state[X] += beyond * lz
            state[Z] -= beyond * lx
        elif a > 0 and beyond > ROAD_END_M:
            _hit(state, -lz, lx)
            state[X] += (beyond - ROAD_END_M) * lz
            state[Z] -= (beyond - ROAD_END_M) * lx
    return a


@compiled
def _hit(state: F64, nx: float, nz: float) -> None:
    """Take speed from a car at a wall whose outward normal is (nx, nz).

    The heading stays: a wall that turned the nose along itself would lead a car that never steers
    round every corner to the finish.
    """
    into = state[VX] * nx + state[VZ] * nz
    if into > 0.0:
        tx, tz = state[VX] - into * nx, state[VZ] - into * nz
        speed = math.sqrt(tx * tx + tz * tz)
        lost = CAR.wall_friction * into + CAR.wall_scrape * TICK_S
        keep = max(speed - lost, 0.0) / max(speed, 1e-6)
        state[VX] = tx * keep - CAR.wall_bounce * into * nx
        state[VZ] = tz * keep - CAR.wall_bounce * into * nz
