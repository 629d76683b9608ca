"""Driving one car in the game: starting, acting, observing.

Between two calls the game always waits for an acknowledgement, so it never runs on by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from datasets.contract.actions import ACTION_KEYS, ACTION_MS, TICK_MS
from rl.config.game import GameConfig
from rl.envs.tmnf.game_observation import GameObservation, RaceCounters, gray, parsed, time_of
from rl.envs.tmnf.game_session import GameSession
from rl.envs.tmnf.link import LinkError
from rl.envs.tmnf.map_loading import FOREVER_MS, MapLoader
from rl.envs.tmnf.messages import LinkMessage, MessageId
from rl.envs.tmnf.state_blob import GameState, without_last_time

NO_KEYS: Final = (0, 0, 0, 0)
KEYS: Final = tuple((*keys[2:], *keys[:2]) for keys in ACTION_KEYS.astype(int).tolist())
"""Left, right, accelerate, brake of each action, as `SET_KEYS` holds them."""


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
        greeting_s: float | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for the plugin's greeting and set the game up.

        Args:
            session: fresh.
            settings: of the game.
            image_hw: (H, W) pixels of the frames; None asks for none.
            login: account that the game logs in to by itself; None leaves that to the game.
            is_new_game: whether the game was just launched, with its console open.
            greeting_s: seconds to wait for the greeting; None waits as long as for any answer.
            alive: called while greeting and maps are waited for, as a sign that nothing hangs.

        Raises:
            LinkError: the game does not answer as expected.
        """
        self._session, self._settings, self._image_hw = session, settings, image_hw
        self.counters = RaceCounters()
        frame_wh = (64, 64) if image_hw is None else (image_hw[1], image_hw[0])
        self._maps = MapLoader(session, settings, self.counters, alive, frame_wh)
        self._start_blob: bytes | None = None
        self._checkpoints = 0
        self._time_ms = 0
        self._maps.wait_for_greeting(greeting_s or settings.timeout_s)
        self._maps.set_up(login, is_new_game=is_new_game)

    def load(self, path: str) -> None:
        """Load a map and keep the state of its start; see `MapLoader.load`."""
        self._start_blob = None
        self._start_blob = self._maps.load(path)

    def start(self) -> GameObservation:
        """Put the car to the start of the loaded map and observe.

        Raises:
            LinkError: the link broke, or the race has ended.
        """
        assert self._start_blob is not None, "no map is loaded"
        return self.resume(self._start_blob, 0)

    def resume(self, blob: bytes, time_ms: int, checkpoints: int = 0) -> GameObservation:
        """Go on from a state of the loaded map and observe.

        Args:
            blob: an earlier observation's.
            time_ms: race time of that observation.
            checkpoints: number of checkpoints passed until then.

        Raises:
            LinkError: the link broke, or the race has ended.
        """
        session = self._session
        session.set_period(ACTION_MS)
        if session.waiting != MessageId.RUN_STEP:
            session.command(MessageId.CANCEL_FRAME)
            session.command(MessageId.SET_SPEED, self._settings.running_speed)
            session.acknowledge()
            self._go_on_to(None)
        session.command(MessageId.REWIND, blob)
        session.command(MessageId.SET_KEYS, *NO_KEYS)
        self._checkpoints, self._time_ms = checkpoints, time_ms
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
        session.set_period(for_ms)
        session.command(MessageId.SET_KEYS, *KEYS[action])
        session.command(MessageId.SET_SPEED, self._settings.running_speed)
        session.acknowledge()
        since_ms, self._time_ms = self._time_ms, self._time_ms + for_ms
        self._go_on_to(self._time_ms, since_ms)

    def _go_on_to(self, at_ms: int | None, since_ms: int | None = None) -> None:
        """Wait for a run step, or for the finish.

        Args:
            at_ms: race time of the run step; None takes any and passes over a finish.
            since_ms: race time before; an earlier run step is that of another race.
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
                if since_ms is not None and time_ms < since_ms:
                    raise LinkError(f"the race went back from {since_ms} to {time_ms} ms")
            elif self._is_finish(message):
                if at_ms is not None:
                    return
                blob = session.ask_bytes(MessageId.GET_STATE)
                time_of(blob)  # refuses bytes that are no state
                self._call_off_finish(blob)
            else:
                self._note_event(message)
            session.acknowledge()

    def _seen(self) -> GameObservation:
        """Take the state at a run step or at the finish, which is called off."""
        session = self._session
        blob = session.ask_bytes(MessageId.GET_STATE)
        state = parsed(blob)
        if session.waiting == MessageId.RUN_STEP and state.is_finished:
            session.acknowledge()  # the finish of the same tick is still to be told
            self._go_on_to(FOREVER_MS)
            blob = session.ask_bytes(MessageId.GET_STATE)
            state = parsed(blob)
        finished = session.waiting == MessageId.CHECKPOINT_COUNT
        if finished:
            blob = self._call_off_finish(blob)
        elif state.race_time_ms != self._time_ms:
            self.counters.other_times += 1
        time_ms = _finish_ms(state) if finished else self._time_ms
        return GameObservation(state, blob, time_ms, None, self._passed(state), finished)

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
        # As often as a fast game takes run steps until it draws the picture that stops it.
        deadline = time.monotonic() + self._settings.timeout_s
        while (left_s := deadline - time.monotonic()) > 0.0:
            message = session.next(left_s)
            if message.id == MessageId.FRAME:
                if self._put_back(seen, self._late_ms(seen)) and self._late_ms(seen) != 0:
                    self.counters.rewinds_without_effect += 1
                frame = gray(bytes(message.values[0]), height_width)  # type: ignore[arg-type]
                return replace(seen, frame=frame)
            if self._is_finish(message):
                seen = self._finish_before_frame(seen)
            elif message.id == MessageId.RUN_STEP:
                self._put_back(seen, int(message.values[0]) - seen.time_ms)
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
        state = parsed(blob)
        blob = self._call_off_finish(blob)
        late_ms = state.race_time_ms - seen.state.race_time_ms
        if late_ms > 0:
            self._put_back(seen, late_ms)
            return seen
        passed = self._passed(state)
        return GameObservation(state, blob, _finish_ms(state), None, passed, finished=True)

    def _late_ms(self, seen: GameObservation) -> int:
        """Ask for how long the game has run on from the observed state."""
        return time_of(self._session.ask_bytes(MessageId.GET_STATE)) - seen.state.race_time_ms

    def _put_back(self, seen: GameObservation, late_ms: int) -> bool:
        """Return to the observed state, if the game has run on from it; returns whether it has."""
        if late_ms == 0:
            return False
        self.counters.late_pauses += 1
        self.counters.latest_pause_ms = max(self.counters.latest_pause_ms, late_ms)
        self._session.command(MessageId.REWIND, seen.blob)
        return True

    # -- parts ----------------------------------------------------------------------------------

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


def _finish_ms(state: GameState) -> int:
    """Return the race time at the finish: that of the last checkpoint, where a state tells it."""
    times = state.checkpoint_times_ms
    return times[-1] if times and times[-1] >= 0 else state.race_time_ms
