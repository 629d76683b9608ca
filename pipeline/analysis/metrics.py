"""What tags mean: times of runs, finish rates and values of which the last one counts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.analysis.run_log import TRAINING_HOURS, RunLog, Series

DNF_S: Final = 300.0
"""Race time in s that stands for a run without a finish."""
LEARNER_SHARE: Final = "Performance/learner_percentage_training"
_SHARES: Final = tuple(
    f"Performance/learner_percentage_{name}"
    for name in ("waiting_for_workers", "training", "testing")
)
_MOST_FRACTION: Final = 1.5
"""Shares of 0 to 1 may be a little over 1, because clocks are read one after another."""
_RACE: Final = re.compile(
    r"(?P<group>Race/)?(?P<kind>eval|explo)_race_time_(?P<robust>robust_)?"
    r"(?P<status>trained|blind)_(?P<map>.+)"
)
_ALLTIME: Final = "alltime_min_ms_"
_AVG_Q: Final = re.compile(r"RL/avg_Q_(?P<status>trained|blind)_(?P<map>.+)")
_EVALUATION: Final = re.compile(r"Evaluation/(?P<name>finish_rate|mean_ms|exact_ms)_(?P<map>.+)")
_PLAIN: Final = {
    "Training/loss": "loss",
    LEARNER_SHARE: "learner busy with training, %",
    "Performance/transitions_learned_per_second": "transitions learnt per s",
    "Gradients/norm_before_clip_max": "largest gradient norm before clipping",
}


@dataclass(frozen=True)
class RaceTag:
    """A tag of race times, one entry for each run driven.

    Attributes:
        tag: its name.
        kind: `eval` for greedy runs, `explo` for exploring ones.
        robust: whether only runs near the rolling mean are logged.
        status: `trained` or `blind`.
        map: short name.
    """

    tag: str
    kind: str
    robust: bool
    status: str
    map: str

    @property
    def finished_tag(self) -> str | None:
        """Tag that says of the same runs whether they finished, None for robust times."""
        return None if self.robust else self.tag.replace("_race_time_", "_race_finished_", 1)

    @property
    def finished_time_tag(self) -> str | None:
        """Tag of the times of finished runs alone, None for robust times."""
        return None if self.robust else self.tag.replace("_race_time_", "_race_time_finished_", 1)


@dataclass(frozen=True)
class ValueTag:
    """A tag of which the last value at a checkpoint counts.

    Attributes:
        tag: its name.
        title: for people, with the unit.
        factor: by which values are multiplied to have that unit.
        decimals: shown.
    """

    tag: str
    title: str
    factor: float = 1.0
    decimals: int = 2


def race_tags(runs: Sequence[RunLog]) -> list[RaceTag]:
    """Return the tags of race times that any run has: greedy ones first, then by map."""
    found: dict[str, RaceTag] = {}
    for tag in _all_tags(runs):
        match = _RACE.fullmatch(tag)
        if match is not None:
            found[tag] = RaceTag(
                tag, match["kind"], match["robust"] is not None, match["status"], match["map"]
            )
    return sorted(found.values(), key=lambda t: (t.kind, t.map, t.status, t.robust))


def value_tags(runs: Sequence[RunLog]) -> list[ValueTag]:
    """Return the tags that any run has and of which the last value counts, most telling first."""
    tags = _all_tags(runs)
    best = [
        ValueTag(tag, f"best time on {tag.removeprefix(_ALLTIME)}, s", 1e-3, 3)
        for tag in tags
        if tag.startswith(_ALLTIME)
    ]
    evaluations = []
    for tag in tags:
        match = _EVALUATION.fullmatch(tag)
        if match is None:
            continue
        if match["name"] == "finish_rate":
            title = f"finish rate of the last evaluation on {match['map']}, %"
            evaluations.append(ValueTag(tag, title, 100.0, 1))
        else:
            what = "mean time" if match["name"] == "mean_ms" else "time from the exact start"
            title = f"{what} of the last evaluation on {match['map']}, s"
            evaluations.append(ValueTag(tag, title, 1e-3, 3))
    averages = [
        ValueTag(tag, f"average Q on {match['map']}", 1.0, 4)
        for tag in tags
        if (match := _AVG_Q.fullmatch(tag)) is not None
    ]
    plain = [
        ValueTag(tag, title, 1.0, 1 if tag == LEARNER_SHARE else 2)
        for tag, title in _PLAIN.items()
        if tag in tags
    ]
    return [*best, *evaluations, *plain[:1], *averages, *plain[1:]]


def values_of(run: RunLog, tag: ValueTag) -> Series:
    """Return a run's entries in the tag's unit; shares of 0 to 1 become per cent."""
    series = run.series(tag.tag)
    factor = tag.factor
    if tag.tag in _SHARES and _logs_fractions(run):
        factor *= 100.0
    return Series(
        series.steps, series.wall_minutes, series.training_minutes, factor * series.values
    )


def is_wanted(tag: str) -> bool:
    """Tell whether tables and pictures need a tag."""
    return (
        tag in _PLAIN
        or tag in _SHARES
        or tag == TRAINING_HOURS
        or tag.startswith(_ALLTIME)
        or "_race_time" in tag
        or "_race_finished_" in tag
        or _AVG_Q.fullmatch(tag) is not None
        or _EVALUATION.fullmatch(tag) is not None
    )


def _logs_fractions(run: RunLog) -> bool:
    """Tell whether a run logs the learner's shares as 0 to 1: together they are then about 1."""
    largest = [
        float(np.nanmax(series.values))
        for series in (run.series(tag) for tag in _SHARES)
        if np.isfinite(series.values).any()
    ]
    return bool(largest) and max(largest) <= _MOST_FRACTION


def _all_tags(runs: Sequence[RunLog]) -> list[str]:
    return sorted({tag for run in runs for tag in run.tags if tag in run})
