"""Waiting for what another process does."""

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], bool],
    within_s: float,
    what: str,
    *,
    process: subprocess.Popen[Any] | None = None,
) -> float:
    """Wait until a condition holds.

    Args:
        condition: asked again and again.
        within_s: longest wait, seconds.
        what: to say if that is over.
        process: must not end before.

    Returns: the seconds that it took.
    """
    began = time.monotonic()
    while not condition():
        assert process is None or process.poll() is None, "the process has ended"
        assert time.monotonic() - began < within_s, what
        time.sleep(0.02)
    return time.monotonic() - began
