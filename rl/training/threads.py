"""How many CPU threads the learner computes with."""

from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.threads import threads_wait_passively, usable_cores
from rl.config.sections import PerformanceConfig

AUTO_THREADS: Final = 2
"""Measured beside one collector and an evaluation: docs/results.md."""


def learner_threads(performance: PerformanceConfig) -> int:
    """Return the number of CPU threads of the learner.

    `auto` is 2 with a second core and passive waiting, without which another busy process slows
    two threads down to a fraction of one. It is 1 in serial mode, whose results must not depend on
    the machine.

    Raises:
        UserError: more threads are asked for than there are cores.
    """
    asked, cores = performance.learner_threads, usable_cores()
    if asked == "auto":
        alone = performance.serial or not threads_wait_passively()
        return 1 if alone else min(AUTO_THREADS, cores)
    if asked > cores:
        raise UserError(
            f"performance.learner_threads is {asked}, and this machine has {cores} usable cores: "
            f"use auto or at most {cores}"
        )
    return asked
