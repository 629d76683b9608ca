"""The process of one game: launched, watched, ended. Games of others are never touched."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from rl.envs.tmnf.machine.machine_paths import GameMachine
from rl.envs.tmnf.machine.window import focus_window

logger = logging.getLogger(__name__)

END_S: Final = 8.0
SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")

_LAUNCHED: Final[dict[int, GameProcess]] = {}
"""Games of this process by port."""


def game_process(machine: GameMachine, port: int, *, windowed: bool) -> GameProcess:
    """Return the game of this process that belongs to a port; it may not be launched yet."""
    if port not in _LAUNCHED:
        _LAUNCHED[port] = GameProcess(machine, port, windowed=windowed)
    return _LAUNCHED[port]


def end_games() -> None:
    """End all games that this process has launched."""
    for port in list(_LAUNCHED):
        _LAUNCHED.pop(port).end()


class GameProcess:
    """Launches one game. It ends with this process, by a supervisor between the two."""

    def __init__(self, machine: GameMachine, port: int, *, windowed: bool) -> None:
        """Prepare; nothing is launched yet.

        Args:
            machine: says how a game is launched.
            port: that the game's plugin is to listen on.
            windowed: on Linux: inside a window of its own.
        """
        self._machine, self._port, self._windowed = machine, port, windowed
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._launched_at = 0.0
        self._is_new = False

    @property
    def is_running(self) -> bool:
        """Whether a game that was launched here still runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def is_new(self) -> bool:
        """Whether a game was launched whose plugin has not greeted yet."""
        return self._is_new

    @property
    def exit_code(self) -> int | None:
        """Exit code of the program that launched a game which has ended; None for others."""
        return None if self._supervisor is None else self._supervisor.poll()

    def note_greeting(self) -> None:
        """Note that the plugin has greeted: from now on the game is not new."""
        self._is_new = False

    def age_s(self) -> float:
        """Return the seconds since the launch; 0 for a game that was not launched here."""
        return time.monotonic() - self._launched_at if self.is_running else 0.0

    def launch(self) -> None:
        """Launch a game.

        Raises:
            UserError: nothing says how, or as whom it logs in, or the program is missing.
        """
        command = self._machine.launch_command(self._port, windowed=self._windowed)
        if shutil.which(command[0]) is None:
            raise UserError(f"{command[0]}: no such program to launch the game with")
        logger.info("launching a game on port %d", self._port)
        self._supervisor = subprocess.Popen(
            [sys.executable, str(SUPERVISOR), *command], stdin=subprocess.PIPE
        )
        self._launched_at, self._is_new = time.monotonic(), True

    def end(self) -> None:
        """End the game, if it was launched here."""
        supervisor, self._supervisor = self._supervisor, None
        self._is_new = False
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        with suppress(OSError):
            supervisor.stdin.close()
        try:
            supervisor.wait(END_S)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait(END_S)

    def focus(self) -> None:
        """Give the game's window the focus, as far as this machine lets a program do that.

        The plugin of this project does it in the game; this is for other plugins.
        """
        windowed = self._windowed and self.is_running
        focus_window(self._port, self._machine.desktop(self._port, windowed=windowed))
