"""How many CPU threads the learner computes with, and how they wait for each other.

A product that two threads share ends when the slower one has done its half. By default the other
one waits in a loop that uses its core up. Beside collectors, an evaluation, or any other program
that wants that core, such a wait lasts until the system takes the core away from it, and two
threads are many times slower than one. Passive waiting leaves the core to others at once, so a
second thread takes only what is idle. OpenMP reads how to wait once, when torch is loaded.
"""

import os
import sys
from typing import TYPE_CHECKING, Final

from datasets.contract.errors import UserError
from datasets.cores import usable_cores

if TYPE_CHECKING:  # the command line asks for nothing else here, and starts at once
    from rl.config.sections import PerformanceConfig

MOST_AUTO_THREADS: Final = 2
_WAIT_POLICY: Final = "OMP_WAIT_POLICY"
"""Environment variable of OpenMP; a user's own value is left as it is."""


def let_threads_wait_passively() -> None:
    """Choose passive waiting for this process and its children, unless torch is loaded already."""
    if "torch" not in sys.modules:
        os.environ.setdefault(_WAIT_POLICY, "passive")


def threads_wait_passively() -> bool:
    """Return whether passive waiting was chosen."""
    return os.environ.get(_WAIT_POLICY, "").lower() == "passive"


def learner_threads(performance: "PerformanceConfig") -> int:
    """Return the number of CPU threads of the learner.

    `auto` is 2 where a third core is left for collectors and evaluation, and threads wait
    passively, without which another busy process slows two threads down to a fraction of one. On
    two cores a second thread costs more than it gains (docs/configuration.md). It is 1 in serial
    mode, whose results must not depend on the machine.

    Raises:
        UserError: more threads are asked for than there are cores.
    """
    asked, cores = performance.learner_threads, usable_cores()
    if asked == "auto":
        alone = performance.serial or not threads_wait_passively()
        return 1 if alone else max(1, min(MOST_AUTO_THREADS, cores - 1))
    if asked > cores:
        raise UserError(
            f"performance.learner_threads is {asked}, and this machine has {cores} usable cores: "
            f"use auto or at most {cores}"
        )
    return asked
