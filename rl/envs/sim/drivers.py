"""Scripted drivers, from novice to expert, who press keys like people do.

A run's driver is drawn from the run's seed alone: its line, its braking points and its reaction
differ from run to run, and are the same in every batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_FORWARD, ACTION_KEYS, TICK_MS
from rl.envs.jit import compiled
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.pilot import (
    HELD_BRAKE,
    HELD_GAS,
    HELD_STEER,
    MAX_DELAY,
    MEMORY_SIZE,
    STEER_AGE,
    WAITING,
    Traits,
    decide,
)
from rl.envs.sim.planner import EDGE_MARGIN_M, Plan, plan, sections_of
from rl.envs.sim.road import Track
from rl.envs.sim.shape import wander
from rl.envs.sim.speed_profile import Course, Shares, fill_course

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

SKILLS: Final[Mapping[str, float]] = MappingProxyType(
    {"novice": 0.0, "amateur": 0.35, "good": 0.7, "expert": 1.0}
)
_LINE_NOISE_M: Final = 60  # a run's line wanders over about this length


class Manner(NamedTuple):
    """How one run is driven: its keys' traits, its share of the car, its line."""

    traits: Traits
    shares: Shares
    careless: float  # share of the path of a driver who sees no patches
    timid: float  # share by which the path is drawn to the road's middle
    wander_m: float


def _ramp(skill: float, *values: float) -> float:
    """Interpolates between the values of novice, amateur, good and expert."""
    return float(np.interp(skill, tuple(SKILLS.values()), values))


def draw_manner(skill: float, rng: np.random.Generator) -> Manner:
    """Return the driver of one run.

    Args:
        skill: 0 (novice) to 1 (expert).
        rng: of that run alone.
    """
    mood, brave, late, careless, hand = rng.uniform(-1.0, 1.0, 5)
    share = _ramp(skill, 0.6, 0.74, 0.85, 0.96)
    spread = _ramp(skill, 0.08, 0.06, 0.04, 0.01)
    traits = Traits(
        delay_ticks=int(_ramp(skill, 6, 4, 2, 0) + _ramp(skill, 2.0, 1.5, 1.0, 0.0) * hand + 0.5),
        hold_ticks=int(_ramp(skill, 10, 9, 7, 5)),
        stick_s=_ramp(skill, 0.08, 0.08, 0.08, 0.06),
        reach_s=_ramp(skill, 0.6, 0.55, 0.5, 0.45),
        brake_over_mps=_ramp(skill, 2.0, 1.6, 1.3, 1.2),
        look_s=0.06 + 0.04 * _ramp(skill, 1.0, 0.7, 0.4, 0.0) * late,
        slip_rate=_ramp(skill, 0.012, 0.006, 0.002, 0.0),
        seed=np.uint64(rng.integers(0, 2**63)),
    )
    shares = Shares(
        grip=share + spread * mood,
        brake=_ramp(skill, 0.55, 0.65, 0.75, 0.9) + 2.0 * spread * brave,
    )
    return Manner(
        traits,
        shares,
        careless=min(max(_ramp(skill, 0.5, 0.25, 0.08, 0.0) * (1.0 + careless), 0.0), 1.0),
        timid=_ramp(skill, 0.3, 0.2, 0.1, 0.0),
        wander_m=_ramp(skill, 0.8, 0.5, 0.3, 0.05),
    )


def path_of(track: Track, made: Plan, manner: Manner, rng: np.random.Generator) -> F64:
    """Lateral offsets (M,) m of one run's path."""
    edges = track.road.edges
    middle = 0.5 * (edges[:, 0] - edges[:, 1])
    line = made.offset + manner.careless * (made.careless_offset - made.offset)
    line = line + manner.timid * (middle - line)
    line = line + manner.wander_m * wander(rng, len(line), _LINE_NOISE_M)
    path = np.clip(line, EDGE_MARGIN_M - edges[:, 1], edges[:, 0] - EDGE_MARGIN_M)
    return np.ascontiguousarray(path)


@compiled
def _decide_cars(
    state: F64,
    courses: Course,
    traits: F64,
    key_seeds: U64,
    memory: I64,
    actions: U8,
    time_ms: npt.NDArray[np.int32],
    rows: I64,
    key_ticks: int,
) -> None:
    for car in range(state.shape[0]):
        tick = time_ms[car] // TICK_MS
        if tick % key_ticks != 0:
            continue
        n = rows[car]
        course = Course(
            courses.points[car, :n],
            courses.heading[car, :n],
            courses.curvature[car, :n],
            courses.spacing[car, :n],
            courses.grip[car, :n],
            courses.drag[car, :n],
            courses.boost[car, :n],
            courses.flight[car, :n],
            courses.limit[car, :n],
            courses.speed[car, :n],
        )
        row = traits[car]
        own = Traits(
            int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], row[6], key_seeds[car]
        )
        decided = decide(state[car], course, own, memory[car], tick, key_ticks)
        slot = tick // key_ticks
        memory[car, WAITING + slot % MAX_DELAY] = decided
        delay = own.delay_ticks // key_ticks
        actions[car] = memory[car, WAITING + (slot - delay) % MAX_DELAY]


