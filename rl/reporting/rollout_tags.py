"""Scalars of one rollout, by tag."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from rl.replay.rollout import Rollout
from rl.run.statistics import RunStatistics

N_SPLITS: Final = 8
"""Parts of equal length that a track is timed in; it has no checkpoints."""


@dataclass(frozen=True)
class Course:
    """What the tags of a map need to know of it."""

    length_m: float
    """Of the reference line."""
    finish_m: float
    """Metres along the line at the finish; the start lies `length_m` before."""
    trained: bool = True
    """Whether the map is learnt from; tags say `trained` or `blind`."""
    reference_times_s: Mapping[str, float] = field(default_factory=dict)
    """Times to compare with, by name."""


def rollout_tags(rollout: Rollout, statistics: RunStatistics, course: Course) -> dict[str, float]:
    """Scalars of one rollout, by tag; updates the rolling means.

    Args:
        rollout: a run, already counted.
        statistics: of the run.
        course: where it was driven.
    """
    track, status = rollout.track, "trained" if course.trained else "blind"
    kind = "explo" if rollout.is_exploration else "eval"
    name, seconds = f"{status}_{track}", rollout.race_time_ms / 1000.0
    driven_s = float(rollout.time_ms[-1]) / 1000.0
    reached = 1.0 if rollout.finished else _share_reached(rollout, course.length_m)
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
        tags[f"RL/avg_Q_{name}"] = float(rollout.q_values.mean())
        for index, split_s in enumerate(splits(rollout, course)):
            tags[f"Race/split_{track}_{index}"] = split_s
        if rollout.finished:
            tags |= _ratios(seconds, status, track, course.reference_times_s)
            if statistics.robust(rollout):
                tags[f"Race/eval_race_time_robust_{name}"] = seconds
    return tags | _timing_tags(rollout)


def splits(rollout: Rollout, course: Course) -> list[float]:
    """Seconds that a run took for each part of the line, as far as it came.

    The marks lie at equal fractions of the line; the last part ends at the finish, so that the
    parts of a finished run add up to its race time.
    """
    start_m = course.finish_m - course.length_m
    marks = start_m + course.length_m * np.arange(1, N_SPLITS) / N_SPLITS
    furthest = np.maximum.accumulate(rollout.meters)
    times = rollout.time_ms.astype(np.float64)
    passed = [0.0]
    for mark in marks:
        after = int(np.searchsorted(furthest, mark))
        if after == len(furthest):
            break
        before = max(after - 1, 0)
        pair = slice(before, after + 1)
        passed.append(float(np.interp(mark, furthest[pair], times[pair])))
    if rollout.finished:
        passed.append(float(rollout.race_time_ms))
    return [float(part) / 1000.0 for part in np.diff(passed)]


def _ratios(
    seconds: float, status: str, track: str, references: Mapping[str, float]
) -> dict[str, float]:
    """A race time as % of each reference, by map and over all maps."""
    tags: dict[str, float] = {}
    for name, reference_s in references.items():
        percent = 100.0 * seconds / reference_s
        tags[f"Race/eval_ratio_{status}_{name}_{track}"] = percent
        tags[f"Race/eval_agg_ratio_{status}_{name}"] = percent
    return tags


def _share_reached(rollout: Rollout, length_m: float) -> float:
    """Share of the line that a run came along, in [0, 1]."""
    advanced = float(rollout.meters.max() - rollout.meters[0])
    return float(np.clip(advanced / max(length_m, 1e-9), 0.0, 1.0))


def _timing_tags(rollout: Rollout) -> dict[str, float]:
    timing = rollout.timing
    if timing is None:
        return {}
    return {
        "Performance/instrumentation__exploration_policy": timing.policy_ns,
        "Performance/instrumentation__environment_step": timing.environment_ns,
        "Performance/instrumentation__between_run_steps": timing.other_ns,
        "Performance/worker_time_in_rollout_percentage": timing.in_rollout_percentage,
    }
