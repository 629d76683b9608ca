"""The window of one game, found among those of others, and given the focus."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, Final

WINDOW_TITLE: Final = "Track"
"""Beginning of the title of the game's window."""
FOCUS_S: Final = 3.0
SHOW_RESTORED: Final = 9
"""Windows' number for a window that is neither minimised nor maximised."""


def focus_window(port: int, desktop: str | None) -> None:
    """Give a game's window the focus, as far as this machine lets a program do that.

    The game waits for its client meanwhile, so this waits for the game a few seconds at most.

    Args:
        port: that the game's plugin listens on.
        desktop: name of the Wine desktop that the game runs in; None: it has a window of its own.
    """
    if sys.platform == "win32":
        focus = threading.Thread(target=_focus_on_windows, args=(port,), daemon=True)
        focus.start()
        focus.join(FOCUS_S)
    elif shutil.which("xdotool"):
        title = f"^{WINDOW_TITLE}" if desktop is None else f"^{desktop}([^0-9]|$)"
        with suppress(subprocess.SubprocessError, OSError):  # the race goes on without it
            subprocess.run(
                ["xdotool", "search", "--name", title, "windowactivate"],
                check=False,
                capture_output=True,
                timeout=FOCUS_S,
            )


def focus_process(user32: Any, process: int | None) -> None:
    """Give the focus to the first visible window that has the game's title.

    `ShowWindow` would wait for the window's thread, which waits for this process.

    Args:
        user32: Windows' library of this name.
        process: that the window belongs to; None: any.
    """

    def visit(window: int, _: int) -> bool:
        """Return whether to look at further windows."""
        title, owner = ctypes.create_unicode_buffer(64), ctypes.c_ulong()
        user32.GetWindowTextW(window, title, 64)
        user32.GetWindowThreadProcessId(window, ctypes.byref(owner))
        fits = title.value.startswith(WINDOW_TITLE) and process in (None, owner.value)
        if not fits or not user32.IsWindowVisible(window):
            return True
        user32.ShowWindowAsync(window, SHOW_RESTORED)
        user32.SetForegroundWindow(window)
        return False

    callback = getattr(ctypes, "WINFUNCTYPE", ctypes.CFUNCTYPE)
    user32.EnumWindows(callback(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)(visit), 0)


def listener_in(connections: str, port: int) -> int | None:
    """Return the process that listens on a port, from what Windows' `netstat -ano` prints."""
    for line in connections.splitlines():
        fields = line.split()
        # Protocol, own address, other address, state in the system's language, process.
        if len(fields) < 5 or not fields[1].endswith(f":{port}") or not fields[2].endswith(":0"):
            continue
        return int(fields[-1])
    return None


def _focus_on_windows(port: int) -> None:
    connections = ""
    with suppress(subprocess.SubprocessError, OSError):
        connections = subprocess.run(
            ["netstat", "-ano", "-p", "TCP"],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FOCUS_S,
        ).stdout
    user32 = ctypes.windll.user32  # type: ignore[attr-defined,unused-ignore]
    focus_process(user32, listener_in(connections, port))
