"""The way to one game: launching it, connecting, and coming back after it failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Final

from datasets.contract.errors import UserError
from rl.config.game import GameConfig
from rl.envs.tmnf.game_race import GameRace
from rl.envs.tmnf.game_session import GameSession
from rl.envs.tmnf.link import GameLink, LinkError, TcpLink
from rl.envs.tmnf.machine.game_process import game_process
from rl.envs.tmnf.machine.machine_paths import GameMachine
from rl.envs.tmnf.machine.records import records_aside

logger = logging.getLogger(__name__)

TRY_S: Final = 1.0
"""Seconds between two looks whether the game's port is open."""
MOST_LAUNCHES: Final = 2
"""Launches of one attempt to connect."""
MOST_FAILURES_OF_A_GAME: Final = 2
"""Failures in a row after which a game that still runs is ended and launched anew."""


class GameConnection:
    """Keeps one game connected, with one map loaded.

    Attributes:
        instance: number of the game, from 0; its plugin listens on the base port plus it.
        failures_in_a_row: calls of `fail` since `note_sound`.
    """

    def __init__(
        self,
        settings: GameConfig,
        instance: int,
        image_hw: tuple[int, int] | None,
        *,
        alive: Callable[[], None] = lambda: None,
        open_link: Callable[[], GameLink] | None = None,
        machine: GameMachine | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            settings: of the game.
            instance: number of the game.
            image_hw: (H, W) pixels of the frames; None asks for none.
            alive: called while a game is waited for, as a sign that nothing hangs.
            open_link: opens a link of another kind; None connects to the game's port.
            machine: where the game lies; None reads the environment.
        """
        self.instance = instance
        self._settings, self._image_hw, self._alive = settings, image_hw, alive
        self._open_link = open_link
        self._machine = machine or GameMachine.from_environment()
        self._port = settings.base_port + instance
        self._process = game_process(self._machine, self._port, windowed=settings.windowed)
        self._session: GameSession | None = None
        self._race: GameRace | None = None
        self._loaded: str | None = None
        self._failures = 0
        self.failures_in_a_row = 0
        self._were_loaded: set[str] = set()
        self._was_connected = False

    @property
    def race(self) -> GameRace:
        """The race on the loaded map.

        Raises:
            LinkError: the game is not connected.
        """
        if self._race is None:
            raise LinkError("the game is not connected")
        return self._race

    def connect(self) -> None:
        """Connect to the game, after launching it where that is needed.

        Raises:
            LinkError: the game does not answer as expected.
            UserError: there is no game, and none can be launched.
        """
        if self._race is None:
            self._connect()

    def race_on(self, path: str) -> GameRace:
        """Return a race on a map; connects, launches and loads as far as needed.

        Args:
            path: of the map, below the game's folder of challenges.

        Raises:
            LinkError: the game failed.
            MapNotLoadedError: it does not begin a race on this map.
            UserError: there is no game, and none can be launched.
        """
        hours = self._settings.reboot_after_hours
        if hours is not None and self._process.age_s() > 3600.0 * hours:
            logger.info("game %d is launched anew after %g hours", self.instance, hours)
            self.close()
            self._process.end()
        self.connect()
        self._alive()
        race = self.race
        if self._loaded != path:
            self._loaded = None
            hides = self._settings.hide_records and self._open_link is None
            autosaves = self._machine.autosaves
            with records_aside(autosaves, path, self._alive) if hides else nullcontext():
                self._alive()
                race.load(path)
            self._loaded = path
            self._were_loaded.add(path)
            self._focus()
        self._alive()
        return race

    def fail(self, error: Exception) -> None:
        """Close the link after an error; a game that fails again and again is ended.

        Only games that were launched here are ended.
        """
        self.close()
        self._alive()
        self._failures += 1
        self.failures_in_a_row += 1
        if self._failures >= MOST_FAILURES_OF_A_GAME and self._process.is_running:
            logger.warning("game %d hangs (%s): it is launched anew", self.instance, error)
            self._process.end()
            self._failures = 0

    def note_sound(self) -> None:
        """Note that the game drives well: failures before this are forgotten."""
        self._failures = self.failures_in_a_row = 0

    def has_loaded(self, path: str) -> bool:
        """Return whether this map was loaded before."""
        return path in self._were_loaded

    def close(self) -> None:
        """Let the game go on without a client; may be called twice."""
        if self._race is not None:
            counters = self._race.counters
            unexpected = {name: count for name, count in asdict(counters).items() if count}
            if unexpected:
                logger.info("game %d did otherwise than expected: %s", self.instance, unexpected)
        if self._session is not None:
            self._session.close()
        self._session = self._race = self._loaded = None

    # -- parts ----------------------------------------------------------------------------------

    def _connect(self) -> None:
        settings = self._settings
        link = self._open_link() if self._open_link is not None else self._tcp_link()
        session = GameSession(
            link, timeout_s=settings.timeout_s, margin_s=settings.response_margin_s
        )
        is_new, patience_s = self._process.is_new, settings.timeout_s
        if is_new:  # its plugin greets when the game has started
            patience_s = max(patience_s, settings.launch_timeout_s - self._process.age_s())
        try:
            self._race = GameRace(
                session,
                settings,
                self._image_hw,
                login=self._machine.login,
                is_new_game=is_new,
                greeting_s=patience_s,
                alive=self._alive,
            )
        except BaseException:
            session.close()
            raise
        self._process.note_greeting()
        self._session, self._was_connected = session, True

    def _tcp_link(self) -> TcpLink:
        """Connect to the game's port, after launching the game where that is needed.

        Raises:
            UserError: nothing listens there, and no game that is launched stays.
        """
        settings = self._settings
        launches = settings.launch and self._machine.can_launch
        waits_long = launches or self._was_connected
        patience_s = settings.launch_timeout_s if waits_long else settings.timeout_s
        deadline = time.monotonic() + patience_s
        launches_done, may_start_over = 0, launches and self._was_connected
        while True:
            try:
                return TcpLink(self._port, timeout_s=TRY_S)
            except LinkError as error:
                self._alive()
                if launches and not self._process.is_running:
                    if launches_done == MOST_LAUNCHES:
                        raise UserError(self._ended()) from error
                    if launches_done:
                        logger.warning("game %d ended while it started", self.instance)
                    self._process.launch()
                    launches_done += 1
                if time.monotonic() > deadline:
                    if not may_start_over:
                        raise UserError(self._nobody(error)) from error
                    logger.warning("game %d does not come up: launched anew", self.instance)
                    self._process.end()
                    deadline = time.monotonic() + patience_s
                    launches_done, may_start_over = 0, False

    def _nobody(self, error: LinkError) -> str:
        hint = "launch it" if self._machine.can_launch else "launch it, or set TMLOADER_PATH"
        return (
            f"game {self.instance}: {error}; {hint} with `set custom_port {self._port}`, and see "
            "`rulka-pipeline game check`"
        )

    def _ended(self) -> str:
        code = self._process.exit_code
        return (
            f"game {self.instance}: the launch program ended {MOST_LAUNCHES} times (exit code "
            f"{code}) without a game on port {self._port}; a launch script must not detach the game"
        )

    def _focus(self) -> None:
        if self._settings.focus and self._open_link is None:
            self._process.focus()
