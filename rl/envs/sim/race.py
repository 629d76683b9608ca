"""A car's race around the physics: keys, zones, finish, cut-offs and the 184 floats.

Compiled for one car; `step_cars` and `observe_cars` only loop over them.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract import floats as layout
from datasets.contract.actions import (
    ACTION_FORWARD,
    ACTION_KEYS,
    ACTION_MS,
    TICK_MS,
    TICKS_PER_ACTION,
)
from datasets.contract.line import EXTENSION_ZONES, START_ZONE
from datasets.contract.surfaces import N_SURFACES
from rl.envs.observation import (
    advance_zone,
    margin_to_finish,
    meters_along,
    write_motion,
    write_waypoints,
)
from rl.envs.sim.car import (
    AIRBORNE,
    FIRST_DAMPER,
    FIRST_SURFACE,
    GEAR,
    N_WHEELS,
    PITCH,
    PITCH_RATE,
    ROLL,
    ROLL_RATE,
    RPM,
    SHIFT_LEFT_MS,
    SLIDING,
    VX,
    VY,
    VZ,
    YAW,
    YAW_RATE,
    X,
    Y,
    Z,
)
from rl.envs.sim.jit import compiled
from rl.envs.sim.physics import drive_tick, place
from rl.envs.sim.road import LEAD_IN_M, PackedTracks

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

HISTORY_TICKS: Final = layout.N_PREVIOUS_ACTIONS * TICKS_PER_ACTION
FINISH_REACH_M: Final = 45.0
FINISH_ZONES: Final = 200  # the finish counts only for a car that has come this near along the line

_PREVIOUS = layout.PREVIOUS_ACTIONS.start
_N_PREVIOUS = layout.N_PREVIOUS_ACTIONS
_SLIDING = layout.WHEEL_SLIDING.start
_CONTACT = layout.WHEEL_CONTACT.start
_DAMPER = layout.WHEEL_DAMPER.start
_GROUPS = layout.CONTACT_GROUPS.start


class Cars(NamedTuple):
    """Everything that a batch of B cars is: one row per car, saved as it is."""

    state: F64  # (B, STATE_SIZE)
    track: I64  # (B,)
    road_index: I64  # (B,) row within the car's own road
    zone: I64
    furthest_zone: I64
    progress_ms: I64  # race time at which the furthest zone last advanced
    time_ms: I32
    finished: Flags
    truncated: Flags
    gearbox_counter: I64
    meters: F64
    history: U8  # (B, HISTORY_TICKS) ring of the actions of the last ticks


class Finishes(NamedTuple):
    """(T, 3) middle of each track's last line segment, and its unit direction."""

    point: F64
    direction: F64


@compiled
def start_car(
    cars: Cars, car: int, tracks: PackedTracks, x: float, z: float, yaw: float, speed: float
) -> None:
    """Puts a car at the start at race time 0."""
    track = cars.track[car]
    row = place(cars.state[car], tracks, track, int(LEAD_IN_M), x, z, yaw, speed)
    cars.road_index[car] = row
    cars.zone[car] = START_ZONE
    cars.time_ms[car] = 0
    cars.finished[car] = False
    cars.truncated[car] = False
    cars.gearbox_counter[car] = 0
    cars.progress_ms[car] = 0
    cars.history[car, :] = ACTION_FORWARD
    cars.furthest_zone[car] = START_ZONE
    _follow_line(cars, car, tracks)


@compiled
def _follow_line(cars: Cars, car: int, tracks: PackedTracks) -> None:
    """Updates zone, furthest zone and metres from the car's position."""
    track = cars.track[car]
    first = tracks.line_offset[track]
    n_zones = tracks.line_offset[track + 1] - first
    x, y, z = cars.state[car, X], cars.state[car, Y], cars.state[car, Z]
    zone = advance_zone(
        cars.zone[car], x, y, z, tracks.line_centers, tracks.line_radius, first, n_zones
    )
    cars.zone[car] = zone
    if zone > cars.furthest_zone[car]:
        cars.furthest_zone[car] = zone
        cars.progress_ms[car] = cars.time_ms[car]
    cars.meters[car] = meters_along(
        zone,
        x,
        y,
        z,
        tracks.line_transitions,
        tracks.line_axes,
        tracks.line_segments,
        tracks.line_cumulative,
        first,
    )


