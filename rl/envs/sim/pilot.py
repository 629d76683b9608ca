"""One scripted driver's decision: which of the four keys to press, from the car and its course.

Steering is bang-bang. For each key the next tenth of a second is predicted with the car's own
steering, yaw and tyre model, and the key is taken after which the car points best at its path; a
key already held has a bonus, and no key is changed again at once, so that presses are decisive.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import KEYS_TO_ACTION
from datasets.contract.surfaces import DIRT, GRASS
from rl.envs.jit import compiled
from rl.envs.sim.car import (
    AIRBORNE,
    CAR,
    FIRST_SURFACE,
    N_WHEELS,
    ROAD_S,
    SLIDING,
    STEER,
    VX,
    VZ,
    YAW,
    YAW_RATE,
    X,
    Z,
)
from rl.envs.sim.path_solver import wrap_angle
from rl.envs.sim.speed_profile import Course

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# Columns of a driver's memory.
HELD_STEER: Final = 0  # -1 right, 0, 1 left
STEER_AGE: Final = 1  # ticks since the steering key changed
HELD_GAS: Final = 2
HELD_BRAKE: Final = 3
STUCK: Final = 4  # ticks without moving
REVERSE: Final = 5  # ticks of reversing left
WAITING: Final = 6  # first of the actions decided but not yet pressed, a ring
MAX_DELAY: Final = 16
MEMORY_SIZE: Final = WAITING + MAX_DELAY

_SLIP_FREE: Final = 1.0
_SLIP_COST_RAD: Final = 0.15
_SPIN_SLIP: Final = 0.45
_GAS_BAND_MPS: Final = 0.6  # below the limit by this much before the gas is pressed again
_RETURN_SHARE: Final = 0.8
_STEEPEST_RAD: Final = 0.6
_ASTRAY_RAD: Final = 1.3
_KEY_STEPS: Final = 5  # a key is judged as if held for this many predicted steps
_LOST_RAD: Final = 0.2  # a predicted error above it: lift off; above twice as much: brake
_DRIFT_OVER_MPS: Final = 3.0  # too fast by this much: brake even in a bend, and drift
_STEP_S: Final = 0.02


class Traits(NamedTuple):
    """One run's driver, in numbers; constant over the run."""

    delay_ticks: int  # from seeing to pressing
    hold_ticks: int  # least time between changes of the steering key
    stick_s: float  # a key already held may be worse by this long a turn at full lock
    reach_s: float  # a lateral error is steered off within this time
    brake_over_mps: float  # the brake is pressed this far above the limit
    look_s: float  # the limit is read this far ahead
    slip_rate: float  # share of decisions at which a wrong key is begun
    seed: np.uint64


class Aim(NamedTuple):
    """A steering key (-1 right, 0 none, 1 left) and the error in radians that it leaves."""

    key: int
    error: float


class Motion(NamedTuple):
    """A car's motion relative to its course."""

    along: float  # road row and fraction
    aside: float  # metres left of the path
    yaw: float  # radians, within a turn of the path's heading
    forward: float  # m/s, in the car's frame
    lateral: float  # m/s, in the car's frame, left > 0
    yaw_rate: float  # rad/s
    steer: float  # -1 to 1
    tyre_limit: float  # m/s^2 of cornering that the tyres hold now
    grip: float  # share of the grip on asphalt


@compiled
def hash_unit(seed: np.uint64, counter: np.uint64) -> float:
    """Return a uniform number in [0, 1) from a seed and a counter (splitmix64)."""
    z = seed + counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    unit: float = np.float64(z >> np.uint64(11)) / 9007199254740992.0
    return unit


@compiled
def _full_lock(forward: float) -> float:
    """Yaw rate in rad/s that full lock asks for at a speed in m/s."""
    most = min(abs(forward) / CAR.turn_radius, CAR.max_yaw_rate)
    return min(most, CAR.over_steer * CAR.grip / max(abs(forward), 1.0))


