"""A car's race around the physics: keys, zones, finish and cut-offs.

Compiled for one car; `tick_cars` only loops over them. Arrays are handed on one by one, not as
tuples: counting references on each call would cost more than the physics.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import (
    ACTION_FORWARD,
    ACTION_KEYS,
    ACTION_MS,
    TICK_MS,
    TICKS_PER_ACTION,
)
from datasets.contract.floats import N_PREVIOUS_ACTIONS
from datasets.contract.line import EXTENSION_ZONES, START_ZONE
from rl.envs.jit import compiled
from rl.envs.observation import advance_zone, meters_along
from rl.envs.sim.car import SHIFT_LEFT_MS, X, Y, Z
from rl.envs.sim.physics import drive_tick

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

HISTORY_TICKS: Final = N_PREVIOUS_ACTIONS * TICKS_PER_ACTION
FINISH_REACH_M: Final = 45.0
FINISH_ZONES: Final = 200  # the finish counts only for a car that has come this near along the line


class Cars(NamedTuple):
    """Everything that a batch of B cars is: one row per car."""

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


class TrackTables(NamedTuple):
    """What T tracks are to a race: ground, line and finish. Row ranges as in `PackedTracks`."""

    ground: F64  # (R, 12) see `rl.envs.sim.road.ground_table`
    ground_offset: I64  # (T + 1,)
    centers: F64
    radius: F64
    transitions: F64
    axes: F64
    segments: F64
    cumulative: F64
    line_offset: I64  # (T + 1,)
    finish: F64  # (T, 4) x and z of the finish, then its direction's x and z


def some_cars(cars: Cars, chosen: I64) -> Cars:
    """Return copies of the rows `chosen` (k,)."""
    return Cars._make(array[chosen] for array in cars)


class CutOffs(NamedTuple):
    """When a race is cut off, ms."""

    no_progress_ms: int
    max_race_ms: int


@compiled
def _beyond_finish(finish: F64, state: F64) -> float:
    """Metres (horizontal) beyond the finish plane."""
    return float((state[X] - finish[0]) * finish[2] + (state[Z] - finish[1]) * finish[3])


@compiled
def _near_finish(finish: F64, state: F64) -> bool:
    dx, dz = state[X] - finish[0], state[Z] - finish[1]
    return bool(dx * dx + dz * dz <= FINISH_REACH_M * FINISH_REACH_M)


@compiled
def follow_line(cars: Cars, course: TrackTables) -> None:
    """Find zone and metres of cars that were just placed."""
    for car in range(len(cars.track)):
        first = course.line_offset[cars.track[car]]
        n_zones = course.line_offset[cars.track[car] + 1] - first
        x, y, z = cars.state[car, X], cars.state[car, Y], cars.state[car, Z]
        zone = advance_zone(START_ZONE, x, y, z, course.centers, course.radius, first, n_zones)
        cars.zone[car] = zone
        cars.furthest_zone[car] = zone
        cars.meters[car] = meters_along(
            zone,
            x,
            y,
            z,
            course.transitions,
            course.axes,
            course.segments,
            course.cumulative,
            first,
        )


@compiled
def _tick_car(
    car: int,
    ticks: int,
    action: int,
    limits: CutOffs,
    cars: Cars,
    course: TrackTables,
) -> None:
    """Drive one car; a car that has finished or was cut off stays as it is."""
    if cars.finished[car] or cars.truncated[car]:
        return
    track = cars.track[car]
    state, history = cars.state[car], cars.history[car]
    road = course.ground[course.ground_offset[track] : course.ground_offset[track + 1]]
    finish = course.finish[track]
    centers, radius = course.centers, course.radius
    first = course.line_offset[track]
    n_zones = course.line_offset[track + 1] - first
    near_end = n_zones - 1 - EXTENSION_ZONES - FINISH_ZONES
    row, zone, furthest = cars.road_index[car], cars.zone[car], cars.furthest_zone[car]
    time_ms, progress_ms = int(cars.time_ms[car]), cars.progress_ms[car]
    accelerate, brake = int(ACTION_KEYS[action, 0]), int(ACTION_KEYS[action, 1])
    left, right = int(ACTION_KEYS[action, 2]), int(ACTION_KEYS[action, 3])
    finished = False
    for _ in range(ticks):
        before = _beyond_finish(finish, state)
        row = drive_tick(state, road, row, accelerate, brake, left, right)
        history[(time_ms // TICK_MS) % HISTORY_TICKS] = action
        time_ms += TICK_MS
        crosses = before < 0.0 and _beyond_finish(finish, state) >= 0.0
        if crosses and furthest >= near_end and _near_finish(finish, state):
            finished = True
            zone = n_zones - EXTENSION_ZONES
            furthest = zone
            break
        # Every tick, so that observations between two actions (100 per second) are as fresh.
        zone = advance_zone(zone, state[X], state[Y], state[Z], centers, radius, first, n_zones)
        if zone > furthest:
            furthest, progress_ms = zone, time_ms
        if time_ms % ACTION_MS == 0:
            shifting = state[SHIFT_LEFT_MS] > 0.0
            cars.gearbox_counter[car] = cars.gearbox_counter[car] + 1 if shifting else 0
            if time_ms - progress_ms > limits.no_progress_ms or time_ms >= limits.max_race_ms:
                cars.truncated[car] = True
                break
    cars.finished[car] = finished
    cars.road_index[car] = row
    cars.zone[car] = zone
    cars.furthest_zone[car] = furthest
    cars.time_ms[car] = time_ms
    cars.progress_ms[car] = progress_ms
    if finished:
        cars.meters[car] = course.cumulative[first + zone]
    else:
        cars.meters[car] = meters_along(
            zone,
            state[X],
            state[Y],
            state[Z],
            course.transitions,
            course.axes,
            course.segments,
            course.cumulative,
            first,
        )


@compiled
def tick_cars(cars: Cars, course: TrackTables, actions: U8, ticks: int, limits: CutOffs) -> None:
    """`ticks` times 10 ms of every car, each holding its action (B,)."""
    for car in range(len(actions)):
        _tick_car(car, ticks, int(actions[car]), limits, cars, course)


def clear_race(cars: Cars, car: int) -> None:
    """Race time 0: nothing driven yet."""
    cars.time_ms[car] = 0
    cars.progress_ms[car] = 0
    cars.finished[car] = False
    cars.truncated[car] = False
    cars.gearbox_counter[car] = 0
    cars.history[car, :] = ACTION_FORWARD
