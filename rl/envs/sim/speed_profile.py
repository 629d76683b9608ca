"""How fast a path can be driven: forward and backward passes with the car's own constants."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import DIRT, GRASS, TURBO
from rl.envs.jit import compiled
from rl.envs.sim.car import CAR
from rl.envs.sim.path_solver import path_geometry, path_points

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

TOP_SPEED_MPS: Final = 95.0
LEAST_SPEED_MPS: Final = 6.0
_CREST_BASE_M: Final = 3  # half of the base over which the road's vertical bend is measured
_LONGEST_FLIGHT_M: Final = 150
_FLIGHT_ASIDE_M: Final = 0.8  # a flight is straight: this far from the path it may land
_NEAR_M: Final = 0.6  # a car may touch a strip this far from its path
_SHIFT_SHARE: Final = 0.96  # of the engine's push is left by gear changes
_BRAKING_USE: Final = 0.45  # share of the grip used for cornering at which braking ends


class Shares(NamedTuple):
    """Share of the car's abilities that a profile asks for."""

    grip: float = 0.95
    brake: float = 0.85


class Sections(NamedTuple):
    """A road's sections for compiled code: the fields of `Road` with these names."""

    center: F64
    left: F64
    edges: F64
    patch_kind: U8
    patch_span: F64


class Course(NamedTuple):
    """Properties of one path and of the fastest drive along it; (M,) each.

    points: (M, 3) m. heading: rad. curvature: 1/m, left > 0. spacing: m to the next section.
    grip: share of the grip on asphalt. drag: m/s^2 of extra drag at 30 m/s.
    boost: 1 where a wheel is on a turbo strip, 0.5 near one. flight: 1 where the car is in the air.
    limit: m/s, above it the car cannot brake in time.
    speed: m/s, the fastest profile.
    """

    points: F64
    heading: F64
    curvature: F64
    spacing: F64
    grip: F64
    drag: F64
    boost: F64
    flight: F64
    limit: F64
    speed: F64


def empty_course(n: int) -> Course:
    """Return a course of `n` sections to be filled."""
    return Course(np.zeros((n, 3)), *(np.zeros(n) for _ in range(9)))


@compiled
def _meet_surfaces(road: Sections, offset: F64, course: Course, first: int, end: int) -> None:
    """Fill grip, drag and boost on rows first:end."""
    for i in range(first, end):
        grip, drag, boost = 0.0, 0.0, 0.0
        right, left = road.patch_span[i, 0], road.patch_span[i, 1]
        for side in range(2):
            d = offset[i] + (CAR.wheel_track if side == 0 else -CAR.wheel_track)
            kind = 0
            if d > road.edges[i, 0] or -d > road.edges[i, 1]:
                kind = GRASS
            elif road.patch_kind[i] != 0 and right <= d <= left:
                kind = road.patch_kind[i]
            if kind == GRASS:
                grip += 0.5 * CAR.grass_grip
                drag += 0.5 * (CAR.grass_drag + 30.0 * CAR.grass_speed_drag)
            elif kind == DIRT:
                grip += 0.5 * CAR.dirt_grip
                drag += 0.5 * CAR.dirt_drag
            else:
                grip += 0.5
            if kind == TURBO:
                boost = 1.0
            elif road.patch_kind[i] == TURBO and right - _NEAR_M < d < left + _NEAR_M:
                boost = max(boost, 0.5)
        course.grip[i], course.drag[i], course.boost[i] = grip, drag, boost


@compiled
def _cornering_limits(course: Course, shares: Shares) -> None:
    """Speed (M,) that grip, steering and crests allow on each section alone."""
    curvature, speed = course.curvature, course.limit
    n = curvature.shape[0]
    for i in range(n):
        # A few metres of path are one action long: the mean bend over them counts.
        lo, hi = max(i - 2, 0), min(i + 3, n)
        bend = 0.0
        for j in range(lo, hi):
            bend += abs(curvature[j])
        bend = max(bend / (hi - lo), 1e-6)
        limit = math.sqrt(shares.grip * CAR.grip * course.grip[i] / bend)
        limit = min(limit, shares.grip * CAR.max_yaw_rate / bend)
        speed[i] = max(min(limit, TOP_SPEED_MPS), LEAST_SPEED_MPS)


@compiled
def _landing(course: Course, i: int, speed: float) -> int:
    """Last row that a car is above, without touching it, when it comes over row `i` at `speed`."""
    points, spacing = course.points, course.spacing
    n = points.shape[0]
    if i < _CREST_BASE_M or i >= n - _CREST_BASE_M:
        return i
    fall = 2.0 * points[i, 1] - points[i - _CREST_BASE_M, 1] - points[i + _CREST_BASE_M, 1]
    if fall * speed * speed < 0.4 * CAR.gravity * _CREST_BASE_M * _CREST_BASE_M:
        return i  # no crest, nearly always
    height, last = points[i, 1], i
    rise = speed * (points[i, 1] - points[i - 1, 1]) / spacing[i - 1]
    for j in range(i, min(i + _LONGEST_FLIGHT_M, n - 1)):
        time_s = spacing[j] / speed
        height += rise * time_s - 0.5 * CAR.gravity * time_s * time_s
        rise -= CAR.gravity * time_s
        above = height - points[j + 1, 1]
        if above > CAR.wheel_travel:
            last = j + 1
        elif above <= 0.0 and (last > i or j > i + _CREST_BASE_M):
            break
        if above < 0.0:
            height = points[j + 1, 1]
            rise = max(rise, speed * (points[j + 1, 1] - points[j, 1]) / spacing[j])
    return last


