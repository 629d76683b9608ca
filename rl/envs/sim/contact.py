"""Where a car is on its road: the section under it, the surface under its wheels, the walls."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import ASPHALT, GRASS
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
    YAW,
    X,
    Z,
)
from rl.envs.sim.jit import compiled
from rl.envs.sim.road import PackedTracks

F64 = npt.NDArray[np.float64]

ROAD_END_M: Final = 0.9  # a car may roll this far beyond the last but one section


@compiled
def locate(tracks: PackedTracks, track: int, row: int, x: float, z: float) -> int:
    """The road row whose section the point lies beyond and the next one's it does not.

    Searched from `row` outwards, since roads cross over themselves.
    """
    first = tracks.road_offset[track]
    last = tracks.road_offset[track + 1] - first - 2
    center, left = tracks.road_center, tracks.road_left
    while row < last:
        j = first + row + 1
        if (z - center[j, 2]) * left[j, 0] - (x - center[j, 0]) * left[j, 1] < 0.0:
            break
        row += 1
    while row > 0:
        j = first + row
        if (z - center[j, 2]) * left[j, 0] - (x - center[j, 0]) * left[j, 1] >= 0.0:
            break
        row -= 1
    return row


@compiled
def surface_at(tracks: PackedTracks, track: int, row: int, d: float) -> int:
    """Surface of the road of `track` at a row and a lateral coordinate."""
    j = tracks.road_offset[track] + min(
        max(row, 0), tracks.road_offset[track + 1] - tracks.road_offset[track] - 1
    )
    if d > tracks.road_edges[j, 0] or -d > tracks.road_edges[j, 1]:
        return GRASS
    kind = tracks.patch_kind[j]
    if kind != ASPHALT and tracks.patch_span[j, 0] <= d <= tracks.patch_span[j, 1]:
        return int(kind)
    return ASPHALT


@compiled
def project(state: F64, tracks: PackedTracks, track: int, row: int) -> int:
    """Finds the car on its road: fills ROAD_S, ROAD_D, GRADE, GROUND_Y and the wheels' surfaces."""
    x, z = state[X], state[Z]
    row = locate(tracks, track, row, x, z)
    a = tracks.road_offset[track] + row
    b = a + 1
    center, left = tracks.road_center, tracks.road_left
    ax, az = x - center[a, 0], z - center[a, 2]
    bx, bz = x - center[b, 0], z - center[b, 2]
    before = az * left[a, 0] - ax * left[a, 1]
    after = bx * left[b, 1] - bz * left[b, 0]
    gap = max(before + after, 1e-3)
    u = min(max(before / gap, 0.0), 1.0)
    da = ax * left[a, 0] + az * left[a, 1]
    db = bx * left[b, 0] + bz * left[b, 1]
    d = da + u * (db - da)
    state[ROAD_S] = row + u
    state[ROAD_D] = d
    state[GRADE] = (center[b, 1] - center[a, 1]) / max(gap, 0.2)
    state[GROUND_Y] = center[a, 1] + u * (center[b, 1] - center[a, 1])
    if state[AIRBORNE] == 0.0:
        _touch(state, tracks, track, a)
    return row


@compiled
def _touch(state: F64, tracks: PackedTracks, track: int, a: int) -> None:
    """Surface under each wheel, from the heading relative to the road at row `a`."""
    lx, lz = tracks.road_left[a, 0], tracks.road_left[a, 1]
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    along = cos_yaw * lx - sin_yaw * lz
    across = sin_yaw * lx + cos_yaw * lz
    s, d = state[ROAD_S], state[ROAD_D]
    for wheel in range(N_WHEELS):
        ahead = CAR.wheel_base if wheel < 2 else -CAR.wheel_base
        side = CAR.wheel_track if wheel % 2 == 0 else -CAR.wheel_track
        wheel_s = s + ahead * along - side * across
        wheel_d = d + ahead * across + side * along
        state[FIRST_SURFACE + wheel] = surface_at(tracks, track, math.floor(wheel_s), wheel_d)


@compiled
def hold_between_walls(state: F64, tracks: PackedTracks, track: int, row: int) -> int:
    """Pushes the car back onto the ground between the walls; the speed into the wall is lost."""
    a = tracks.road_offset[track] + row
    rows = tracks.road_offset[track + 1] - tracks.road_offset[track]
    u = state[ROAD_S] - row
    walls = tracks.road_walls
    left_limit = walls[a, 0] + u * (walls[a + 1, 0] - walls[a, 0]) - CAR.half_width
    right_limit = walls[a, 1] + u * (walls[a + 1, 1] - walls[a, 1]) - CAR.half_width
    d = state[ROAD_D]
    excess = d - left_limit if d > left_limit else min(d + right_limit, 0.0)
    lx, lz = tracks.road_left[a, 0], tracks.road_left[a, 1]
    state[AT_WALL] = 0.0
    if excess != 0.0:
        side = 1.0 if excess > 0.0 else -1.0
        _hit(state, lx * side, lz * side)
        state[X] -= excess * lx
        state[Z] -= excess * lz
        return project(state, tracks, track, row)
    center = tracks.road_center
    beyond = (state[Z] - center[a, 2]) * lx - (state[X] - center[a, 0]) * lz
    if row == 0 and beyond < 0.0:  # the road's two ends are walls too
        _hit(state, lz, -lx)
        state[X] += beyond * lz
        state[Z] -= beyond * lx
    elif row == rows - 2 and beyond > ROAD_END_M:
        _hit(state, -lz, lx)
        state[X] += (beyond - ROAD_END_M) * lz
        state[Z] -= (beyond - ROAD_END_M) * lx
    return row


@compiled
def _hit(state: F64, nx: float, nz: float) -> None:
    """A wall whose outward normal is (nx, nz): lose speed, turn the nose along it."""
    state[AT_WALL] = 1.0
    into = state[VX] * nx + state[VZ] * nz
    if into > 0.0:
        tx, tz = state[VX] - into * nx, state[VZ] - into * nz
        speed = math.sqrt(tx * tx + tz * tz)
        lost = CAR.wall_friction * into + CAR.wall_scrape * TICK_S
        keep = max(speed - lost, 0.0) / max(speed, 1e-6)
        state[VX] = tx * keep - CAR.wall_bounce * into * nx
        state[VZ] = tz * keep - CAR.wall_bounce * into * nz
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    facing = sin_yaw * nx + cos_yaw * nz
    if facing > 0.0:
        # Left of the nose is (cos yaw, -sin yaw): turn away from the wall, towards open ground.
        turn = -1.0 if cos_yaw * nx - sin_yaw * nz > 0.0 else 1.0
        state[YAW] += turn * CAR.wall_turn_rate * TICK_S * min(1.0, 0.2 + facing)
