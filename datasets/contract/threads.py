"""How the threads of a matrix product wait for each other, and how many cores there are.

A product that two threads share ends when the slower one has done its half. By default the other
one waits in a loop that uses its core up. Beside collectors, an evaluation, or any other program
that wants that core, such a wait lasts until the system takes the core away from it, and two
threads are many times slower than one. Passive waiting leaves the core to others at once, so a
second thread takes only what is idle. OpenMP reads how to wait once, when torch is loaded.
"""

import os
import sys
from typing import Final

_WAIT_POLICY: Final = "OMP_WAIT_POLICY"
"""Environment variable of OpenMP; a user's own value is left as it is."""


def let_threads_wait_passively() -> None:
    """Choose passive waiting for this process and its children, unless torch is loaded already."""
    if "torch" not in sys.modules:
        os.environ.setdefault(_WAIT_POLICY, "passive")


def threads_wait_passively() -> bool:
    """Return whether passive waiting was chosen."""
    return os.environ.get(_WAIT_POLICY, "").lower() == "passive"


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
