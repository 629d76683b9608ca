"""Racing paths: where on the road a fast car drives, and how fast.

A path keeps a margin from the edges, goes round dirt and grass or over turbo strips where that is
faster, and cuts corners. It is planned once for each track and kept as long as the track is.
"""

from __future__ import annotations

import itertools
import math
import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import TURBO
from rl.envs.jit import compiled
from rl.envs.sim.car import CAR
from rl.envs.sim.path_solver import smoothest_path
from rl.envs.sim.road import LEAD_OUT_M, Road, Track
from rl.envs.sim.shape import smooth
from rl.envs.sim.speed_profile import (
    Course,
    Sections,
    Shares,
    empty_course,
    fill_course,
    profile_time,
)

F64 = npt.NDArray[np.float64]

EDGE_MARGIN_M = 1.3  # from the car's middle to the road's edge
PATCH_MARGIN_M = 0.4  # from a wheel to a patch, or into a turbo strip
_START_HOLD_M = 6  # the path stays at the start's place for this long
_LEAST_CORRIDOR_M = 0.6
_LENGTH_WEIGHT = 1e-4
_ROUNDS, _ITERATIONS = 3, 18
_TRIAL_ROUNDS, _TRIAL_ITERATIONS = 1, 14
_FLIGHT_WEIGHT = 8.0
_RUN_UP_M, _RUN_OUT_M = 10, 8
_SHAVINGS = 2
_BUMPS = np.array([[120.0, 0.6], [80.0, 0.4], [55.0, 0.25]])  # metres long, metres high

_AT_LIMIT = Shares()


@dataclass(frozen=True)
class Plan:
    """The paths of a track, as courses of M sections.

    offset: (M,) m from the centre, left > 0, of the racing path; course: its properties, with the
    profile of a car at its limit, which takes time_s.
    careless_offset: (M,) m, the path of a driver who sees no patches.
    start, finish: road rows.
    """

    offset: F64
    course: Course
    careless_offset: F64
    start: int
    finish: int
    time_s: float

    @property
    def points(self) -> F64:
        """(M, 3) m, the racing path in the world."""
        return self.course.points

    @property
    def speed(self) -> F64:
        """(M,) m/s."""
        return self.course.speed


@compiled
def _lap_time(
    road: Sections, offset: F64, start: int, finish: int, shares: Shares, course: Course
) -> float:
    fill_course(road, offset, start, shares, course)
    return profile_time(course, start, finish)


