"""When a run stops: its limits, and a request by signal."""

import time
from dataclasses import dataclass

from rl.run.state import Run


@dataclass
class StopSignal:
    """Set by a signal handler; the loop reads it between two turns."""

    reason: str | None = None


@dataclass(frozen=True)
class RunLimits:
    """When a run stops by itself; frames and updates count over resumes, minutes do not."""

    deadline: float | None
    """Monotonic time in seconds."""
    max_frames: int | None
    max_grad_steps: int | None
    early_stop_frames: int | None
    """Frames without a better best time."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def time_is_up(self) -> str | None:
        """Return the reason to stop if the deadline has passed, else None."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return "time is up" if late else None

    def reached(self, run: Run) -> str | None:
        """Return the reason to stop if a limit is reached, else None."""
        late = self.time_is_up()
        if late is not None:
            return late
        if self.max_grad_steps is not None and run.grad_steps >= self.max_grad_steps:
            return f"{run.grad_steps:,} updates are done"
        if self.max_frames is not None and run.frames >= self.max_frames:
            return f"{run.frames:,} frames are driven"
        if self.early_stop_frames is not None:
            since = run.frames - run.statistics.frames_of_best
            if since >= self.early_stop_frames:
                return f"no better time for {since:,} frames"
        return None
