"""The game without its plugin: one car in the simulator, with a countdown and checkpoints."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from datasets.contract.actions import (
    ACTION_FORWARD,
    KEYS_TO_ACTION,
    TICK_MS,
    TICKS_PER_ACTION,
)
from datasets.contract.line import START_ZONE
from datasets.wheels import GAME_WHEELS
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.camera import render_all
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
    STATE_SIZE,
    VX,
    VZ,
    YAW,
    YAW_RATE,
    X,
    Z,
)
from rl.envs.sim.road import Track
from rl.envs.tmnf.state_blob import (
    NOT_PASSED,
    SPARE,
    UNUSED,
    GameState,
    StateWriter,
    checkpoint_times_of,
    race_time_of,
)

COUNTDOWN_MS: Final = 2600
NEVER_MS: Final = 1_000_000_000
MATERIALS: Final = (16, 2, 6, 7)
"""The game's material of each of the simulator's surfaces: asphalt, grass, dirt, turbo."""
NOTHING: Final = 28
"""The game's material of no surface."""
RUBBISH: Final = 0x3E3A0000
"""What the game has in the upper half of a material."""
_EXACT: Final = struct.Struct(f"<{STATE_SIZE}d")
_PLACE: Final = struct.Struct("<3i")
_GRAY: Final = np.uint32(0x010101)
_OPAQUE: Final = np.uint32(0xFF000000)
"""What makes BGRA of gray."""