@compiled
def _shave(
    road: Sections,
    offset: F64,
    low: F64,
    high: F64,
    start: int,
    finish: int,
    shares: Shares,
    course: Course,
    bumps: F64,
) -> float:
    """Try smooth bumps along the path, keep those that make it faster; return its seconds."""
    n = offset.shape[0]
    best = _lap_time(road, offset, start, finish, shares, course)
    saved = offset.copy()
    for b in range(bumps.shape[0]):
        length = int(bumps[b, 0])
        for at in range(start + _START_HOLD_M, min(finish + 20, n - length), length // 2):
            for sign in (1.0, -1.0):
                saved[at : at + length] = offset[at : at + length]
                for j in range(length):
                    rise = 0.5 - 0.5 * math.cos(2.0 * math.pi * (j + 1) / (length + 1))
                    d = saved[at + j] + sign * bumps[b, 1] * rise
                    offset[at + j] = min(max(d, low[at + j]), high[at + j])
                time_s = _lap_time(road, offset, start, finish, shares, course)
                if time_s < best - 1e-5:
                    best = time_s
                    break
                offset[at : at + length] = saved[at : at + length]
    return best


def sections_of(road: Road) -> Sections:
    """Return the road's arrays for compiled code."""
    return Sections(road.center, road.left, road.edges, road.patch_kind, road.patch_span)


def _ends(track: Track) -> tuple[int, int]:
    """Road rows of the start and of the finish."""
    center, points = track.road.center, track.line.points
    first = np.linalg.norm(center[:100] - points[0], axis=1).argmin()
    reach = min(len(center), round(2 * LEAD_OUT_M))
    last = np.linalg.norm(center[-reach:] - points[-1], axis=1).argmin()
    return int(first), int(last) + len(center) - reach


def _patches(road: Road) -> list[tuple[int, int, int]]:
    """(kind, first row, end row) of each patch along the road."""
    kind = road.patch_kind.astype(np.int64)
    cuts = np.flatnonzero(np.diff(kind, prepend=0, append=0))
    return [(int(kind[a]), int(a), int(b)) for a, b in itertools.pairwise(cuts) if kind[a]]


class _Planner:
    """Works on one track; holds the corridor while patches are decided one after another."""

    def __init__(self, track: Track, shares: Shares) -> None:
        self.road = track.road
        self.sections = sections_of(track.road)
        self.shares = shares
        self.start, self.finish = _ends(track)
        n = len(self.road.center)
        self.course = empty_course(n)
        self.weight = np.ones(n)
        self.low = EDGE_MARGIN_M - self.road.edges[:, 1]
        self.high = self.road.edges[:, 0] - EDGE_MARGIN_M
        first = track.line.points[0, [0, 2]] - self.road.center[self.start, [0, 2]]
        at = float(first @ self.road.left[self.start])
        middle = 0.5 * (self.low + self.high)
        self.low = np.minimum(self.low, middle - _LEAST_CORRIDOR_M / 2)
        self.high = np.maximum(self.high, middle + _LEAST_CORRIDOR_M / 2)
        held = self.start + _START_HOLD_M
        self.low[:held], self.high[:held] = at - 0.05, at + 0.05

    def solve(self, offset: F64, rounds: int, iterations: int) -> float:
        """Smoothest path in the corridor, from and into `offset`; its time in seconds."""
        road = self.sections
        smoothest_path(
            road.center,
            road.left,
            self.low,
            self.high,
            self.weight,
            _LENGTH_WEIGHT,
            offset,
            rounds,
            iterations,
        )
        return float(_lap_time(road, offset, self.start, self.finish, self.shares, self.course))

    def ways(self, kind: int, first: int, end: int) -> list[tuple[F64, F64]]:
        """Corridors (low, high) over the patch's rows: round it or, for turbo, over it."""
        rows = slice(max(first - 2, 0), end + 2)
        span = self.road.patch_span
        right, left = float(span[first:end, 0].min()), float(span[first:end, 1].max())
        low, high = self.low[rows], self.high[rows]
        if kind == TURBO:
            inset = CAR.wheel_track - PATCH_MARGIN_M
            return [(np.maximum(low, right - inset), np.minimum(high, left + inset))]
        clear = CAR.wheel_track + PATCH_MARGIN_M
        return [(np.maximum(low, left + clear), high), (low, np.minimum(high, right - clear))]

    def decide_patches(self, offset: F64) -> F64:
        """Choose the fastest way past every patch, in order; return the path's offsets."""
        best = self.solve(offset, _ROUNDS, _ITERATIONS)
        for kind, first, end in _patches(self.road):
            if first < self.start + _START_HOLD_M:
                continue
            rows = slice(max(first - 2, 0), end + 2)
            before = self.low[rows].copy(), self.high[rows].copy()
            chosen = before
            for low, high in self.ways(kind, first, end):
                if float((high - low).min()) < 0.3:
                    continue
                self.low[rows], self.high[rows] = low, high
                trial = offset.copy()
                time_s = self.solve(trial, _TRIAL_ROUNDS, _TRIAL_ITERATIONS)
                if time_s < best - 1e-4:
                    best, chosen, offset = time_s, (low, high), trial
            self.low[rows], self.high[rows] = chosen
        self.straighten_flights(offset)
        return offset

    def straighten_flights(self, offset: F64) -> None:
        """Solve again with little bend where the car flies, and where it takes off and lands."""
        for _ in range(2):
            flown = np.flatnonzero(self.course.flight[: self.finish])
            straight = np.zeros(len(offset))
            for row in flown[flown > self.start]:
                straight[max(row - _RUN_UP_M, 0) : row + _RUN_OUT_M] = 1.0
            self.weight = np.maximum(self.weight, 1.0 + _FLIGHT_WEIGHT * smooth(straight, 5.0))
            self.solve(offset, _ROUNDS, _ITERATIONS)

    def shave(self, offset: F64) -> float:
        """Local search for time; changes `offset`, returns seconds."""
        return float(
            _shave(
                self.sections,
                offset,
                self.low,
                self.high,
                self.start,
                self.finish,
                self.shares,
                self.course,
                _BUMPS,
            )
        )


def make_plan(track: Track, shares: Shares = _AT_LIMIT) -> Plan:
    """Plans a track, without looking into the cache."""
    planner = _Planner(track, shares)
    careless = np.zeros(len(track.road.center))
    planner.solve(careless, _ROUNDS, _ITERATIONS)
    offset = planner.decide_patches(careless.copy())
    for _ in range(_SHAVINGS):
        planner.shave(offset)
    course = empty_course(len(offset))
    time_s = _lap_time(planner.sections, offset, planner.start, planner.finish, shares, course)
    return Plan(offset, course, careless, planner.start, planner.finish, float(time_s))


_PLANS: dict[int, tuple[weakref.ref[Track], Plan]] = {}


def plan(track: Track) -> Plan:
    """Return the plan of a track, made on first use and kept as long as the track lives."""
    key = id(track)
    kept = _PLANS.get(key)
    if kept is not None and kept[0]() is track:
        return kept[1]
    made = make_plan(track)
    _PLANS[key] = weakref.ref(track, lambda _: _PLANS.pop(key, None)), made
    return made
