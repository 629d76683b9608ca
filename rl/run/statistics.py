"""Statistics of a run: counters, best times, rolling means."""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from datasets.contract.race import DNF_MS
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)

ROLLING_MEAN_KEEP: Final = 0.9
ROBUST_WITHIN: Final = 0.02
"""A finished evaluation run is robust if it takes at most 2 % longer than the rolling mean."""


@dataclass
class RunStatistics:
    """Counters and best times of one run, across resumes."""

    frames_played: int = 0
    memories_generated: int = 0
    """Training transitions added to the memory."""
    rollouts: int = 0
    rollouts_finished: int = 0
    training_seconds: float = 0.0
    """Seconds of training, summed over resumes; the time between them does not count."""
    cpu_seconds: float = 0.0
    """CPU seconds of learner and collectors while training, summed over resumes."""
    setup_seconds: float = 0.0
    """Seconds before training without the calibration, summed over resumes."""
    calibration_seconds: float = 0.0
    """Seconds in which values were calibrated, those of a calibration called off included."""
    setup_cpu_seconds: float = 0.0
    """CPU seconds of the learner's process before training, calibration included."""
    alltime_min_ms: dict[str, int] = field(default_factory=dict)
    """Best time of each map from its exact start; `DNF_MS` until one finished."""
    rolling_mean_ms: dict[str, float] = field(default_factory=dict)
    """Of finished evaluation runs by map, starting at `DNF_MS`."""
    frames_of_best: int = 0
    """Frames played when a best time last improved."""
    exact_starts: bool = True
    """Whether best times are from exact starts; those of older runs are from varied ones."""
    first_finish_s: float | None = None
    """Seconds of training until weights trained here first finished greedily."""

    @property
    def training_hours(self) -> float:
        """Hours of training."""
        return self.training_seconds / 3600.0

    @property
    def cpu_hours(self) -> float:
        """CPU hours of training."""
        return self.cpu_seconds / 3600.0

    def count(self, rollout: Rollout, *, own: bool = True) -> bool:
        """Count a rollout and its time.

        Args:
            rollout: a run.
            own: false for a run whose time is not the learner's: its frames count alone.

        Returns:
            Whether it is the fastest of its map. Only greedy runs of the learner itself from the
            exact start count.
        """
        self.frames_played += len(rollout)
        self.rollouts += 1
        self.rollouts_finished += rollout.finished
        if not own or not rollout.has_comparable_time:
            self.alltime_min_ms.setdefault(rollout.track, DNF_MS)
            return False
        return self.offer(rollout.track, rollout.race_time_ms)

    def offer(self, track: str, race_time_ms: int) -> bool:
        """Note a race time; returns whether it is the fastest finish of its map."""
        best = self.alltime_min_ms.setdefault(track, DNF_MS)
        if race_time_ms >= best:
            return False
        self.alltime_min_ms[track] = race_time_ms
        self.frames_of_best = self.frames_played
        return True

    def update_rolling_mean(self, rollout: Rollout) -> bool:
        """Update a map's rolling mean with a finished greedy run.

        Args:
            rollout: a finished run without exploration.

        Returns:
            Whether the run is robust: at most `ROBUST_WITHIN` slower than the mean before it. Any
            faster run is, too: the mean starts at `DNF_MS` and comes near the runs slowly.
        """
        mean = self.rolling_mean_ms.get(rollout.track, float(DNF_MS))
        good = rollout.race_time_ms <= (1.0 + ROBUST_WITHIN) * mean
        self.rolling_mean_ms[rollout.track] = (
            ROLLING_MEAN_KEEP * mean + (1.0 - ROLLING_MEAN_KEEP) * rollout.race_time_ms
        )
        return good

    def state_dict(self) -> dict[str, Any]:
        """All fields as plain types."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Best times of older states are minima over varied starts, which no time from the exact start
        can be compared with: they begin anew.

        Raises:
            ValueError: it is not such a state.
        """
        checked = _STATISTICS.validate_python(state)
        for name in state.keys() & vars(checked).keys():
            value = getattr(checked, name)
            numbers = value.values() if isinstance(value, dict) else [value]
            if not all(number is None or 0 <= number < float("inf") for number in numbers):
                raise ValueError(f"statistics: {name} is {value}")
            setattr(self, name, value)
        if not state.get("exact_starts", False):
            logger.info("best times begin anew: they now count from the exact start alone")
            self.exact_starts = True
            self.alltime_min_ms = dict.fromkeys(self.alltime_min_ms, DNF_MS)
            self.frames_of_best = self.frames_played


_STATISTICS: Final = TypeAdapter(RunStatistics)
