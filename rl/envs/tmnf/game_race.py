"""Driving one car in the game: loading a map, starting, acting, observing.

Between two calls the game always waits for an acknowledgement, so it never runs on by itself.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, ACTION_MS, TICK_MS
from rl.config.game import GameConfig
from rl.envs.tmnf.game_session import GameSession
from rl.envs.tmnf.link import LinkError, SilentGameError
from rl.envs.tmnf.messages import LinkMessage, MessageId
from rl.envs.tmnf.state_blob import (
    GameState,
    StateBlobError,
    check_length,
    race_time_of,
    read_state,
    without_last_time,
)

logger = logging.getLogger(__name__)

U8 = npt.NDArray[np.uint8]

NO_KEYS: Final = (0, 0, 0, 0)
FOREVER_MS: Final = 1 << 30
GRAY: Final = np.array([29, 150, 77], dtype=np.uint16)
"""Weights of blue, green and red, BT.601 in 1/256: gray pictures stay as they are."""
MOST_CORRECTIONS: Final = 20
"""Times that a game that runs on in spite of speed 0 is put back within one observation."""


class MapNotLoadedError(Exception):
    """The game does not begin a race on a map."""


@dataclass(frozen=True, eq=False)
class GameObservation:
    """What the game shows of the car.

    Attributes:
        state: the car and the race.
        blob: the state as bytes; a rewind to it goes on from here.
        frame: (H, W) uint8 gray; None where no frames are wanted.
        checkpoints: number of checkpoints passed in this race.
        finished: whether the finish was crossed, at `state.race_time_ms`.
    """

    state: GameState
    blob: bytes
    frame: U8 | None
    checkpoints: int
    finished: bool = False


@dataclass
class RaceCounters:
    """How well the game keeps to what is expected of it.

    Attributes:
        late_pauses: observations after which the game had to be put back, since it had run on.
        latest_pause_ms: longest time that it had run on for.
        repeated_steps: run steps of a time that had been told already.
        other_times: states with another time than their message.
    """

    late_pauses: int = 0
    latest_pause_ms: int = 0
    repeated_steps: int = 0
    other_times: int = 0


class GameRace:
    """Drives the car of one game.

    Attributes:
        counters: of this connection.
    """

    def __init__(
        self,
        session: GameSession,
        settings: GameConfig,
        image_hw: tuple[int, int] | None,
        *,
        login: str | None = None,
        is_new_game: bool = False,
    ) -> None:
        """Wait for the plugin's greeting and set the game up.

        Args:
            session: fresh.
            settings: of the game.
            image_hw: (H, W) pixels of the frames; None asks for none.
            login: account that the game logs in to by itself; None leaves that to the game.
            is_new_game: whether the game was just launched, with its console open.

        Raises:
            LinkError: the game does not answer as expected.
        """
        self._session, self._settings, self._image_hw = session, settings, image_hw
        self.counters = RaceCounters()
        self._start_blob: bytes | None = None
        self._checkpoints = 0
        self._time_ms = 0
        self._period_ms = 0
        greeting = session.next(settings.timeout_s)
        if greeting.id != MessageId.CONNECTED:
            raise LinkError(f"the game begins with {greeting.id.name}")
        self._was_in_menus = bool(session.ask_number(MessageId.IS_IN_MENUS))
        session.command(MessageId.RESPONSE_TIMEOUT, round(1000 * settings.response_margin_s))
        session.command(MessageId.SET_SPEED, 1.0)
        for text in _console_commands(settings, login, is_new_game=is_new_game):
            session.console(text)

    def load(self, path: str) -> None:
        """Load a map and keep the state of its start, after a countdown of this map.

        Args:
            path: below the game's folder of challenges.

        Raises:
            MapNotLoadedError: no race began on it.
            LinkError: the link broke.
        """
        session, settings = self._session, self._settings
        self._start_blob = None
        self._set_period(ACTION_MS)
        session.command(MessageId.CANCEL_FRAME)
        session.console(f'map "{path}"')
        session.command(MessageId.SET_SPEED, settings.running_speed)
        session.acknowledge()
        # An old race may run on for a while. The new one has begun once time has jumped back.
        before = FOREVER_MS if self._was_in_menus else None
        deadline, is_new = time.monotonic() + settings.map_timeout_s, False
        while self._start_blob is None:
            left = deadline - time.monotonic()
            if left <= 0.0:
                raise MapNotLoadedError(path)
            message = self._next_while_loading(path, left)
            if message.id == MessageId.RUN_STEP:
                time_ms = int(message.values[0])
                is_new = is_new or (before is not None and time_ms <= min(before, -TICK_MS))
                if is_new and time_ms == 0:
                    self._start_blob = self._state_at(time_ms)
                    self._prepare_race()
                    return
                if time_ms >= 0:  # no countdown came: the race of the loaded map begins anew
                    session.command(MessageId.GIVE_UP)
                    is_new = False
                before = time_ms
            else:
                self._note_event(message)
            session.acknowledge()

    def start(self) -> GameObservation:
        """Put the car to the start of the loaded map and observe.

        Raises:
            LinkError: the link broke, or the race has ended.
        """
        assert self._start_blob is not None, "no map is loaded"
        return self.resume(self._start_blob)

    def resume(self, blob: bytes, checkpoints: int = 0) -> GameObservation:
        """Go on from a state of the loaded map and observe.

        Args:
            blob: an earlier observation's.
            checkpoints: number of checkpoints passed until then.

        Raises:
            LinkError: the link broke, or the race has ended.
        """
        session = self._session
        self._set_period(ACTION_MS)
        if session.waiting != MessageId.RUN_STEP:
            session.command(MessageId.CANCEL_FRAME)
            session.command(MessageId.SET_SPEED, self._settings.running_speed)
            session.acknowledge()
            self._go_on_to(None)
        session.command(MessageId.REWIND, blob)
        session.command(MessageId.SET_KEYS, *NO_KEYS)
        self._checkpoints, self._time_ms = checkpoints, race_time_of(blob)
        return self._observe()

    def act(self, action: int) -> GameObservation:
        """Hold an action's keys for 50 ms and observe.

        Raises:
            LinkError: the link broke, or the game does not go on as expected.
        """
        self._hold(action, ACTION_MS)
        return self._observe()

    def tick(self, action: int) -> GameObservation:
        """Hold an action's keys for 10 ms; the observation has no frame.

        Raises:
            LinkError: as for `act`.
        """
        self._hold(action, TICK_MS)
        return self._seen()

    def look(self) -> GameObservation:
        """Observe, with a frame, where `tick` has come to."""
        return self._observe()

    # -- one observation ------------------------------------------------------------------------

    def _hold(self, action: int, for_ms: int) -> None:
        """Let the game drive, to the run step after so many ms or to the finish."""
        session = self._session
        accelerate, brake, left, right = (int(key) for key in ACTION_KEYS[action])
        self._set_period(for_ms)
        session.command(MessageId.SET_KEYS, left, right, accelerate, brake)
        session.command(MessageId.SET_SPEED, self._settings.running_speed)
        session.acknowledge()
        self._time_ms += for_ms
        self._go_on_to(self._time_ms)

    def _go_on_to(self, at_ms: int | None) -> None:
        """Wait for a run step, or for the finish.

        Args:
            at_ms: race time of the run step; None takes any and passes over a finish.
        """
        session = self._session
        while True:
            message = session.next()
            if message.id == MessageId.RUN_STEP:
                time_ms = int(message.values[0])
                if at_ms is None or time_ms == at_ms:
                    return
                self.counters.repeated_steps += 1
                if time_ms > at_ms:
                    raise LinkError(f"the game went on to {time_ms} ms, past {at_ms} ms")
            elif self._is_finish(message):
                if at_ms is not None:
                    return
                self._call_off_finish(session.ask_bytes(MessageId.GET_STATE))
            else:
                self._note_event(message)
            session.acknowledge()

    def _seen(self) -> GameObservation:
        """Take the state at a run step or at the finish, which is called off."""
        session = self._session
        blob = session.ask_bytes(MessageId.GET_STATE)
        state = self._parsed(blob)
        if session.waiting == MessageId.RUN_STEP and state.is_finished:
            session.acknowledge()  # the finish of the same tick is still to be told
            self._go_on_to(FOREVER_MS)
            blob = session.ask_bytes(MessageId.GET_STATE)
            state = self._parsed(blob)
        finished = session.waiting == MessageId.CHECKPOINT_COUNT
        if finished:
            blob = self._call_off_finish(blob)
        elif state.race_time_ms != self._time_ms:
            self.counters.other_times += 1
        return GameObservation(state, blob, None, self._passed(state), finished)

    def _passed(self, state: GameState) -> int:
        """Return the number of checkpoints passed, where a state tells it from the state."""
        times = state.checkpoint_times_ms
        return sum(time_ms >= 0 for time_ms in times) if times else self._checkpoints

    def _observe(self) -> GameObservation:
        """Take state and frame, at a run step or at the finish."""
        session, seen = self._session, self._seen()
        if self._image_hw is None:
            return seen
        height, width = self._image_hw
        session.command(MessageId.REWIND_TO_CURRENT)
        session.command(MessageId.SET_SPEED, 0.0)
        session.command(MessageId.REQUEST_FRAME, width, height)
        session.acknowledge()
        return self._with_frame(seen)

    def _with_frame(self, seen: GameObservation) -> GameObservation:
        """Wait for the frame of a state, in which the game should stand still."""
        session, height_width = self._session, self._image_hw
        assert height_width is not None
        for _ in range(MOST_CORRECTIONS):
            message = session.next()
            if message.id == MessageId.FRAME:
                self._put_back(seen, self._time_of(session.ask_bytes(MessageId.GET_STATE)))
                frame = gray(bytes(message.values[0]), height_width)  # type: ignore[arg-type]
                return replace(seen, frame=frame)
            if self._is_finish(message):
                seen = self._finish_before_frame(seen)
            elif message.id == MessageId.RUN_STEP:
                self._put_back(seen, int(message.values[0]))
            else:
                self._note_event(message)
            session.acknowledge()
        raise LinkError("the game does not stop at speed 0")

    def _finish_before_frame(self, seen: GameObservation) -> GameObservation:
        """Return what counts when the finish is told while a frame is waited for.

        It may be that of the same tick, told after the run step. A later one is that of a game
        which has run on in spite of speed 0, and did not happen.
        """
        blob = self._session.ask_bytes(MessageId.GET_STATE)
        state = self._parsed(blob)
        blob = self._call_off_finish(blob)
        if state.race_time_ms > seen.state.race_time_ms:
            self._put_back(seen, state.race_time_ms)
            return seen
        return GameObservation(state, blob, None, self._passed(state), finished=True)

    def _put_back(self, seen: GameObservation, now_ms: int) -> None:
        """Return to the observed state, if the game has run on from it."""
        late_ms = now_ms - seen.state.race_time_ms
        if late_ms == 0:
            return
        self.counters.late_pauses += 1
        self.counters.latest_pause_ms = max(self.counters.latest_pause_ms, late_ms)
        self._session.command(MessageId.REWIND, seen.blob)

    # -- parts ----------------------------------------------------------------------------------

    def _next_while_loading(self, path: str, left_s: float) -> LinkMessage:
        try:
            return self._session.next(left_s)
        except SilentGameError as error:
            raise MapNotLoadedError(path) from error

    def _prepare_race(self) -> None:
        """Set what belongs to each race, once a map is loaded."""
        session, settings = self._session, self._settings
        session.console(f"cam {settings.camera}")
        session.command(MessageId.SHOW_INTERFACE, int(not settings.hide_interface))
        if settings.focus:
            session.console("rulka_focus")
        self._was_in_menus = False

    def _set_period(self, period_ms: int) -> None:
        if period_ms != self._period_ms:
            self._session.command(MessageId.STEP_PERIOD, period_ms)
            self._period_ms = period_ms

    def _is_finish(self, message: LinkMessage) -> bool:
        at_checkpoint = message.id == MessageId.CHECKPOINT_COUNT
        return at_checkpoint and message.values[0] == message.values[1]

    def _note_event(self, message: LinkMessage) -> None:
        if message.id == MessageId.CHECKPOINT_COUNT:
            self._checkpoints = int(message.values[0])

    def _call_off_finish(self, blob: bytes) -> bytes:
        """Keep the race from ending; returns the state that it goes on from."""
        changed = without_last_time(blob)
        if changed is None:
            self._session.command(MessageId.PREVENT_FINISH)
            return blob
        self._session.command(MessageId.REWIND, changed)
        return changed

    def _state_at(self, time_ms: int) -> bytes:
        blob = self._session.ask_bytes(MessageId.GET_STATE)
        if self._parsed(blob).race_time_ms != time_ms:
            self.counters.other_times += 1
        return blob

    def _time_of(self, blob: bytes) -> int:
        try:
            check_length(blob)
        except StateBlobError as error:
            raise LinkError(str(error)) from error
        return race_time_of(blob)

    def _parsed(self, blob: bytes) -> GameState:
        try:
            return read_state(blob)
        except StateBlobError as error:
            raise LinkError(str(error)) from error


def gray(pixels: bytes, image_hw: tuple[int, int]) -> U8:
    """Return a frame of the game in gray.

    Args:
        pixels: BGRA, rows from the top.
        image_hw: (H, W) pixels.

    Returns:
        (H, W) uint8.
    """
    bgra = np.frombuffer(pixels, dtype=np.uint8).reshape(*image_hw, 4)
    weighted = bgra[..., :3].astype(np.uint16) @ GRAY
    return ((weighted + 128) >> 8).astype(np.uint8)


def _console_commands(
    settings: GameConfig, login: str | None, *, is_new_game: bool
) -> tuple[str, ...]:
    """Commands of the console for a new connection; none depends on the order of the others."""

    def switch(on: bool) -> str:
        return "true" if on else "false"

    commands = (
        *(("toggle_console",) if is_new_game else ()),
        f"set countdown_speed {settings.countdown_speed:g}",
        *((f"set autologin {login}",) if login else ()),
        f"set unfocused_fps_limit {switch(settings.unfocused_fps_limit)}",
        "set skip_map_load_screens true",
        f"set disable_forced_camera {switch(settings.disable_forced_camera)}",
        "set autorewind false",
        "set auto_reload_plugins false",
        "set use_valseed false",
    )
    return commands
