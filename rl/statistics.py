"""What a run has come to: best times, rolling means, and the tags of each rollout."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from rl.evaluation import DNF_MS
from rl.rollout import Rollout

ROLLING_MEAN_KEEP: Final = 0.9
ROBUST_WITHIN: Final = 0.02
"""A finished evaluation run is robust if its time is within 2 % of the rolling mean."""


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
    alltime_min_ms: dict[str, int] = field(default_factory=dict)
    """Best time of each map; `DNF_MS` until one finished."""
    rolling_mean_ms: dict[str, float] = field(default_factory=dict)
    """Of finished evaluation runs by map, starting at `DNF_MS`."""
    frames_of_best: int = 0
    """Frames played when a best time last improved."""
    first_finish_s: float | None = None
    """Seconds of training until weights trained here first finished greedily."""

    @property
    def training_hours(self) -> float:
        """Hours of training."""
        return self.training_seconds / 3600.0

    def count(self, rollout: Rollout, *, own: bool = True) -> bool:
        """Take a rollout into account.

        Args:
            rollout: a run.
            own: false for a run whose time is not the learner's: its frames count alone.

        Returns:
            Whether it is the fastest of its map.
        """
        self.frames_played += len(rollout)
        self.rollouts += 1
        self.rollouts_finished += rollout.finished
        if not own:
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

    def robust(self, rollout: Rollout) -> bool:
        """Update the rolling mean with a finished evaluation run; whether it is near that mean."""
        mean = self.rolling_mean_ms.get(rollout.track, float(DNF_MS))
        near = abs(rollout.race_time_ms - mean) <= ROBUST_WITHIN * mean
        self.rolling_mean_ms[rollout.track] = (
            ROLLING_MEAN_KEEP * mean + (1.0 - ROLLING_MEAN_KEEP) * rollout.race_time_ms
        )
        return near

    def state_dict(self) -> dict[str, Any]:
        """All fields as plain types."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name, value in state.items():
            setattr(self, name, value)


def rollout_tags(
    rollout: Rollout, statistics: RunStatistics, *, trained: bool, length_m: float
) -> dict[str, float]:
    """Scalars of one rollout, by tag; updates the rolling means.

    Args:
        rollout: a run, already counted.
        statistics: of the run.
        trained: whether the map is learnt from; tags say `trained` or `blind`.
        length_m: of the map's reference line, in metres.
    """
    track, status = rollout.track, "trained" if trained else "blind"
    kind = "explo" if rollout.is_exploration else "eval"
    name, seconds = f"{status}_{track}", rollout.race_time_ms / 1000.0
    driven_s = float(rollout.time_ms[-1]) / 1000.0
    reached = 1.0 if rollout.finished else _share_reached(rollout, length_m)
    gap = rollout.q_values.max(axis=1, keepdims=True) - rollout.q_values
    tags = {
        f"Race/{kind}_race_time_{name}": seconds,
        f"Race/{kind}_race_finished_{name}": float(rollout.finished),
        f"RL/single_zone_reached_{name}": reached,
        f"RL/mean_action_gap_{track}": float(gap.mean()),
        f"RL/q_value_0_starting_frame_{track}": float(rollout.q_values[0, 0]),
    }
    if rollout.duration_s > 0:
        tags[f"Race/race_time_ratio_{track}"] = driven_s / rollout.duration_s
    if rollout.finished:
        tags[f"Race/{kind}_race_time_finished_{name}"] = seconds
    if not rollout.is_exploration:
        tags[f"RL/avg_Q_{name}"] = float(rollout.q_values.max(axis=1).mean())
        if rollout.finished and statistics.robust(rollout):
            tags[f"Race/eval_race_time_robust_{name}"] = seconds
    return tags


def _share_reached(rollout: Rollout, length_m: float) -> float:
    """Share of the line that a run came along, in [0, 1]."""
    advanced = float(rollout.meters.max() - rollout.meters[0])
    return float(np.clip(advanced / max(length_m, 1e-9), 0.0, 1.0))
