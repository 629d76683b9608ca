"""Runs a game and ends it when the process that wanted it is gone, however that ended.

A program of its own, `python supervisor.py COMMAND...`, that imports nothing of this project. Its
standard input is a pipe that its parent holds open. On Linux everything that the command starts is
in one process group. On Windows the loader ends once the game runs, so its child is looked for.
Its exit code is the command's, or 128 and the number of the signal that ended it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Final

POLL_S: Final = 0.2
GRACE_S: Final = 3.0
CHILD_S: Final = 60.0
LOOK_S: Final = 2.0
"""Between two looks whether the game runs on Windows: each starts a program."""


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


class _LoadedGame:
    """The game on Windows: a child of the loader, which itself ends."""

    def __init__(self, command: list[str]) -> None:
        self._loader = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._game: int | None = None
        self._until = time.monotonic() + CHILD_S
        self._next_look = 0.0

    def is_running(self) -> bool:
        if self._game is None:
            self._game = self._find()
            return self._game is not None or time.monotonic() < self._until
        if time.monotonic() < self._next_look:
            return True
        self._next_look = time.monotonic() + LOOK_S
        listed = self._ask(f"Get-Process -Id {self._game} -ErrorAction SilentlyContinue")
        return bool(listed)

    def exit_code(self) -> int | None:
        return self._loader.poll()

    def end(self) -> None:
        for process in (self._game, self._loader.pid):
            if process is not None:
                subprocess.run(["taskkill", "/PID", str(process), "/T", "/F"], check=False)

    def _find(self) -> int | None:
        text = self._ask(
            "Get-CimInstance Win32_Process -Filter "
            f'"ParentProcessId={self._loader.pid}" | Where-Object Name -like "TmForever*" | '
            "Select-Object -ExpandProperty ProcessId"
        )
        return int(text.split()[0]) if text.split() else None

    def _ask(self, script: str) -> str:
        done = subprocess.run(
            ["powershell", "-NoProfile", "-Command", script],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()


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
    game = _LoadedGame(command) if sys.platform == "win32" else _Group(command)
    while game.is_running():
        if parent_is_gone.wait(POLL_S):
            game.end()
            return 0
    code = game.exit_code() or 0
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
