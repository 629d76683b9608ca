"""The search's inner loops: a lap, a beam of laps driven side by side, small changes of one lap.

They call the simulator's own tick, so a lap found here is the same bit for bit in a `RaceBatch`.
All compiled routines are in this file, because numba's cache looks only at the file of the routine
itself: one that inlines a routine of another file would go on with its old code.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, N_ACTIONS, TICKS_PER_ACTION
from rl.envs.jit import compiled
from rl.envs.sim.car import ROAD_D, ROAD_S, SLIDING, STEER, VX, VZ, YAW, X, Z
from rl.envs.sim.physics import drive_tick
from rl.envs.sim.pilot import hash_unit
from rl.envs.sim.race import FINISH_REACH_M
from rl.envs.sim.road import LEFT_X, LEFT_Z

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]

NEVER: Final = 1e9
"""Ticks that stand for a finish that was not reached."""

# Columns of the profile of a lap, one row per road section.
AT_TICK: Final = 0  # race time at which the lap passes the section, ticks
SPEED: Final = 1  # m/s along the heading
OFFSET: Final = 2  # metres from the road's middle, left > 0
ANGLE: Final = 3  # sine of the heading relative to the road, left > 0
PROFILE_SIZE: Final = 4

_GAS_ACTIONS: Final = 3  # the first actions: accelerate straight on, to the left, to the right
_STEER_LEVELS: Final = 5
_EMPTY: Final = -1


class Circuit(NamedTuple):
    """What a lap needs of its track.

    Attributes:
        road: (M, 12) float64, the road's sections, see `rl.envs.sim.road.ground_table`.
        finish: (4,) x and z of the finish, then its direction's x and z.
        finish_from: road section before which the finish does not count.
    """

    road: F64
    finish: F64
    finish_from: int


class Layer(NamedTuple):
    """N cars of a beam at the same race time; rows beyond the count are unused.

    Attributes:
        states: (N, STATE_SIZE) float64.
        rows: (N,) road section of each car.
        values: (N,) estimated seconds ahead of the reference lap.
        parents: (N,) index in the layer before.
        actions: (N,) uint8, the action that led here.
        keys: (N,) cell of each car.
    """

    states: F64
    rows: I64
    values: F64
    parents: I32
    actions: U8
    keys: I64


class Grid(NamedTuple):
    """Cells in which the beam keeps its best car, around the reference lap.

    Attributes:
        reach: (3,) greatest distance from the reference in m, sine of the angle and m/s.
        cell: (3,) size of a cell in the same units.
        shift: (3,) offset of the cells, share of a cell.
        speed_worth_s: estimated seconds that 1 m/s more is worth, within 1.5 m/s.
        window_s: cars whose value is lower than the best by more than this are dropped.
        other_share: share of the actions that coast or brake which are tried.
        seed: of the choice among them.
    """

    reach: F64
    cell: F64
    shift: F64
    speed_worth_s: float
    window_s: float
    other_share: float
    seed: np.uint64


@compiled
def _beyond(finish: F64, state: F64) -> float:
    """Metres (horizontal) beyond the finish plane."""
    return float((state[X] - finish[0]) * finish[2] + (state[Z] - finish[1]) * finish[3])


@compiled
def drive_slot(state: F64, row: int, action: int, circuit: Circuit) -> tuple[int, float]:
    """Hold an action for 50 ms, or until the finish.

    Returns:
        The new road section, and the ticks until the finish plane, interpolated within the tick
        that crosses it; `NEVER` if it was not crossed.
    """
    finish = circuit.finish
    accelerate, brake = int(ACTION_KEYS[action, 0]), int(ACTION_KEYS[action, 1])
    left, right = int(ACTION_KEYS[action, 2]), int(ACTION_KEYS[action, 3])
    for tick in range(TICKS_PER_ACTION):
        before = _beyond(finish, state)
        row = drive_tick(state, circuit.road, row, accelerate, brake, left, right)
        if before < 0.0 and row >= circuit.finish_from:
            after = _beyond(finish, state)
            dx, dz = state[X] - finish[0], state[Z] - finish[1]
            if after >= 0.0 and dx * dx + dz * dz <= FINISH_REACH_M * FINISH_REACH_M:
                return row, tick + before / (before - after)
    return row, NEVER


@compiled
def _look(state: F64, row: int, road: F64, seen: F64) -> None:
    """Fill speed, offset and angle of a car."""
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    seen[SPEED] = state[VX] * sin_yaw + state[VZ] * cos_yaw
    seen[OFFSET] = state[ROAD_D]
    seen[ANGLE] = sin_yaw * road[row, LEFT_X] + cos_yaw * road[row, LEFT_Z]


@compiled
def drive_lap(
    start: F64, start_row: int, actions: U8, circuit: Circuit, states: F64, rows: I64, profile: F64
) -> float:
    """Drive a lap and keep what the search needs of it.

    Args:
        start: (STATE_SIZE,) the car at the start, on section `start_row`.
        actions: (T,) one action per 50 ms.
        states: (T + 1, STATE_SIZE) filled with the car before each action.
        rows: (T + 1,) filled with its road section.
        profile: (M, PROFILE_SIZE) filled for the sections that the lap passes.

    Returns:
        Ticks until the finish, `NEVER` if the lap does not reach it.
    """
    state, seen, before = start.copy(), np.zeros(PROFILE_SIZE), np.zeros(PROFILE_SIZE)
    row, filled = start_row, start_row
    last_s = state[ROAD_S]
    _look(state, row, circuit.road, before)
    for slot in range(len(actions)):
        states[slot], rows[slot] = state, row
        row, ticks = drive_slot(state, row, int(actions[slot]), circuit)
        if ticks < NEVER:
            return slot * TICKS_PER_ACTION + ticks
        _look(state, row, circuit.road, seen)
        s = state[ROAD_S]
        while filled + 1 <= s and s > last_s:
            filled += 1
            passed = max((filled - last_s) / (s - last_s), 0.0)
            profile[filled, AT_TICK] = (slot + passed) * TICKS_PER_ACTION
            for column in range(SPEED, PROFILE_SIZE):
                change = seen[column] - before[column]
                profile[filled, column] = before[column] + passed * change
        last_s = max(s, last_s)
        before[:] = seen
    states[len(actions)], rows[len(actions)] = state, row
    return NEVER


@compiled
def _cell_key(state: F64, seen: F64, profile: F64, s: float, grid: Grid) -> int:
    """Return the cell of a car, `_EMPTY` outside the grid."""
    a = int(s)
    u = s - a
    key = int((state[STEER] + 1.0) * 0.5 * (_STEER_LEVELS - 1) + 0.5)
    key = 2 * key + int(state[SLIDING])
    columns = (OFFSET, ANGLE, SPEED)
    for i in range(3):
        column = columns[i]
        here = profile[a, column] + u * (profile[a + 1, column] - profile[a, column])
        away = seen[column] - here
        if abs(away) > grid.reach[i]:
            return _EMPTY
        index = math.floor((away + grid.reach[i]) / grid.cell[i] + grid.shift[i])
        key = key * 1024 + min(index, 1023)
    return key


@compiled
def _value_s(seen: F64, profile: F64, s: float, tick: float, grid: Grid) -> float:
    """Return the estimated seconds by which a car is ahead of the reference lap."""
    a = int(s)
    u = s - a
    at = profile[a, AT_TICK] + u * (profile[a + 1, AT_TICK] - profile[a, AT_TICK])
    speed = profile[a, SPEED] + u * (profile[a + 1, SPEED] - profile[a, SPEED])
    faster = min(max(seen[SPEED] - speed, -1.5), 1.5)
    return float((at - tick) * 0.01 + grid.speed_worth_s * faster)


@compiled
def _slot_of_key(table: I32, keys: I64, key: int) -> int:
    """Return the entry of `key` in an open-addressed table, or the free entry for it."""
    mask = len(table) - 1
    entry = (key * 0x9E3779B1 >> 8) & mask
    while table[entry] != _EMPTY and keys[table[entry]] != key:
        entry = (entry + 1) & mask
    return entry


@compiled
def _place_of(key: int, value: float, table: I32, following: Layer, filled: int) -> int:
    """Return where a car goes, `_EMPTY` if its cell has one as good or no place is left."""
    entry = _slot_of_key(table, following.keys, key)
    place: int = table[entry]
    if place != _EMPTY:
        return place if value > following.values[place] else _EMPTY
    if filled < len(following.values):
        table[entry] = place = filled
    return place


@compiled
def expand_layer(
    slot: int,
    count: int,
    layer: Layer,
    following: Layer,
    table: I32,
    profile: F64,
    circuit: Circuit,
    grid: Grid,
    best: F64,
) -> tuple[int, int]:
    """Drive every car of a layer with its actions for 50 ms; each cell keeps its best car.

    Args:
        slot: index of the layer, race time in units of 50 ms.
        count: cars of `layer`.
        following: filled.
        table: (power of two,) work space.
        profile: of the reference lap.
        best: (3,) ticks of the fastest finish, with its parent and action; improved in place.

    Returns:
        Cars of the following layer, and the slots that were driven.
    """
    table[:] = _EMPTY
    seen, state = np.zeros(PROFILE_SIZE), np.zeros(layer.states.shape[1])
    filled, driven, top = 0, 0, -NEVER
    last = len(profile) - 2
    for car in range(count):
        for action in range(N_ACTIONS):
            if action >= _GAS_ACTIONS:
                draw = np.uint64((slot * len(layer.values) + car) * N_ACTIONS + action)
                if hash_unit(grid.seed, draw) >= grid.other_share:
                    continue
            state[:] = layer.states[car]
            row, ticks = drive_slot(state, layer.rows[car], action, circuit)
            driven += 1
            if ticks < NEVER:
                if slot * TICKS_PER_ACTION + ticks < best[0]:
                    best[0] = slot * TICKS_PER_ACTION + ticks
                    best[1], best[2] = car, action
                continue
            s = min(state[ROAD_S], float(last))
            _look(state, row, circuit.road, seen)
            value = _value_s(seen, profile, s, (slot + 1.0) * TICKS_PER_ACTION, grid)
            if value < top - grid.window_s:
                continue
            key = _cell_key(state, seen, profile, s, grid)
            if key == _EMPTY:
                continue
            place = _place_of(key, value, table, following, filled)
            if place == _EMPTY:
                continue
            filled, top = max(filled, place + 1), max(top, value)
            following.states[place] = state
            following.rows[place], following.values[place] = row, value
            following.parents[place], following.actions[place] = car, action
            following.keys[place] = key
    return filled, driven


@compiled
def keep_best(count: int, most: int, layer: Layer) -> int:
    """Move the `most` cars of the highest values to the front; return how many there are."""
    if count <= most:
        return count
    limit = np.partition(layer.values[:count].copy(), count - most)[count - most]
    kept = 0
    for car in range(count):
        if layer.values[car] >= limit and kept < most:
            if kept != car:
                layer.states[kept] = layer.states[car]
                layer.rows[kept], layer.values[kept] = layer.rows[car], layer.values[car]
                layer.parents[kept], layer.actions[kept] = layer.parents[car], layer.actions[car]
            kept += 1
    return kept