@compiled
def _aim_error(
    course: Course,
    motion: Motion,
    held: float,
    held_steps: int,
    key: float,
    key_steps: int,
    reach_s: float,
) -> float:
    """How far, in radians, the car will point from where it should, after two keys.

    `held` is pressed for `held_steps` predicted steps, then `key` for `key_steps`.
    """
    along, aside, yaw = motion.along, motion.aside, motion.yaw
    forward, lateral, yaw_rate = motion.forward, motion.lateral, motion.yaw_rate
    steer, limit = motion.steer, motion.tyre_limit
    last = course.heading.shape[0] - 2
    most = _full_lock(forward)
    i, relative = 0, 0.0
    for step in range(held_steps + key_steps):
        wanted = held if step < held_steps else key
        change = CAR.steer_rate * _STEP_S
        steer = min(wanted, steer + change) if steer < wanted else max(wanted, steer - change)
        yaw_rate += (most * steer - yaw_rate) * (_STEP_S / CAR.yaw_lag_s)
        yaw += yaw_rate * _STEP_S
        lateral -= forward * yaw_rate * _STEP_S
        push = min(abs(lateral) / CAR.lateral_tau_s, limit) * _STEP_S
        lateral += push if lateral < 0.0 else -push
        i = min(max(int(along), 0), last)
        part = along - i
        heading = course.heading[i] + part * (course.heading[i + 1] - course.heading[i])
        relative = yaw - heading
        sin_r, cos_r = math.sin(relative), math.cos(relative)
        aside += (forward * sin_r + lateral * cos_r) * _STEP_S
        along += (forward * cos_r - lateral * sin_r) * _STEP_S / course.spacing[i]
    pace = max(abs(forward), 6.0)
    # Turning faster than the tyres can follow brings the car no nearer to its path.
    useful = min(max(yaw_rate, -limit / pace), limit / pace)
    excess = (useful - course.curvature[i] * forward) * (CAR.yaw_lag_s + CAR.lateral_tau_s)
    # Far from the path: no steeper than the tyres can straighten out again.
    steepest = min(math.sqrt(_RETURN_SHARE * limit * abs(aside)) / pace, _STEEPEST_RAD)
    back = min(max(aside / (pace * reach_s), -steepest), steepest)
    error = relative + math.atan2(lateral, pace) + excess + back
    # Beyond the limit the tyres hold less: worth a wider line, not a longer turn of the wheel.
    beyond = abs(lateral) / (CAR.lateral_tau_s * CAR.grip * motion.grip) - _SLIP_FREE
    return float(abs(error) + _SLIP_COST_RAD * max(beyond, 0.0))


@compiled
def _grip_under(state: F64) -> float:
    """Share of the grip on asphalt that the wheels have now."""
    grip = 0.0
    for wheel in range(N_WHEELS):
        surface = state[FIRST_SURFACE + wheel]
        if surface == GRASS:
            grip += 0.25 * CAR.grass_grip
        elif surface == DIRT:
            grip += 0.25 * CAR.dirt_grip
        else:
            grip += 0.25
    return grip


@compiled
def _motion(state: F64, course: Course, forward: float) -> Motion:
    """Where the car is on its course."""
    along = state[ROAD_S]
    i = min(int(along), course.heading.shape[0] - 2)
    part = along - i
    heading = course.heading[i] + part * (course.heading[i + 1] - course.heading[i])
    px = course.points[i, 0] + part * (course.points[i + 1, 0] - course.points[i, 0])
    pz = course.points[i, 2] + part * (course.points[i + 1, 2] - course.points[i, 2])
    grip = _grip_under(state)
    return Motion(
        along,
        (state[X] - px) * math.cos(heading) - (state[Z] - pz) * math.sin(heading),
        heading + wrap_angle(state[YAW] - heading),
        forward,
        state[VX] * math.cos(state[YAW]) - state[VZ] * math.sin(state[YAW]),
        state[YAW_RATE],
        state[STEER],
        CAR.grip * grip * (CAR.slide_grip if state[SLIDING] > 0.0 else 1.0),
        grip,
    )


