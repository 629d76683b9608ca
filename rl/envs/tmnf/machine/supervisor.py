"""Runs a game and ends it when the process that wanted it is gone, however that ended.

A program of its own, `python supervisor.py COMMAND...`, that imports nothing of this project. Its
standard input is a pipe that its parent holds open. On Linux everything that the command starts is
in one process group. On Windows the loader ends once the game runs, so its child is looked for.
Its exit code is the command's, or 128 and the number of the signal that ended it.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Final

logger = logging.getLogger(__name__)

POLL_S: Final = 0.2
GRACE_S: Final = 3.0
CHILD_S: Final = 60.0
"""From the last look at which the loader ran, or nothing could be learnt, until a game on Windows
that was not found counts as ended."""
LOOK_S: Final = 2.0
"""Between two looks whether the game runs on Windows: each starts a program."""
ASK_S: Final = 3.0
"""Longest such look: whoever ends a game waits for two of them at most, and 8 s in all."""
GAME_PROGRAM: Final = "TmForever.exe"
ENDING_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that may reach the parent's whole group, such as from a terminal that is closed."""


def _outlive(number: int, frame: Any) -> None:
    """Do nothing. If the signals were ignored instead, the game would ignore them, too."""


class _Group:
    """All processes of a command on Linux."""

    def __init__(self, command: list[str]) -> None:
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def is_running(self) -> bool:
        self._child.poll()
        return self._signal(0)

    def exit_code(self) -> int | None:
        return self._child.poll()

    def end(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(POLL_S / 4)
        self._signal(9)

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self._child.pid, number)  # type: ignore[attr-defined,unused-ignore]
        except ProcessLookupError:
            return False
        return True


class LoadedGame:
    """The game on Windows: a child of the loader, which itself ends.

    Windows gives the number of a process that has ended to another one, so a game is known by its
    program's name and the time of its creation, too. The loader's number stays its own.
    """

    def __init__(self, command: list[str]) -> None:
        """Start the loader."""
        self._loader = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._game: str | None = None
        self._until = time.monotonic() + CHILD_S
        self._next_look = 0.0

    def is_running(self) -> bool:
        """Return whether the game runs, or may still be started."""
        now = time.monotonic()
        if now < self._next_look:
            return True
        self._next_look = now + LOOK_S
        if self._game is not None:
            games = self._games(f"ProcessId={self._game.split()[0]}")
            return games is None or self._game in games
        games = self._children()
        if games is None or self._loader.poll() is None:  # nothing is known yet
            self._until = now + CHILD_S
        self._game = games[0] if games else None
        return self._game is not None or now < self._until

    def exit_code(self) -> int | None:
        """Return the loader's exit code, None while it runs."""
        return self._loader.poll()

    def end(self) -> None:
        """End the game, and the loader if it still runs."""
        game = self._game or next(iter(self._children() or ()), None)
        if game is not None:
            _end_process(game.split()[0], "/FI", f"IMAGENAME eq {GAME_PROGRAM}")
        else:
            logger.warning("no %s of this run was found to be ended", GAME_PROGRAM)
        if self._loader.poll() is None:
            _end_process(str(self._loader.pid))

    def _children(self) -> list[str] | None:
        return self._games(f"ParentProcessId={self._loader.pid}")

    def _games(self, condition: str) -> list[str] | None:
        """Return number and creation time of the games that fulfil a condition; None: unknown."""
        script = (
            f"Get-CimInstance Win32_Process -Filter \"Name='{GAME_PROGRAM}' AND {condition}\" | "
            "ForEach-Object { [string]$_.ProcessId + ' ' + $_.CreationDate.Ticks }"
        )
        try:
            done = subprocess.run(
                ["powershell", "-NoProfile", "-Command", script],
                capture_output=True,
                text=True,
                check=True,
                timeout=ASK_S,
            )
        except (subprocess.SubprocessError, OSError):
            return None
        return done.stdout.splitlines()


def _end_process(process: str, *conditions: str) -> None:
    subprocess.run(["taskkill", "/PID", process, *conditions, "/T", "/F"], check=False)


def main(command: list[str]) -> int:
    """Run a command until it ends, or until standard input ends."""
    for name in ENDING_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _outlive)
    parent_is_gone = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        parent_is_gone.set()

    threading.Thread(target=watch, daemon=True).start()
    game = LoadedGame(command) if sys.platform == "win32" else _Group(command)
    while game.is_running():
        if parent_is_gone.wait(POLL_S):
            game.end()
            return 0
    code = game.exit_code() or 0
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
