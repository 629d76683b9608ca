"""Where wall-clock time goes: in collectors, in the learner, and how old a driving policy is."""

import bisect
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Part = Literal["policy", "environment", "other"]
_COLUMN: Final[Mapping[Part, int]] = {"policy": 0, "environment": 1, "other": 2}
MOST_VERSIONS: Final = 10_000
"""Versions of weights whose birth is remembered."""


@dataclass(frozen=True, slots=True)
class RolloutTiming:
    """What one run cost its collector.

    Cars of a batch share each step's time equally, so these are costs per car, not latencies.
    """

    policy_ns: float
    """Per action: the network and the choice."""
    environment_ns: float
    """Per action: physics, picture and floats."""
    other_ns: float
    """Per action: recording, handing over, new starts."""
    in_rollout_percentage: float
    """Share of the collector's time, in %, in which it drove; the rest it sent or waited."""


class StepTimer:
    """Times the steps of a batch of cars by part, and shares the time among the cars."""

    def __init__(self, cars: int) -> None:
        """Start the clocks of `cars` cars."""
        self._cars = cars
        self._seconds = np.zeros(len(_COLUMN))
        self._steps = 0
        self._lap = time.perf_counter()
        self._seconds_then = np.zeros((cars, len(_COLUMN)))
        self._steps_then = np.zeros(cars, dtype=np.int64)
        self._started = np.full(cars, self._lap)

    def start(self, cars: npt.NDArray[np.integer]) -> None:
        """Note that some cars begin a run now."""
        self._seconds_then[cars] = self._seconds
        self._steps_then[cars] = self._steps
        self._started[cars] = time.perf_counter()

    def begin(self) -> None:
        """Note that a step of all cars begins now."""
        self._steps += 1
        self._lap = time.perf_counter()

    def lap(self, part: Part) -> None:
        """Give the time since the last lap to a part."""
        now = time.perf_counter()
        self._seconds[_COLUMN[part]] += now - self._lap
        self._lap = now

    def of(self, car: int) -> RolloutTiming:
        """What the run of a car has cost since its start."""
        seconds = self._seconds - self._seconds_then[car]
        steps = max(self._steps - int(self._steps_then[car]), 1)
        ns = 1e9 * seconds / (steps * self._cars)
        elapsed = max(time.perf_counter() - float(self._started[car]), 1e-9)
        return RolloutTiming(
            policy_ns=float(ns[_COLUMN["policy"]]),
            environment_ns=float(ns[_COLUMN["environment"]]),
            other_ns=float(ns[_COLUMN["other"]]),
            in_rollout_percentage=min(100.0 * float(seconds.sum()) / elapsed, 100.0),
        )


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
        """A Markdown table of the time since the last one, and start anew."""
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
