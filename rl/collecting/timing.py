"""Wall-clock time of a collector, by what it was spent on."""

import time
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from rl.replay.rollout import RolloutTiming

Part = Literal["policy", "environment", "other"]
_COLUMN: Final[Mapping[Part, int]] = {"policy": 0, "environment": 1, "other": 2}


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
        self._cpu_counted = time.process_time()

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
        """Return what the run of a car has cost since its start.

        CPU time is counted once, with the first run that ends after it was spent.
        """
        cpu = time.process_time()
        cpu_s, self._cpu_counted = cpu - self._cpu_counted, cpu
        seconds = self._seconds - self._seconds_then[car]
        steps = max(self._steps - int(self._steps_then[car]), 1)
        ns = 1e9 * seconds / (steps * self._cars)
        elapsed = max(time.perf_counter() - float(self._started[car]), 1e-9)
        return RolloutTiming(
            policy_ns=float(ns[_COLUMN["policy"]]),
            environment_ns=float(ns[_COLUMN["environment"]]),
            other_ns=float(ns[_COLUMN["other"]]),
            in_rollout_percentage=min(100.0 * float(seconds.sum()) / elapsed, 100.0),
            cpu_s=cpu_s,
        )
