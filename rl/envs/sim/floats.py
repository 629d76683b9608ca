"""Writes the 184 floats of a car in the simulator."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from datasets.contract import floats as layout
from datasets.contract.actions import ACTION_FORWARD, ACTION_KEYS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.surfaces import N_SURFACES
from rl.envs.jit import compiled
from rl.envs.observation import margin_to_finish, write_motion, write_waypoints
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
from rl.envs.sim.race import HISTORY_TICKS, Cars, TrackTables

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_PREVIOUS = layout.PREVIOUS_ACTIONS.start
_N_PREVIOUS = layout.N_PREVIOUS_ACTIONS
_SLIDING = layout.WHEEL_SLIDING.start
_CONTACT = layout.WHEEL_CONTACT.start
_DAMPER = layout.WHEEL_DAMPER.start
_GROUPS = layout.CONTACT_GROUPS.start


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
def _write_previous_actions(out: F32, history: U8, time_ms: int) -> None:
    ticks = time_ms // TICK_MS
    for k in range(_N_PREVIOUS):
        tick = ticks - (_N_PREVIOUS - k) * TICKS_PER_ACTION
        action = int(history[tick % HISTORY_TICKS]) if tick >= 0 else ACTION_FORWARD
        for key in range(4):
            out[_PREVIOUS + 4 * k + key] = ACTION_KEYS[action, key]


@compiled
def _write_wheels(out: F32, state: F64) -> None:
    contact = 1.0 - state[AIRBORNE]
    for wheel in range(N_WHEELS):
        out[_SLIDING + wheel] = state[SLIDING]
        out[_CONTACT + wheel] = contact
        out[_DAMPER + wheel] = state[FIRST_DAMPER + wheel]
        for group in range(N_SURFACES):
            touches = state[FIRST_SURFACE + wheel] == group
            out[_GROUPS + N_SURFACES * wheel + group] = 1.0 if touches else 0.0


@compiled
def _write_car(out: F32, state: F64, rotation: F64, vectors: F64) -> None:
    out[layout.CLOCK] = 0.0
    out[layout.GEARBOX_STATE] = 1.0 if state[SHIFT_LEFT_MS] > 0.0 else 0.0
    out[layout.GEAR] = state[GEAR]
    out[layout.RPM] = state[RPM]
    out[layout.FREEWHEELING] = 0.0
    _write_wheels(out, state)
    _write_rotation(state, rotation)
    position, velocity, angular = vectors[0], vectors[1], vectors[2]
    position[0], position[1], position[2] = state[X], state[Y], state[Z]
    velocity[0], velocity[1], velocity[2] = state[VX], state[VY], state[VZ]
    # Nose up turns about the right, left side up about the forward axis, yaw about the world's up.
    for axis in range(3):
        angular[axis] = state[ROLL_RATE] * rotation[2, axis] - state[PITCH_RATE] * rotation[0, axis]
    angular[1] += state[YAW_RATE]
    write_motion(out, rotation, velocity, angular)


@compiled
def observe_cars(cars: Cars, course: TrackTables, floats: F32) -> None:
    """Write the floats (B, 184) of every car; the layout is `datasets.contract.floats`."""
    rotation, vectors = np.empty((3, 3)), np.empty((3, 3))
    centers, cumulative = course.centers, course.cumulative
    for car in range(len(floats)):
        out, state = floats[car], cars.state[car]
        first = course.line_offset[cars.track[car]]
        n_zones = course.line_offset[cars.track[car] + 1] - first
        _write_previous_actions(out, cars.history[car], cars.time_ms[car])
        _write_car(out, state, rotation, vectors)
        out[layout.GEARBOX_COUNTER] = cars.gearbox_counter[car]
        write_waypoints(out, vectors[0], rotation, cars.zone[car], centers, first)
        out[layout.MARGIN] = margin_to_finish(cars.meters[car], cumulative, first, n_zones)
