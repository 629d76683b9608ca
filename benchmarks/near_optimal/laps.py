"""Laps from the exact start: driven with the search's routines, and again in a `RaceBatch`."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from benchmarks.near_optimal.kernels import AT_TICK, NEVER, PROFILE_SIZE, SPEED, Circuit, drive_lap
from datasets.contract.actions import TICK_MS, TICKS_PER_ACTION
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.car import STATE_SIZE
from rl.envs.sim.race import FINISH_ZONES
from rl.envs.sim.road import Track, ground_table

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


def ms_of_ticks(ticks: float) -> int:
    """Return the race time of an interpolated time: the end of the tick that it falls into."""
    return math.ceil(ticks) * TICK_MS


@dataclass(frozen=True, eq=False)
class Lap:
    """A finished lap from the exact start.

    Attributes:
        actions: (T,) uint8, one per 50 ms, the last one until the finish.
        ticks: race time in ticks of 10 ms, interpolated within the tick that crosses the finish.
    """

    actions: U8
    ticks: float

    @property
    def exact_ms(self) -> float:
        """Race time in ms, not rounded to a tick; orders laps of the same tick."""
        return self.ticks * TICK_MS

    @property
    def race_time_ms(self) -> int:
        """Race time in ms as a race counts it."""
        return ms_of_ticks(self.ticks)


@dataclass(frozen=True, eq=False)
class DrivenLap:
    """What the search needs of a lap.

    Attributes:
        lap: it.
        states: (T + 1, STATE_SIZE) the car before each action.
        rows: (T + 1,) its road section.
        profile: (M, PROFILE_SIZE) the lap by road section, see `kernels`.
    """

    lap: Lap
    states: F64
    rows: I64
    profile: F64


class Laps:
    """Laps of one track from the exact start."""

    def __init__(self, track: Track) -> None:
        """Place a car at the start of `track`."""
        self.track = track
        batch = RaceBatch([track], [0], render=False, start_noise=0.0)
        batch.reset([0], [0])
        self.start: F64 = batch.state[0].copy()
        self.start_row = int(batch.road_index[0])
        self.circuit = Circuit(
            road=ground_table(batch.packed),
            finish=batch._course.finish[0].copy(),  # the plane that races on this track have
            finish_from=int(batch.packed.finish_row[0]) - FINISH_ZONES // 2,
        )

    @cached_property
    def sections(self) -> int:
        """Sections M of the road."""
        return len(self.circuit.road)

    def drive(self, actions: U8) -> DrivenLap | None:
        """Drive actions (T,) of 50 ms each; return None if they do not reach the finish."""
        count = len(actions)
        states, rows = np.zeros((count + 1, STATE_SIZE)), np.zeros(count + 1, np.int64)
        profile = np.zeros((self.sections, PROFILE_SIZE))
        ticks = drive_lap(self.start, self.start_row, actions, self.circuit, states, rows, profile)
        if ticks >= NEVER:
            return None
        used = math.ceil(ticks / TICKS_PER_ACTION)
        lap = Lap(actions[:used].copy(), ticks)
        _extend(profile)
        return DrivenLap(lap, states[: used + 1], rows[: used + 1], profile)

    def race(self, actions: U8) -> int | None:
        """Drive actions (T,) of 50 ms in a `RaceBatch`; return ms, None without a finish."""
        batch = RaceBatch([self.track], [0], render=False, start_noise=0.0)
        batch.reset([0], [0])
        for action in actions:
            batch.step(np.array([action], np.uint8))
        return int(batch.race_time_ms[0]) if batch.finished[0] else None


def _extend(profile: F64) -> None:
    """Go on with the last speed behind the finish, where cars of the last slot still are."""
    passed = np.flatnonzero(profile[:, AT_TICK] > 0.0)
    first, last = passed[0], passed[-1]
    profile[:first, 1:] = profile[first, 1:]
    profile[last + 1 :] = profile[last]
    # Sections lie about a metre apart.
    per_tick = max(profile[last, SPEED], 1.0) * TICK_MS / 1000.0
    profile[last + 1 :, AT_TICK] += np.arange(1, len(profile) - last) / per_tick