@compiled
def _take_off_limits(course: Course) -> None:
    """Lower the limit where a flying car would leave its path sideways."""
    points, heading, limit = course.points, course.heading, course.limit
    for i in range(points.shape[0]):
        while limit[i] > LEAST_SPEED_MPS:
            j = _landing(course, i, limit[i])
            dx, dz = points[j, 0] - points[i, 0], points[j, 2] - points[i, 2]
            aside = dx * math.cos(heading[i]) - dz * math.sin(heading[i])
            if abs(aside) <= _FLIGHT_ASIDE_M or j <= i + 2:
                break
            limit[i] *= 0.96


@compiled
def _mark_flights(course: Course) -> int:
    """Mark the rows that a car at the profile's speed flies over; return how many."""
    marked, i, n = 0, 1, course.speed.shape[0]
    course.flight[:] = 0.0
    while i < n - 1:
        j = _landing(course, i, course.speed[i])
        if j > i + 2:
            course.flight[i : j + 1] = 1.0
            marked += j + 1 - i
            i = j
        i += 1
    return marked


@compiled
def _brake_pass(course: Course, brake_share: float) -> None:
    """Lower the limits so that each can be reached by braking from the one before."""
    curvature, spacing, limit = course.curvature, course.spacing, course.limit
    n = curvature.shape[0]
    # Where a turbo strip pushes, as far as it goes on pushing behind its end.
    boosted = np.full(n, -1)
    boosted_until = -1
    for i in range(n):
        if course.boost[i] > 0.0:
            boosted_until = i + int(0.001 * CAR.turbo_ms * limit[i] / spacing[i])
        boosted[i] = boosted_until
    for i in range(n - 2, -1, -1):
        v = limit[i + 1]
        used = v * v * abs(curvature[i]) / (CAR.grip * course.grip[i])
        slow = CAR.brake * brake_share * max(0.0, 1.0 - (used / _BRAKING_USE) ** 2)
        slow += CAR.rolling_drag + course.drag[i] + CAR.air_drag * v * v
        rise = course.points[i + 1, 1] - course.points[i, 1]
        slow = max(slow + CAR.gravity * rise / spacing[i], 0.5)
        if i <= boosted[i]:
            slow -= CAR.turbo_accel
        if course.flight[i] > 0.0:
            slow = 0.0
        before = math.sqrt(max(v * v + 2.0 * slow * spacing[i], LEAST_SPEED_MPS**2))
        limit[i] = min(limit[i], before)


@compiled
def _gas_pass(course: Course, start: int) -> None:
    """Fastest speed below the limits that the engine reaches, from standing at row `start`."""
    spacing, speed = course.spacing, course.speed
    speed[:] = course.limit
    speed[start] = min(speed[start], LEAST_SPEED_MPS)
    turbo_left_s = 0.0
    for i in range(start, speed.shape[0] - 1):
        v = speed[i]
        bend = v * v * abs(course.curvature[i])
        push = _SHIFT_SHARE * min(CAR.engine_accel, CAR.engine_power / v)
        # The tyres' force is square to the car, which points into the bend.
        push -= bend * bend * CAR.lateral_tau_s / v
        rise = course.points[i + 1, 1] - course.points[i, 1]
        push -= CAR.rolling_drag + course.drag[i] + CAR.air_drag * v * v
        push -= CAR.gravity * rise / spacing[i]
        if course.boost[i] == 1.0:
            turbo_left_s = CAR.turbo_ms / 1000.0
        if turbo_left_s > 0.0:
            push += CAR.turbo_accel
            turbo_left_s -= spacing[i] / v
        if course.flight[i] > 0.0:
            push = 0.0
        reached = math.sqrt(max(v * v + 2.0 * push * spacing[i], LEAST_SPEED_MPS**2))
        speed[i + 1] = min(speed[i + 1], reached)


@compiled
def fill_speed(course: Course, start: int, shares: Shares) -> None:
    """Fill limit, flight and the fastest speed along a path, from standing at row `start`."""
    _cornering_limits(course, shares)
    _take_off_limits(course)
    course.flight[:] = 0.0
    _brake_pass(course, shares.brake)
    _gas_pass(course, start)
    if _mark_flights(course) > 0:  # nobody brakes in the air
        _brake_pass(course, shares.brake)
        _gas_pass(course, start)


@compiled
def profile_time(course: Course, start: int, finish: int) -> float:
    """Seconds that a course's profile takes from row `start` to row `finish`."""
    total = 0.0
    for i in range(start, finish):
        total += 2.0 * course.spacing[i] / (course.speed[i] + course.speed[i + 1])
    return total


@compiled
def fill_course(road: Sections, offset: F64, start: int, shares: Shares, course: Course) -> None:
    """Fill the course of the path with these offsets (M,) m."""
    path_points(road.center, road.left, offset, course.points)
    path_geometry(course.points, course.heading, course.curvature, course.spacing)
    _meet_surfaces(road, offset, course, 0, offset.shape[0])
    fill_speed(course, start, shares)
