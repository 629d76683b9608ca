"""One 10 ms tick of one car.

The car is kinematic in world coordinates (y up): horizontal velocity, a heading with lag, a lateral
tyre force limited by grip, a height that follows the road or flies.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import TICK_MS
from datasets.contract.surfaces import DIRT, GRASS, TURBO
from rl.envs.jit import compiled
from rl.envs.sim.car import (
    AIRBORNE,
    AT_WALL,
    BRAKING,
    CAR,
    FIRST_DAMPER,
    FIRST_SURFACE,
    GEAR,
    GEAR_TOP_SPEED,
    GRADE,
    GROUND_Y,
    N_WHEELS,
    PITCH,
    PITCH_RATE,
    ROLL,
    ROLL_RATE,
    RPM,
    SHIFT_LEFT_MS,
    SLIDING,
    STEER,
    TICK_S,
    TURBO_LEFT_MS,
    VX,
    VY,
    VZ,
    YAW,
    YAW_RATE,
    X,
    Y,
    Z,
)
from rl.envs.sim.contact import hold_between_walls, project
from rl.envs.sim.road import LEFT_X, LEFT_Z

F64 = npt.NDArray[np.float64]


@compiled
def _steering(state: F64, left: int, right: int) -> None:
    target = float(left) - float(right)
    step = CAR.steer_rate * TICK_S
    steer = state[STEER]
    if steer < target:
        state[STEER] = min(target, steer + step)
    else:
        state[STEER] = max(target, steer - step)


@compiled
def _gearbox(state: F64, speed: float) -> float:
    """Update gear and revs; return the share of the engine's force that reaches the wheels."""
    if state[SHIFT_LEFT_MS] > 0.0:
        state[SHIFT_LEFT_MS] -= TICK_MS
    gear = int(state[GEAR])
    if speed < -0.5:
        gear = 0
    elif gear == 0:
        gear = 1
    elif state[SHIFT_LEFT_MS] <= 0.0:
        wanted = gear
        if gear < 5 and speed > 0.97 * GEAR_TOP_SPEED[gear]:
            wanted = gear + 1
        elif gear > 1 and speed < 0.8 * GEAR_TOP_SPEED[gear - 1]:
            wanted = gear - 1
        if wanted != gear:
            gear = wanted
            state[SHIFT_LEFT_MS] = CAR.shift_ms
    state[GEAR] = gear
    revs = min(abs(speed) / GEAR_TOP_SPEED[gear], 1.0)
    state[RPM] = CAR.idle_rpm + (CAR.max_rpm - CAR.idle_rpm) * revs
    return CAR.shift_power if state[SHIFT_LEFT_MS] > 0.0 else 1.0


@compiled
def _longitudinal(state: F64, v: float, accelerate: int, brake: int, drag: float) -> float:
    """Forward speed after one tick on the ground, from forward speed `v`."""
    transmission = _gearbox(state, v)
    push = 0.0
    if accelerate:
        push += transmission * min(CAR.engine_accel, CAR.engine_power / max(abs(v), 1.0))
    if state[TURBO_LEFT_MS] > 0.0:
        push += CAR.turbo_accel
        state[TURBO_LEFT_MS] -= TICK_MS
    resistance = CAR.rolling_drag + drag + CAR.air_drag * v * v
    if brake and (v > 0.5 or accelerate):
        resistance += CAR.brake * (CAR.gas_brake if accelerate else 1.0)
    elif brake:
        if v > -CAR.reverse_speed:
            push -= CAR.reverse_accel
    elif not accelerate:
        resistance += CAR.coast_drag
    v += push * TICK_S
    # Resistance stops the car, it never drives it backwards.
    if v > 0.0:
        return max(0.0, v - resistance * TICK_S)
    return min(0.0, v + resistance * TICK_S)


@compiled
def _ground_forces(state: F64, accelerate: int, brake: int, sin_yaw: float, cos_yaw: float) -> None:
    """One tick of engine, brakes, steering and tyres."""
    grip, drag, turbo = 0.0, 0.0, False
    forward = state[VX] * sin_yaw + state[VZ] * cos_yaw
    lateral = state[VX] * cos_yaw - state[VZ] * sin_yaw
    speed = abs(forward)
    for wheel in range(N_WHEELS):
        surface = state[FIRST_SURFACE + wheel]
        if surface == GRASS:
            grip += 0.25 * CAR.grass_grip
            drag += 0.25 * (CAR.grass_drag + CAR.grass_speed_drag * speed)
        elif surface == DIRT:
            grip += 0.25 * CAR.dirt_grip
            drag += 0.25 * CAR.dirt_drag
        else:
            grip += 0.25
            turbo = turbo or surface == TURBO
    if turbo:
        state[TURBO_LEFT_MS] = CAR.turbo_ms
    yaw_target = min(speed / CAR.turn_radius, CAR.max_yaw_rate)
    if state[AT_WALL] > 0.0:  # steering turns a car that a wall holds, or it could only reverse
        yaw_target = max(yaw_target, CAR.wall_turn_rate)
    yaw_target = min(yaw_target, CAR.over_steer * CAR.grip / max(speed, 1.0)) * state[STEER]
    if forward < -0.5:
        yaw_target = -yaw_target
    limit = CAR.grip * grip
    if brake and abs(state[STEER]) > 0.3 and forward > CAR.drift_speed:
        limit *= CAR.drift_grip
        yaw_target *= CAR.drift_yaw
    state[YAW_RATE] += (yaw_target - state[YAW_RATE]) * (TICK_S / CAR.yaw_lag_s)

    asked = abs(lateral) / CAR.lateral_tau_s
    if state[SLIDING] > 0.0:
        limit *= CAR.slide_grip
        state[SLIDING] = 1.0 if asked > CAR.slide_end * limit else 0.0
    else:
        state[SLIDING] = 1.0 if asked > limit else 0.0
    push = min(asked, limit) * TICK_S
    lateral += push if lateral < 0.0 else -push
    forward = _longitudinal(state, forward, accelerate, brake, drag)
    state[VX] = forward * sin_yaw + lateral * cos_yaw
    state[VZ] = forward * cos_yaw - lateral * sin_yaw
    _dampers(state, push / TICK_S if lateral < 0.0 else -push / TICK_S)