@compiled
def _before_finish(finishes: Finishes, track: int, x: float, z: float) -> float:
    """Metres (horizontal) from the finish plane, < 0 before it."""
    dx, dz = x - finishes.point[track, 0], z - finishes.point[track, 2]
    return dx * finishes.direction[track, 0] + dz * finishes.direction[track, 2]


@compiled
def _has_finished(
    cars: Cars, car: int, tracks: PackedTracks, finishes: Finishes, before: float
) -> bool:
    track = cars.track[car]
    n_zones = tracks.line_offset[track + 1] - tracks.line_offset[track]
    if cars.furthest_zone[car] < n_zones - 1 - EXTENSION_ZONES - FINISH_ZONES:
        return False
    x, z = cars.state[car, X], cars.state[car, Z]
    if before >= 0.0 or _before_finish(finishes, track, x, z) < 0.0:
        return False
    dx, dz = x - finishes.point[track, 0], z - finishes.point[track, 2]
    return dx * dx + dz * dz <= FINISH_REACH_M * FINISH_REACH_M


@compiled
def _finish(cars: Cars, car: int, tracks: PackedTracks) -> None:
    track = cars.track[car]
    first = tracks.line_offset[track]
    zone = tracks.line_offset[track + 1] - first - EXTENSION_ZONES
    cars.finished[car] = True
    cars.zone[car] = zone
    cars.furthest_zone[car] = zone
    cars.progress_ms[car] = cars.time_ms[car]
    cars.meters[car] = tracks.line_cumulative[first + zone]