@compiled
def _steer(state: F64, course: Course, traits: Traits, held: int, forward: float) -> Aim:
    """Chooses the steering key, while `held` is pressed."""
    motion = _motion(state, course, forward)
    i = min(int(motion.along), course.heading.shape[0] - 2)
    relative = motion.yaw - course.heading[i]
    if abs(motion.lateral) > _SPIN_SLIP * max(abs(forward), 5.0):  # spinning: along the slide
        return Aim(1 if motion.lateral > 0.0 else -1, 2.0 * _LOST_RAD)
    if abs(relative) > _ASTRAY_RAD:  # across or against the road: turn round
        return Aim(-1 if relative > 0.0 else 1, 1.5 * _LOST_RAD)
    if state[AIRBORNE] > 0.0:
        return Aim(0, 0.0)
    best, best_error = held, 1e9
    delay_steps = (traits.delay_ticks + 1) // 2
    for choice in range(3):
        # Keeping a key comes first, releasing it before pressing the other one: from full lock both
        # look the same for a tenth of a second, and a tie goes to the first.
        key = held
        if choice > 0:
            key = 2 * choice - 3 if held == 0 else (1 - choice) * held
        error = _aim_error(
            course,
            motion,
            float(held),
            delay_steps,
            float(key),
            _KEY_STEPS,
            traits.reach_s,
        )
        if choice == 0:
            error -= traits.stick_s * min(_full_lock(forward), 1.0)
        if error < best_error:
            best, best_error = key, error
    return Aim(best, best_error)


@compiled
def _pedals(
    state: F64, course: Course, traits: Traits, memory: I64, forward: float, error: float
) -> None:
    """Decides gas and brake from the speed that the course allows a moment ahead."""
    n = course.limit.shape[0]
    at = state[ROAD_S]
    i = min(int(at), n - 1)
    ahead = at + max(forward, 0.0) * traits.look_s / course.spacing[i]
    j = min(int(ahead), n - 2)
    allowed = course.limit[j] + (ahead - j) * (course.limit[j + 1] - course.limit[j])
    grip = _grip_under(state)
    if grip < course.grip[i]:  # off the plan
        allowed *= math.sqrt(grip / course.grip[i])
    over = forward - allowed
    if error > _LOST_RAD and forward > 12.0:
        over = max(over, 0.5 if error < 2.0 * _LOST_RAD else 5.0)
    memory[HELD_GAS] = 1 if over < (0.3 if memory[HELD_GAS] else -_GAS_BAND_MPS) else 0
    threshold = 0.2 if memory[HELD_BRAKE] else traits.brake_over_mps
    brake = over > threshold and state[AIRBORNE] == 0.0
    # Brake and steering together drift: only a car that is much too fast wants that.
    if abs(state[STEER]) > 0.3 and over < _DRIFT_OVER_MPS:
        brake = False
    memory[HELD_BRAKE] = 1 if brake else 0
    if brake:
        memory[HELD_GAS] = 0


@compiled
def decide(
    state: F64, course: Course, traits: Traits, memory: I64, tick: int, key_ticks: int
) -> int:
    """Return the action to press now.

    Args:
        state: (STATE_SIZE,) of the car.
        memory: (MEMORY_SIZE,) of the driver, changed in place.
        tick: 10 ms ticks since the start. key_ticks: ticks from decision to decision.
    """
    forward = state[VX] * math.sin(state[YAW]) + state[VZ] * math.cos(state[YAW])
    aim = _steer(state, course, traits, memory[HELD_STEER], forward)
    key = aim.key
    if hash_unit(traits.seed, np.uint64(2 * tick)) < traits.slip_rate:
        key = int(3.0 * hash_unit(traits.seed, np.uint64(2 * tick + 1))) - 1
    memory[STEER_AGE] += key_ticks
    if key != memory[HELD_STEER] and memory[STEER_AGE] >= traits.hold_ticks:
        memory[HELD_STEER] = key
        memory[STEER_AGE] = 0
    key = memory[HELD_STEER]
    _pedals(state, course, traits, memory, forward, aim.error)
    gas, brake = memory[HELD_GAS], memory[HELD_BRAKE]
    memory[STUCK] = memory[STUCK] + key_ticks if abs(forward) < 1.0 and tick > 50 else 0
    if memory[STUCK] > 30:
        memory[REVERSE], memory[STUCK] = 70, 0
    if memory[REVERSE] > 0:
        memory[REVERSE] = max(memory[REVERSE] - key_ticks, 0)
        gas, brake, key = 0, 1, -key
    return int(KEYS_TO_ACTION[gas * 8 + brake * 4 + (2 if key > 0 else 0) + (1 if key < 0 else 0)])
