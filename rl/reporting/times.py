"""Wall-clock time of learner and collectors between two reports, and the age of policies."""

import bisect
import time
from collections import defaultdict
from typing import Final

import numpy as np

from rl.replay.rollout import RolloutTiming

MOST_VERSIONS: Final = 10_000
"""Versions of weights whose birth is remembered."""


class PolicyAges:
    """Remembers when weights were young, to tell how old those are that drove a run."""

    def __init__(self, grad_steps: int) -> None:
        """Weights of `grad_steps` updates are new now."""
        self._versions = [grad_steps]
        self._times = [time.monotonic()]

    def note(self, grad_steps: int) -> None:
        """Weights have had `grad_steps` updates now."""
        if grad_steps <= self._versions[-1]:
            return
        self._versions.append(grad_steps)
        self._times.append(time.monotonic())
        if len(self._versions) > MOST_VERSIONS:
            del self._versions[: MOST_VERSIONS // 2], self._times[: MOST_VERSIONS // 2]

    def seconds(self, version: int) -> float | None:
        """Seconds since the weights were of `version`; None if that is longer ago than known."""
        place = bisect.bisect_right(self._versions, version) - 1
        return time.monotonic() - self._times[place] if place >= 0 else None


class TimesSummary:
    """Collects times between two summaries and writes them as a table."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = defaultdict(float)
        self._rollouts: list[RolloutTiming] = []
        self._since = time.monotonic()

    def spent(self, activity: str, seconds: float) -> None:
        """Note how the learner's time was spent."""
        self._spent[activity] += seconds

    def rollout(self, timing: RolloutTiming) -> None:
        """Note what a run cost."""
        self._rollouts.append(timing)

    def take(self) -> str:
        """Return a Markdown table of the time since the last one, and start anew."""
        elapsed = max(time.monotonic() - self._since, 1e-9)
        rows = {f"learner: {n}": f"{100 * s / elapsed:.1f} %" for n, s in self._spent.items()}
        rows["learner: rest"] = f"{100 - 100 * sum(self._spent.values()) / elapsed:.1f} %"
        for title, name in _SUMMARY_ROWS.items():
            values = [getattr(timing, name) for timing in self._rollouts]
            if values:
                mean = float(np.mean(values))
                in_ns = name.endswith("_ns")
                rows[title] = f"{mean / 1000:,.1f} µs per action" if in_ns else f"{mean:.1f} %"
        self._spent.clear()
        self._rollouts.clear()
        self._since = time.monotonic()
        lines = [f"| over {elapsed:.0f} s | |", "|---|---|"]
        return "\n".join([*lines, *(f"| {title} | {value} |" for title, value in rows.items())])


_SUMMARY_ROWS: Final = {
    "collector: policy": "policy_ns",
    "collector: environment": "environment_ns",
    "collector: other": "other_ns",
    "collector: time in rollouts": "in_rollout_percentage",
}
