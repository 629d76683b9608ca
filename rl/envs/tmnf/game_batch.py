"""One car in the game as a batch of cars."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import (
    ACTION_MS,
    N_ACTIONS,
    TICK_MS,
    TICKS_PER_ACTION,
)
from datasets.contract.errors import UserError
from datasets.contract.floats import N_FLOATS
from datasets.contract.line import ReferenceLine
from datasets.contract.race import LONGEST_RECORD_MS, MAX_RACE_MS
from datasets.limits import check_within
from rl.envs.cars import RunLostError
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_floats import write_game_floats
from rl.envs.tmnf.game_observation import GameObservation
from rl.envs.tmnf.link import LinkError
from rl.envs.tmnf.map_loading import MapNotLoadedError
from rl.envs.tmnf.progress_on_line import BoundLine, Progress

logger = logging.getLogger(__name__)

U8 = npt.NDArray[np.uint8]

MOST_FIRST_LOADS: Final = 2
"""Times that a map is tried that was never loaded: it may be missing."""
MOST_LOADS: Final = 3
"""Times that a map is tried that has been loaded before; a game of ours is then a new one."""
MOST_FAILURES: Final = 20
"""Failures after which a run ends, if no race came as far as `SOUND_MS` between them."""
MOST_STARTS: Final = 10
"""Times that a start is tried before the game counts as unusable."""
SOUND_MS: Final = 500
"""Race time at which a game has driven well."""


@dataclass(frozen=True, eq=False)
class GameMap:
    """A map of the game.

    Attributes:
        name: short name.
        path: of the map, below the game's folder of challenges.
        line: that zones and floats follow.
        checkpoints: (K, 3) metres, centres of the checkpoints; None: not known.
    """

    name: str
    path: str
    line: ReferenceLine
    checkpoints: npt.NDArray[np.float64] | None = None


class GameBatch:
    """One car that races in the game; see `rl.envs.cars.CarBatch`.

    It starts the same in each race, so a start has no variation and a seed no effect.
    """

    num_cars: Final = 1

    def __init__(
        self,
        maps: Sequence[GameMap],
        connection: GameConnection,
        *,
        image_size: tuple[int, int] = (64, 64),
        no_progress_ms: int = 2000,
        max_race_ms: int = MAX_RACE_MS,
    ) -> None:
        """Prepare; the game is looked for with the first `reset`.

        Args:
            maps: T maps.
            connection: to one game.
            image_size: (H, W) pixels of the frames.
            no_progress_ms: a car without a new furthest zone for longer is cut off.
            max_race_ms: race time at which a car is cut off.
        """
        self.tracks = list(maps)
        self.frames: U8 = np.zeros((1, *image_size), dtype=np.uint8)
        self.floats = np.zeros((1, N_FLOATS), dtype=np.float32)
        self.start_noise = np.zeros(1)
        self.track_of_car = np.zeros(1, dtype=np.int64)
        self.race_time_ms = np.zeros(1, dtype=np.int32)
        self.finished = np.zeros(1, dtype=np.bool_)
        self.truncated = np.zeros(1, dtype=np.bool_)
        self.zone = np.zeros(1, dtype=np.int64)
        self.furthest_zone = np.zeros(1, dtype=np.int64)
        self.meters = np.zeros(1)
        self._connection = connection
        self._no_progress_ms, self._max_race_ms = no_progress_ms, max_race_ms
        self._bound = [BoundLine(each.line, each.checkpoints) for each in self.tracks]
        self._ticks = bytearray()
        self._gearbox_counter = self._passed = 0
        self._blob = b""
        self._progress: Progress | None = None

    def move_to_track(self, car: int, track: int) -> None:
        """Choose the car's map; call `reset` after it."""
        if not 0 <= track < len(self.tracks):
            raise IndexError(f"track {track} of {len(self.tracks)}")
        self.track_of_car[car] = track

    def reset(self, cars: npt.ArrayLike, seeds: npt.ArrayLike) -> None:
        """Put the car to the start and observe; a game that is gone is brought back first.

        Raises:
            UserError: the game cannot be brought to the start.
            ValueError: a start with variation.
        """
        if self.start_noise.any():
            raise ValueError("races in the game start without variation: start_noise must be 0")
        self._begin(b"")

    def step(self, actions: U8) -> None:
        """Hold the action (1,) for 50 ms, then observe; see `CarBatch`."""
        if self.finished[0] or self.truncated[0]:
            return
        self._drive(actions, TICKS_PER_ACTION)

    def tick(self, actions: U8) -> None:
        """Hold the action (1,) for 10 ms; see `CarBatch`."""
        if self.finished[0] or self.truncated[0]:
            return
        self._drive(actions, 1)

    def observe(self) -> None:
        """Take a frame where `tick` has come to; see `CarBatch`."""
        if self.finished[0]:
            return
        try:
            seen = self._connection.race.look()
        except LinkError as error:
            raise self._lost(error) from error
        if seen.finished:  # told after the run step of its tick; nothing was driven since `tick`
            self._follow(seen, 0)
            self.truncated[0] = False
        self._show(seen)

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all that determines how the race goes on."""
        progress = self._progress
        place = (0, 0, 0) if progress is None else _place(progress)
        counts = (self._gearbox_counter, self._passed, *place)
        return {
            "track": self.track_of_car.copy(),
            "blob": np.frombuffer(self._blob, dtype=np.uint8).copy(),
            "ticks": np.frombuffer(bytes(self._ticks), dtype=np.uint8).copy(),
            "counts": np.array(counts, dtype=np.int64),
        }

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Rewind the game to where a race was left; see `CarBatch`.

        Raises:
            ValueError: no race can have been left so; the game is not asked.
            UserError: the game does not start a race.
        """
        self._check_saved(state)
        self.track_of_car[:] = state["track"]
        counter, passed, zone, furthest, since_ms = (int(count) for count in state["counts"])
        self._begin(state["blob"].tobytes(), passed, state["ticks"].tobytes())
        self._gearbox_counter = counter
        if self._progress is not None and furthest > 0:  # 0: left before the first start
            velocity = self._seen.state.velocity
            self._progress.go_on_from(zone, furthest, since_ms, velocity)
            self._show(self._seen)

    def close(self) -> None:
        """Let go of the game, which goes on without a client."""
        self._connection.close()

    def _check_saved(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that no race can have been left in: zones index the line unchecked.

        Raises:
            ValueError: it names the first array that is wrong.
        """
        check_within("track", state["track"], self.track_of_car, 0, len(self.tracks) - 1)
        for name, highest in (("blob", 255), ("ticks", N_ACTIONS - 1)):
            size = min(np.size(state[name]), LONGEST_RECORD_MS)
            check_within(name, state[name], np.zeros(size, np.uint8), 0, highest)
        counts, last = state["counts"], self.tracks[int(state["track"][0])].line.finish_zone
        largest = [LONGEST_RECORD_MS, LONGEST_RECORD_MS, last, last, LONGEST_RECORD_MS]
        check_within("counts", counts, np.zeros(5, np.int64), 0, largest)
        _, _, zone, furthest, _ = counts
        if zone > furthest or (zone < 1 and furthest > 0):
            raise ValueError(f"counts: zone {zone}, furthest zone {furthest}")

    # -- driving --------------------------------------------------------------------------------

    def _begin(self, blob: bytes, passed: int = 0, ticks: bytes = b"") -> None:
        """Put the car to the start, or to a saved state; try again while the game fails.

        Args:
            blob: state to go on from; empty for the start.
            passed: number of checkpoints passed until then.
            ticks: actions of the 10 ms steps until then.
        """
        path = self.tracks[int(self.track_of_car[0])].path
        last: Exception | None = None
        not_loaded = 0
        for _ in range(MOST_STARTS):
            try:
                race = self._connection.race_on(path)
                seen = race.resume(blob, TICK_MS * len(ticks), passed) if blob else race.start()
                break
            except LinkError as error:
                logger.warning("the game did not start a race: %s", error)
                self._connection.fail(error)
                last = error
            except MapNotLoadedError as error:
                self._connection.fail(error)
                not_loaded += 1
                is_known = self._connection.has_loaded(path)
                if not_loaded >= (MOST_LOADS if is_known else MOST_FIRST_LOADS):
                    raise UserError(
                        f"the game does not load the map {path!r}: is it in its folder "
                        "Tracks/Challenges? A new file is found after a restart of the game"
                    ) from error
        else:
            raise UserError(f"the game failed to start a race {MOST_STARTS} times in a row: {last}")
        bound = self._bound[int(self.track_of_car[0])]
        self._ticks = bytearray(ticks)
        self._gearbox_counter, self._passed = 0, passed
        self._progress = Progress(bound, seen.state.position)
        self.finished[0] = self.truncated[0] = False
        self._seen = seen
        self._show(seen)

    def _drive(self, actions: U8, ticks: int) -> None:
        given = np.asarray(actions)
        if given.shape != (1,) or not 0 <= int(given[0]) < N_ACTIONS:
            raise ValueError(f"expected one action of 0 to {N_ACTIONS - 1}, got {given}")
        action, before_ms = int(given[0]), int(self.race_time_ms[0])
        try:
            race = self._connection.race
            seen = race.act(action) if ticks > 1 else race.tick(action)
        except LinkError as error:
            raise self._lost(error) from error
        if seen.finished or seen.time_ms >= SOUND_MS:
            self._connection.note_sound()
        driven = (seen.time_ms - before_ms) // TICK_MS
        self._ticks += bytes([action]) * driven
        self._follow(seen, driven * TICK_MS)
        self._show(seen)

    def _lost(self, error: LinkError) -> RunLostError:
        self._connection.fail(error)
        if self._connection.failures_in_a_row >= MOST_FAILURES:
            raise UserError(
                f"game {self._connection.instance} failed {MOST_FAILURES} times in a row, at last "
                f"with: {error}; does another program drive in it?"
            ) from error
        return RunLostError(f"game {self._connection.instance}: {error}")

    def _follow(self, seen: GameObservation, for_ms: int) -> None:
        """Update progress, cut-offs and what is counted from observation to observation."""
        progress, state = self._progress, seen.state
        assert progress is not None
        if seen.finished:
            progress.finish()
            self.finished[0] = True
            return
        time_ms = seen.time_ms
        progress.move(state.position, state.velocity, time_ms, for_ms, seen.checkpoints)
        progress.note_passes(self._passed, seen.checkpoints)
        self._passed = seen.checkpoints
        if time_ms % ACTION_MS == 0:
            self._gearbox_counter = self._gearbox_counter + 1 if state.gearbox else 0
            late = time_ms - progress.since_ms > self._no_progress_ms
            self.truncated[0] = late or time_ms >= self._max_race_ms

    def _show(self, seen: GameObservation) -> None:
        """Copy an observation into the arrays."""
        progress = self._progress
        assert progress is not None
        self._blob = seen.blob
        self.race_time_ms[0] = seen.time_ms
        self.zone[0], self.furthest_zone[0] = progress.zone, progress.furthest_zone
        self.meters[0] = progress.meters
        if seen.frame is not None:
            self.frames[0] = seen.frame
        write_game_floats(
            self.floats[0],
            seen.state,
            self.tracks[int(self.track_of_car[0])].line,
            zone=progress.zone,
            meters=progress.meters,
            gearbox_counter=self._gearbox_counter,
            ticks=np.frombuffer(self._ticks, dtype=np.uint8),
        )


def _place(progress: Progress) -> tuple[int, int, int]:
    return progress.zone, progress.furthest_zone, progress.since_ms