@compiled
def tick_car(
    cars: Cars,
    car: int,
    tracks: PackedTracks,
    finishes: Finishes,
    action: int,
    no_progress_ms: int,
    max_race_ms: int,
) -> None:
    """10 ms of one car. A car that has finished or was cut off stays as it is."""
    if cars.finished[car] or cars.truncated[car]:
        return
    track = cars.track[car]
    state = cars.state[car]
    before = _before_finish(finishes, track, state[X], state[Z])
    cars.road_index[car] = drive_tick(
        state,
        tracks,
        track,
        cars.road_index[car],
        int(ACTION_KEYS[action, 0]),
        int(ACTION_KEYS[action, 1]),
        int(ACTION_KEYS[action, 2]),
        int(ACTION_KEYS[action, 3]),
    )
    time_ms = cars.time_ms[car]
    cars.history[car, (time_ms // TICK_MS) % HISTORY_TICKS] = action
    time_ms += TICK_MS
    cars.time_ms[car] = time_ms
    if _has_finished(cars, car, tracks, finishes, before):
        _finish(cars, car, tracks)
        return
    # Every tick, so that observations between two actions (100 per second) are as fresh.
    _follow_line(cars, car, tracks)
    if time_ms % ACTION_MS == 0:
        shifting = state[SHIFT_LEFT_MS] > 0.0
        cars.gearbox_counter[car] = cars.gearbox_counter[car] + 1 if shifting else 0
        idle = time_ms - cars.progress_ms[car] > no_progress_ms
        cars.truncated[car] = idle or time_ms >= max_race_ms


@compiled
def _write_rotation(state: F64, rotation: F64) -> None:
    """Rows: the car's left, up and forward axes in the world."""
    sy, cy = math.sin(state[YAW]), math.cos(state[YAW])
    sp, cp = math.sin(state[PITCH]), math.cos(state[PITCH])
    sr, cr = math.sin(state[ROLL]), math.cos(state[ROLL])
    rotation[2, 0], rotation[2, 1], rotation[2, 2] = sy * cp, sp, cy * cp
    # Without roll: left is level and up leans back with the pitch.
    ux, uy, uz = -sy * sp, cp, -cy * sp
    rotation[0, 0], rotation[0, 1], rotation[0, 2] = cr * cy + sr * ux, sr * uy, sr * uz - cr * sy
    rotation[1, 0], rotation[1, 1], rotation[1, 2] = cr * ux - sr * cy, cr * uy, cr * uz + sr * sy


@compiled
def observe_car(
    cars: Cars, car: int, tracks: PackedTracks, out: F32, rotation: F64, vectors: F64
) -> None:
    """Writes the (184,) floats of one car; `rotation` (3, 3) and `vectors` (3, 3) are scratch."""
    state = cars.state[car]
    track = cars.track[car]
    first = tracks.line_offset[track]
    n_zones = tracks.line_offset[track + 1] - first
    out[layout.CLOCK] = 0.0
    ticks = cars.time_ms[car] // TICK_MS
    for k in range(_N_PREVIOUS):
        tick = ticks - (_N_PREVIOUS - k) * TICKS_PER_ACTION
        action = cars.history[car, tick % HISTORY_TICKS] if tick >= 0 else ACTION_FORWARD
        for key in range(4):
            out[_PREVIOUS + 4 * k + key] = ACTION_KEYS[action, key]
    contact = 1.0 - state[AIRBORNE]
    for wheel in range(N_WHEELS):
        out[_SLIDING + wheel] = state[SLIDING]
        out[_CONTACT + wheel] = contact
        out[_DAMPER + wheel] = state[FIRST_DAMPER + wheel]
        for group in range(N_SURFACES):
            touches = state[FIRST_SURFACE + wheel] == group
            out[_GROUPS + N_SURFACES * wheel + group] = 1.0 if touches else 0.0
    out[layout.GEARBOX_STATE] = 1.0 if state[SHIFT_LEFT_MS] > 0.0 else 0.0
    out[layout.GEAR] = state[GEAR]
    out[layout.RPM] = state[RPM]
    out[layout.GEARBOX_COUNTER] = cars.gearbox_counter[car]
    _write_rotation(state, rotation)
    position, velocity, angular = vectors[0], vectors[1], vectors[2]
    position[0], position[1], position[2] = state[X], state[Y], state[Z]
    velocity[0], velocity[1], velocity[2] = state[VX], state[VY], state[VZ]
    # Nose up turns about the right, left side up about the forward axis, yaw about the world's up.
    for axis in range(3):
        angular[axis] = state[ROLL_RATE] * rotation[2, axis] - state[PITCH_RATE] * rotation[0, axis]
    angular[1] += state[YAW_RATE]
    write_motion(out, rotation, velocity, angular)
    write_waypoints(out, position, rotation, cars.zone[car], tracks.line_centers, first)
    out[layout.MARGIN] = margin_to_finish(cars.meters[car], tracks.line_cumulative, first, n_zones)
    out[layout.FREEWHEELING] = 0.0


@compiled
def tick_cars(
    cars: Cars,
    tracks: PackedTracks,
    finishes: Finishes,
    actions: U8,
    ticks: int,
    no_progress_ms: int,
    max_race_ms: int,
) -> None:
    """`ticks` times 10 ms of every car, each holding its action."""
    for car in range(len(actions)):
        for _ in range(ticks):
            tick_car(cars, car, tracks, finishes, actions[car], no_progress_ms, max_race_ms)


@compiled
def observe_cars(cars: Cars, tracks: PackedTracks, floats: F32) -> None:
    """Writes the floats (B, 184) of every car."""
    rotation, vectors = np.empty((3, 3)), np.empty((3, 3))
    for car in range(len(floats)):
        observe_car(cars, car, tracks, floats[car], rotation, vectors)
