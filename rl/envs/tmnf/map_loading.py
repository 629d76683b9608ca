"""Before the first race: setting the game up for a client, and loading a map."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from datasets.contract.actions import ACTION_MS
from rl.config.game import GameConfig
from rl.envs.tmnf.game_observation import RaceCounters, time_of
from rl.envs.tmnf.game_session import GameSession
from rl.envs.tmnf.link import LinkError, SilentGameError
from rl.envs.tmnf.messages import LinkMessage, MessageId

FOREVER_MS: Final = 1 << 30
LEAVE_S: Final = 10.0
"""Seconds within which a race is left for the menus."""
LOOK_S: Final = 1.0
"""Seconds between two signs of life while the greeting is waited for."""


class MapNotLoadedError(Exception):
    """The game does not begin a race on a map."""


class MapLoader:
    """Sets one game up and loads its maps."""

    def __init__(
        self,
        session: GameSession,
        settings: GameConfig,
        counters: RaceCounters,
        alive: Callable[[], None] = lambda: None,
        frame_wh: tuple[int, int] = (64, 64),
    ) -> None:
        """Prepare.

        Args:
            session: of the game.
            settings: of the game.
            counters: of what the game does otherwise than expected.
            alive: called while the game is waited for, as a sign that nothing hangs.
            frame_wh: (W, H) pixels of a frame that the game can send.
        """
        self._alive, self._frame_wh = alive, frame_wh
        self._session, self._settings, self._counters = session, settings, counters
        self._was_in_menus = True

    def wait_for_greeting(self, timeout_s: float) -> None:
        """Wait for the plugin's greeting, which it puts off while the game starts.

        Args:
            timeout_s: seconds to wait.

        Raises:
            LinkError: none came in time, or the game begins otherwise.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            try:
                greeting = self._session.next(max(min(left_s, LOOK_S), 0.001))
                break
            except SilentGameError as error:
                if left_s <= LOOK_S:
                    text = f"the game did not greet for {timeout_s:.1f} s"
                    raise SilentGameError(text) from error
                self._alive()
        if greeting.id != MessageId.CONNECTED:
            raise LinkError(f"the game begins with {greeting.id.name}")

    def set_up(self, login: str | None, *, is_new_game: bool) -> None:
        """Send the settings that all maps share, while the game waits after its greeting.

        Args:
            login: account that the game logs in to by itself; None leaves that to the game.
            is_new_game: whether the game was just launched, with its console open.

        Raises:
            LinkError: the game does not answer as expected.
        """
        session, settings = self._session, self._settings
        self._was_in_menus = bool(session.ask_number(MessageId.IS_IN_MENUS))
        session.command(MessageId.RESPONSE_TIMEOUT, round(1000 * settings.response_margin_s))
        session.command(MessageId.SET_SPEED, 1.0)
        for text in _console_commands(settings, login, is_new_game=is_new_game):
            session.console(text)

    def load(self, path: str) -> bytes:
        """Load a map and wait for race time 0 after a countdown of this map.

        The game then waits for the acknowledgement of that run step.

        Args:
            path: below the game's folder of challenges.

        Returns:
            The state of the start.

        Raises:
            MapNotLoadedError: no race began on it.
            LinkError: the link broke.
        """
        session, settings = self._session, self._settings
        deadline = time.monotonic() + settings.map_timeout_s
        session.set_period(ACTION_MS)
        before_ms = self._leave_race(path, deadline)
        session.command(MessageId.CANCEL_FRAME)
        session.console(f'map "{_as_the_game_writes(path)}"')
        session.command(MessageId.SET_SPEED, settings.running_speed)
        session.acknowledge()
        # A race that could not be left is over once its time has jumped back.
        is_new = counts_down = is_set = False
        while True:
            message = self._next(path, deadline)
            if message.id == MessageId.RUN_STEP:
                time_ms = int(message.values[0])
                is_new = is_new or time_ms < before_ms
                before_ms = time_ms
                counts_down = is_new and (counts_down or time_ms < 0)
                if counts_down and not is_set:
                    self._set_race_up()
                    is_set = True
                if counts_down and time_ms == 0:
                    return self._start()
                if is_new and time_ms >= 0:  # the countdown was missed: the race begins anew
                    session.command(MessageId.GIVE_UP)
                    counts_down = is_set = False
            session.acknowledge()

    def _leave_race(self, path: str, deadline: float) -> int:
        """Go to the menus. A race that went on could be taken for one on the map to be loaded.

        Returns:
            A time in ms below which a race is another one. A game may not know the command: then
            it is the present race's time.
        """
        session, time_ms = self._session, 0
        if self._was_in_menus:
            return FOREVER_MS
        session.console("exit_map")
        session.command(MessageId.SET_SPEED, 1.0)
        began = time.monotonic()
        while time.monotonic() < began + LEAVE_S:
            # Menus have no run steps, only frames; the community plugin forgets a request that is
            # made while it sends a frame, so the run steps until then ask again.
            session.command(MessageId.REQUEST_FRAME, *self._frame_wh)
            session.acknowledge()
            message = self._next(path, deadline)
            if message.id == MessageId.RUN_STEP:
                time_ms = int(message.values[0])
            if session.ask_number(MessageId.IS_IN_MENUS):
                return FOREVER_MS
        self._counters.races_not_left += 1
        return time_ms

    def _next(self, path: str, deadline: float) -> LinkMessage:
        left_s = deadline - time.monotonic()
        if left_s <= 0.0:
            raise MapNotLoadedError(path)
        try:
            message = self._session.next(left_s)
        except SilentGameError as error:
            raise MapNotLoadedError(path) from error
        self._alive()
        return message

    def _set_race_up(self) -> None:
        """Set what belongs to each race, in its countdown: it takes effect with later pictures."""
        session, settings = self._session, self._settings
        session.console(f"cam {settings.camera}")
        session.command(MessageId.SHOW_INTERFACE, int(not settings.hide_interface))
        if settings.focus:
            session.console("rulka_focus")

    def _start(self) -> bytes:
        """Return the state at race time 0."""
        blob = self._session.ask_bytes(MessageId.GET_STATE)
        if time_of(blob) != 0:
            self._counters.other_times += 1
        self._was_in_menus = False
        return blob


def _as_the_game_writes(path: str) -> str:
    """Return the path of a map with the system's separators, which the game wants."""
    own, other = ("\\", "/") if sys.platform == "win32" else ("/", "\\")
    return path.replace(other, own)


def _console_commands(
    settings: GameConfig, login: str | None, *, is_new_game: bool
) -> tuple[str, ...]:
    """Commands of the console for a new connection; none depends on the order of the others."""

    def switch(on: bool) -> str:
        return "true" if on else "false"

    return (
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
