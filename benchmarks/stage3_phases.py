"""One run of stage 3, and what the learner's thread spends its time on.

    python -P benchmarks/stage3_phases.py SECONDS [options of `rulka-pipeline rl`]

It wraps the steps of the training loop with clocks and calls the command line, so that it also
measures earlier states of the code, whose folder is then in `PYTHONPATH`. What comes before the
first update is left out, and so are the evaluations at the end. Prints one JSON object as its last
line: updates, observations, seconds, and by phase calls, seconds and CPU seconds of the thread.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


class Clocks:
    """Calls, seconds and CPU seconds by phase, from the first update on.

    Attributes:
        phases: name -> [calls, seconds, CPU seconds]; a phase inside another counts in both.
        marks: name -> [updates, observations, seconds, CPU seconds of the process].
    """

    def __init__(self) -> None:
        self.phases: dict[str, list[float]] = {}
        self.marks: dict[str, list[float]] = {}

    def measure(self, owner: Any, method: str, phase: str) -> None:
        """Replace a method or function by one that is measured; nothing if there is none."""
        plain: Callable[..., Any] | None = getattr(owner, method, None)
        if plain is None:
            return

        @functools.wraps(plain)
        def measured(*arguments: Any, **options: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return plain(*arguments, **options)
            finally:
                row = self.phases.setdefault(phase, [0, 0.0, 0.0])
                row[0] += 1
                row[1] += time.perf_counter() - began
                row[2] += time.thread_time() - cpu

        setattr(owner, method, measured)

    def mark(self, name: str, updates: int, frames: int) -> None:
        """Note where the run is."""
        self.marks[name] = [updates, frames, time.perf_counter(), time.process_time()]

    def report(self) -> dict[str, Any]:
        """Return what happened between the two marks."""
        first, last = self.marks["first"], self.marks["last"]
        updates, frames, seconds, cpu = (b - a for a, b in zip(first, last, strict=True))
        return {
            "updates": updates,
            "frames": frames,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "phases": {
                name: [int(calls), round(spent, 3), round(cpu, 3)]
                for name, (calls, spent, cpu) in self.phases.items()
            },
        }


def main() -> int:
    """Measure one run."""
    seconds, arguments = float(sys.argv[1]), sys.argv[2:]
    from pipeline.cli import main as command
    from rl.collecting.processes import ProcessPool
    from rl.learning.learner import Learner
    from rl.replay.memory import ReplayMemory
    from rl.reporting.reporter import Reporter
    from rl.run.save_and_resume import RunSaver
    from rl.training import loop
    from rl.training.evaluations import Evaluations
    from rl.training.limits import RunLimits

    clocks = Clocks()
    due = loop.TrainingLoop._is_update_due
    reached = RunLimits.reached

    def is_update_due(self: loop.TrainingLoop) -> bool:
        run = self._run
        if "first" not in clocks.marks and run.grad_steps > 0:
            clocks.phases.clear()
            clocks.mark("first", run.grad_steps, run.frames)
        return due(self)

    def is_reached(self: RunLimits, run: Any) -> str | None:
        begun = clocks.marks.get("first")
        if begun is not None:
            clocks.mark("last", run.grad_steps, run.frames)
            if clocks.marks["last"][2] - begun[2] >= seconds:
                print(json.dumps(clocks.report()), flush=True)
                os._exit(0)  # without the evaluations at the end; other processes end with it
        return reached(self, run)

    loop.TrainingLoop._is_update_due = is_update_due  # type: ignore[method-assign]
    RunLimits.reached = is_reached  # type: ignore[method-assign]
    for owner, method, phase in (
        (ReplayMemory, "sample", "sampling"),
        (Learner, "step", "update"),
        (loop, "store_rollout", "storing rollouts"),
        (ProcessPool, "receive", "waiting for rollouts"),
        (ProcessPool, "publish", "publishing weights"),
        (RunSaver, "save", "saving"),
        (RunSaver, "begin_save", "saving"),
        (RunSaver, "save_best", "saving the champion"),
        (Reporter, "tick", "reporting"),
        (Reporter, "rollout", "reporting"),
        (Reporter, "update", "reporting"),
        (Evaluations, "turn", "evaluating"),
    ):
        clocks.measure(owner, method, phase)
    return command(["rl", *arguments])


if __name__ == "__main__":
    sys.exit(main())