class DriverPool:
    """One scripted driver for each car of a batch."""

    def __init__(
        self,
        batch: RaceBatch,
        skill: F64,
        seed: I64,
        *,
        key_ms: int = 10,
        attentive: bool = False,
    ) -> None:
        """Prepare every car's driver.

        Args:
            batch: the cars, at their starts.
            skill: (B,) 0 (novice) to 1 (expert).
            seed: (B,) of each run.
            key_ms: keys change only at multiples of this, 10 or 50.
            attentive: drivers press what they decide at once and never slip to a wrong key.
        """
        self.batch = batch
        self.key_ticks = key_ms // TICK_MS
        self._attentive = attentive
        n, most = batch.num_cars, max(len(track.road.center) for track in batch.tracks)
        self._courses = Course(np.zeros((n, most, 3)), *(np.zeros((n, most)) for _ in range(9)))
        self._traits: F64 = np.zeros((n, len(Traits._fields) - 1))
        self._key_seeds: U64 = np.zeros(n, np.uint64)
        self._rows: I64 = np.zeros(n, np.int64)
        self._memory: I64 = np.zeros((n, MEMORY_SIZE), np.int64)
        self._actions: U8 = np.full(n, ACTION_FORWARD, np.uint8)
        self._held_steer: I64 = np.zeros(n, np.int64)
        self._held_ticks: I64 = np.zeros(n, np.int64)
        self.reset(np.arange(n), seed, skill)

    def reset(self, cars: npt.ArrayLike, seeds: npt.ArrayLike, skill: npt.ArrayLike) -> None:
        """Draw new drivers for `cars` (k,) from `seeds` (k,), at `skill` (k,) or one for all."""
        chosen = np.atleast_1d(np.asarray(cars, dtype=np.int64))
        skills = np.broadcast_to(np.asarray(skill, dtype=np.float64), chosen.shape)
        for car, seed, level in zip(chosen, np.atleast_1d(np.asarray(seeds)), skills, strict=True):
            self._prepare(int(car), int(seed), float(level))

    def act(self) -> U8:
        """(B,) uint8 actions to hold for the next 10 ms."""
        _decide_cars(
            self.batch.state,
            self._courses,
            self._traits,
            self._key_seeds,
            self._memory,
            self._actions,
            self.batch.race_time_ms,
            self._rows,
            self.key_ticks,
        )
        return self._actions.copy()

    def advise(self, held: U8) -> U8:
        """Return what each driver would press now in a car that another policy drives.

        A driver's choice depends on the keys it holds: a held key is kept longer, and steering is
        not changed again at once. Here the keys that are really pressed replace those memories, so
        the advice is for the present state, not for one that the driver would have reached.

        Args:
            held: (B,) uint8 actions pressed until now; at the start "accelerate".

        Returns: (B,) uint8 actions to press for the next 10 ms.
        """
        deciding = np.flatnonzero(self.batch.race_time_ms // TICK_MS % self.key_ticks == 0)
        gas, brake, left, right = ACTION_KEYS[held[deciding]].T.astype(np.int64)
        steer = left - right
        kept = steer == self._held_steer[deciding]
        self._held_ticks[deciding] += self.key_ticks
        self._held_ticks[deciding[~kept]] = 0
        self._held_steer[deciding] = steer
        # A driver whose advice was followed remembers it already, with what it is about to do.
        other = held[deciding] != self._actions[deciding]
        cars = deciding[other]
        self._memory[cars, HELD_STEER] = steer[other]
        self._memory[cars, STEER_AGE] = self._held_ticks[cars]
        self._memory[cars, HELD_GAS] = gas[other]
        self._memory[cars, HELD_BRAKE] = brake[other]
        return self.act()

    def _prepare(self, car: int, seed: int, skill: float) -> None:
        track = self.batch.tracks[self.batch.track_of_car[car]]
        made = plan(track)
        rng = np.random.default_rng([seed, 5])
        manner = draw_manner(skill, rng)
        if self._attentive:
            manner = manner._replace(traits=manner.traits._replace(delay_ticks=0, slip_rate=0.0))
        offset = path_of(track, made, manner, rng)
        n = len(offset)
        course = Course(*(array[car, :n] for array in self._courses))
        fill_course(sections_of(track.road), offset, made.start, manner.shares, course)
        self._rows[car] = n
        self._traits[car] = manner.traits[:-1]
        self._key_seeds[car] = manner.traits.seed
        self._memory[car] = 0
        self._memory[car, WAITING:] = ACTION_FORWARD
        self._actions[car] = ACTION_FORWARD
        self._held_steer[car] = 0
        self._held_ticks[car] = -self.key_ticks  # so that the first decision finds it at 0