@compiled
def _dampers(state: F64, cornering: float) -> None:
    """Load moves to the outer wheels; `cornering` is the acceleration to the left."""
    for wheel in range(N_WHEELS):
        side = 1.0 if wheel % 2 == 0 else -1.0
        wanted = CAR.damper_rest - 0.0006 * side * cornering
        now = state[FIRST_DAMPER + wheel]
        state[FIRST_DAMPER + wheel] = min(max(now + 0.25 * (wanted - now), 0.005), 0.15)


@compiled
def _angle(slope: float) -> float:
    return 0.0 if slope == 0.0 else math.atan(slope)  # most of the ground is level


@compiled
def _height(state: F64, sin_yaw: float, cos_yaw: float, gx: float, gz: float) -> None:
    """Follows the ground or flies; (gx, gz) is the ground's gradient."""
    climb = gx * state[VX] + gz * state[VZ]
    state[VY] -= CAR.gravity * TICK_S
    state[Y] += state[VY] * TICK_S
    ground = state[GROUND_Y]
    if state[Y] <= ground:
        impact = climb - state[VY]
        state[Y] = ground
        state[VY] = max(state[VY], climb)
        if state[AIRBORNE] > 0.0:
            for wheel in range(N_WHEELS):
                state[FIRST_DAMPER + wheel] = min(0.15, CAR.damper_rest + 0.012 * impact)
    in_air = state[Y] > ground + CAR.wheel_travel
    state[AIRBORNE] = 1.0 if in_air else 0.0
    if in_air:
        flat = math.sqrt(state[VX] * state[VX] + state[VZ] * state[VZ])
        pitch = 0.6 * state[VY] / max(flat, 15.0)
        roll, lag = 0.0, CAR.air_pitch_lag_s
        for wheel in range(N_WHEELS):
            state[FIRST_DAMPER + wheel] = 0.005
    else:
        pitch = _angle(gx * sin_yaw + gz * cos_yaw)
        roll = _angle(gx * cos_yaw - gz * sin_yaw)
        lag = CAR.pitch_lag_s
    state[PITCH_RATE] = (pitch - state[PITCH]) / lag
    state[ROLL_RATE] = (roll - state[ROLL]) / lag
    state[PITCH] += state[PITCH_RATE] * TICK_S
    state[ROLL] += state[ROLL_RATE] * TICK_S


@compiled
def drive_tick(
    state: F64, road: F64, row: int, accelerate: int, brake: int, left: int, right: int
) -> int:
    """Advances one car by 10 ms.

    Args:
        state: (STATE_SIZE,) row of this car, changed in place.
        road: (M, 12) the car's own road, see `rl.envs.sim.road.ground_table`.
        row: road row from the last tick, within the car's own road.

    Returns:
        The new road row.
    """
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    _steering(state, left, right)
    state[BRAKING] = float(brake)
    if state[AIRBORNE] > 0.0:
        state[SLIDING] = 0.0
        _gearbox(state, state[VX] * sin_yaw + state[VZ] * cos_yaw)
        state[YAW_RATE] *= 1.0 - TICK_S / CAR.air_yaw_lag_s
        state[TURBO_LEFT_MS] = max(0.0, state[TURBO_LEFT_MS] - TICK_MS)
    else:
        _ground_forces(state, accelerate, brake, sin_yaw, cos_yaw)
        pull = CAR.gravity * state[GRADE] / (1.0 + state[GRADE] * state[GRADE]) * TICK_S
        state[VX] += pull * road[row, LEFT_Z]
        state[VZ] -= pull * road[row, LEFT_X]
    state[YAW] += state[YAW_RATE] * TICK_S
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    state[X] += state[VX] * TICK_S
    state[Z] += state[VZ] * TICK_S
    row = project(state, road, row, sin_yaw, cos_yaw)
    row = hold_between_walls(state, road, row, sin_yaw, cos_yaw)
    grade = state[GRADE]
    _height(state, sin_yaw, cos_yaw, -grade * road[row, LEFT_Z], grade * road[row, LEFT_X])
    return row


@compiled
def place(state: F64, road: F64, row: int, x: float, z: float, yaw: float, speed: float) -> int:
    """Put a car on the ground at (x, z), rolling forward at `speed`; return its road row."""
    state[:] = 0.0
    state[X], state[Z], state[YAW] = x, z, yaw
    sin_yaw, cos_yaw = math.sin(yaw), math.cos(yaw)
    row = project(state, road, row, sin_yaw, cos_yaw)
    gx = -state[GRADE] * road[row, LEFT_Z]
    gz = state[GRADE] * road[row, LEFT_X]
    state[VX], state[VZ] = speed * sin_yaw, speed * cos_yaw
    state[VY] = gx * state[VX] + gz * state[VZ]
    state[Y] = state[GROUND_Y]
    state[PITCH] = math.atan(gx * sin_yaw + gz * cos_yaw)
    state[ROLL] = math.atan(gx * cos_yaw - gz * sin_yaw)
    state[GEAR] = 1.0
    state[RPM] = CAR.idle_rpm
    state[FIRST_DAMPER : FIRST_DAMPER + N_WHEELS] = CAR.damper_rest
    return row