class SimulatedGame:
    """One car on one of some maps, advanced by ticks of 10 ms.

    Attributes:
        in_race: whether a map is loaded; else the menus are shown.
        map_name: name of the loaded map.
        passed_ms: times at which the checkpoints were passed, the finish last.
        is_finished: whether the car has crossed the finish and that was not called off.
        after_finish_ms: race time driven since the finish, in ms.
        state_offset_ms: added to the race time inside states.
    """

    def __init__(self, tracks: Mapping[str, Track], checkpoints: int = 3) -> None:
        """Show the menus.

        Args:
            tracks: maps by the name under which they are loaded.
            checkpoints: before the finish of each map, evenly along its line.
        """
        self._tracks, self._checkpoints = dict(tracks), checkpoints
        self._writer = StateWriter(checkpoints + 1)
        self.in_race = False
        self.map_name = ""
        self.passed_ms = [NOT_PASSED] * (checkpoints + 1)
        self.is_finished = False
        self.after_finish_ms = 0
        self.state_offset_ms = 0
        self._countdown_ms = COUNTDOWN_MS
        self._keys = (0, 0, 0, 0)
        self._action = np.full(1, ACTION_FORWARD, dtype=np.uint8)
        self._batches: dict[str, RaceBatch] = {}
        self._gates: Sequence[int] = ()
        self._saved: bytes | None = None  # of this moment

    @property
    def race_time_ms(self) -> int:
        """Race time; negative in the countdown."""
        return -self._countdown_ms if self._countdown_ms else int(self._batch.race_time_ms[0])

    @property
    def target(self) -> int:
        """Number of checkpoints, the finish included."""
        return len(self.passed_ms)

    @property
    def _batch(self) -> RaceBatch:
        return self._batches[self.map_name]

    def load(self, name: str) -> bool:
        """Load a map; the countdown begins. Returns whether there is one of that name."""
        if name not in self._tracks:
            return False
        track = self._tracks[name]
        if name not in self._batches:
            self._batches[name] = RaceBatch(
                [track],
                [0],
                start_noise=0.0,
                render=False,
                no_progress_ms=NEVER_MS,
                max_race_ms=NEVER_MS,
            )
        self.map_name, self.in_race = name, True
        first, last = START_ZONE, track.line.finish_zone
        count = self._checkpoints + 1
        self._gates = [first + (last - first) * k // count for k in range(1, count)]
        self.give_up()
        return True

    def warm_up(self) -> None:
        """Drive and draw once, so that no client waits while the simulator is compiled."""
        self.load(next(iter(self._tracks)))
        self._countdown_ms = 0
        self.drive(TICKS_PER_ACTION)
        self.picture(64, 64)
        self.leave()

    def leave(self) -> None:
        """Show the menus."""
        self.in_race = False

    def give_up(self) -> None:
        """Begin the race anew, with its countdown."""
        self._saved = None
        self._batch.reset([0], [0])
        self._countdown_ms = COUNTDOWN_MS
        self.passed_ms = [NOT_PASSED] * self.target
        self.is_finished, self.after_finish_ms = False, 0
        self.press(0, 0, 0, 0)

    def press(self, left: int, right: int, accelerate: int, brake: int) -> None:
        """Hold these keys from the next tick on."""
        accelerate, brake, left, right = (int(key > 0) for key in (accelerate, brake, left, right))
        self._keys = (accelerate, brake, left, right)
        self._action[0] = KEYS_TO_ACTION[8 * accelerate + 4 * brake + 2 * left + right]

    def drive(self, ticks: int) -> tuple[int, int]:
        """Drive up to so many times 10 ms, but never beyond a tick that passes a checkpoint.

        Returns:
            Number of ticks driven, at least 1, and of checkpoints passed in the last of them.
        """
        self._saved = None
        if self._countdown_ms:
            driven = min(ticks, self._countdown_ms // TICK_MS)
            self._countdown_ms -= driven * TICK_MS
            return driven, 0
        if self.is_finished:
            self.after_finish_ms += TICK_MS
            return 1, 0
        batch = self._batch
        if ticks >= TICKS_PER_ACTION:  # one call for the most part, and back if that was too far
            before = batch.get_state()
            batch.step(self._action)
            if not batch.finished[0] and self._count() == self._passed:
                return TICKS_PER_ACTION, 0
            batch.set_state(before)
        batch.tick(self._action)
        return 1, self._pass_checkpoints()

    @property
    def _passed(self) -> int:
        """Number of checkpoints passed so far."""
        return len(self.passed_ms) - self.passed_ms.count(NOT_PASSED)

    def _count(self) -> int:
        """Return the number of gates, the finish aside, that the car has come to."""
        return bisect_right(self._gates, int(self._batch.furthest_zone[0]))

    def _pass_checkpoints(self) -> int:
        """Note the checkpoints that the last tick has passed; returns their number."""
        before, count = self._passed, self._count()
        if self._batch.finished[0]:
            count = self.target
            self.is_finished = True
        now = int(self._batch.race_time_ms[0])
        for place in range(before, count):
            self.passed_ms[place] = now
        return max(count - before, 0)

    def call_off_finish(self) -> None:
        """Let the race go on although the car has crossed the finish."""
        self._saved = None
        self.passed_ms[-1] = NOT_PASSED
        self.is_finished, self.after_finish_ms = False, 0
        self._batch.finished[0] = False

    def picture(self, width: int, height: int) -> bytes:
        """Return the view as BGRA, rows from the top; black in the menus."""
        if not self.in_race:
            return bytes(4 * width * height)
        batch = self._batch
        if batch.frames.shape[1:] != (height, width):
            batch.frames = np.zeros((1, height, width), dtype=np.uint8)
        cars = (batch.track_of_car, batch.road_index, batch.state)
        render_all(batch.frames, batch.packed, *cars)
        pixels = batch.frames[0].astype("<u4")
        pixels *= _GRAY
        pixels |= _OPAQUE
        return bytes(pixels)

    def save(self) -> bytes:
        """Return the state as the game would, with the simulator's own state inside."""
        if self._saved is not None:
            return self._saved
        batch = self._batch
        place = _PLACE.pack(batch.road_index[0], batch.zone[0], batch.furthest_zone[0])
        self._saved = self._writer.write(self._game_state(), batch.state[0].tobytes(), place)
        return self._saved

    def restore(self, blob: bytes) -> None:
        """Continue from a saved state of the loaded map.

        Raises:
            StateBlobError: a wrong length.
        """
        if blob is self._saved:  # of this very moment
            self.after_finish_ms = 0
            return
        self._saved = None
        batch = self._batch
        times = list(checkpoint_times_of(blob))
        time_ms = race_time_of(blob) - self.state_offset_ms
        batch.state[0] = _EXACT.unpack_from(blob, UNUSED.start)
        place = _PLACE.unpack_from(blob, SPARE.start)
        batch.road_index[0], batch.zone[0], batch.furthest_zone[0] = place
        batch.race_time_ms[0] = max(time_ms, 0)
        self._countdown_ms = max(-time_ms, 0)
        self.passed_ms = times
        self.is_finished = self.passed_ms[-1] != NOT_PASSED
        batch.finished[0] = self.is_finished
        self.after_finish_ms = 0

    def script(self) -> str:
        """Return the keys that are held as an input script of one moment."""
        names = ("up", "down", "left", "right")
        held = [name for name, pressed in zip(names, self._keys, strict=True) if pressed]
        return "".join(f"{max(self.race_time_ms, 0)} press {name}\n" for name in held)

    def _game_state(self) -> GameState:
        """Return the fields that the game has; its wheels are in another order."""
        state = self._batch.state[0].tolist()
        rotation = _rotation(state)
        (left_x, left_y, left_z), _, (ahead_x, ahead_y, ahead_z) = rotation
        roll, pitch = state[ROLL_RATE], state[PITCH_RATE]
        angular = (
            roll * ahead_x - pitch * left_x,
            roll * ahead_y - pitch * left_y + state[YAW_RATE],
            roll * ahead_z - pitch * left_z,
        )
        grounded = not state[AIRBORNE]
        return GameState(
            race_time_ms=self.race_time_ms + self.state_offset_ms,
            rotation=np.array(rotation),
            position=np.array(state[X : Z + 1]),
            velocity=np.array(state[VX : VZ + 1]),
            angular_velocity=np.array(angular),
            gearbox=int(state[SHIFT_LEFT_MS] > 0.0),
            gear=int(state[GEAR]),
            rpm=state[RPM],
            is_freewheeling=False,
            dampers=tuple(state[FIRST_DAMPER + wheel] for wheel in GAME_WHEELS),
            contact=(grounded,) * N_WHEELS,
            sliding=(bool(state[SLIDING]),) * N_WHEELS,
            materials=tuple(_material(state[FIRST_SURFACE + wheel]) for wheel in GAME_WHEELS),
            is_finished=self.is_finished,
            checkpoint_times_ms=tuple(self.passed_ms),
        )


def _material(surface: float) -> int:
    group = int(surface)
    return (MATERIALS[group] if 0 <= group < len(MATERIALS) else NOTHING) | RUBBISH


def _rotation(state: Sequence[float]) -> list[list[float]]:
    """Return (3, 3), rows: the car's left, up and forward axes in the world."""
    sy, cy = math.sin(state[YAW]), math.cos(state[YAW])
    sp, cp = math.sin(state[PITCH]), math.cos(state[PITCH])
    sr, cr = math.sin(state[ROLL]), math.cos(state[ROLL])
    lean_x, lean_y, lean_z = -sy * sp, cp, -cy * sp  # up without roll; left is level then
    return [
        [cr * cy + sr * lean_x, sr * lean_y, sr * lean_z - cr * sy],
        [cr * lean_x - sr * cy, cr * lean_y, cr * lean_z + sr * sy],
        [sy * cp, sp, cy * cp],
    ]
