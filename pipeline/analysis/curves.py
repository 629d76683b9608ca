"""Curves of runs as data: what a picture or a page shows of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from pipeline.analysis.checkpoint_values import Entries, Floats
from pipeline.analysis.comparison import choose_axis, entries_of, race_entries
from pipeline.analysis.metrics import (
    DNF_S,
    LEARNER_SHARE,
    RaceTag,
    ValueTag,
    race_tags,
    value_tags,
    values_of,
)
from pipeline.analysis.run_log import RunLog, TimeAxis

POINTS: Final = 600
"""Points of a curve at most."""
RATE_PARTS: Final = 30
"""Parts of a run that the interval rate is drawn for."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class RunCurve:
    """One line of a picture.

    Attributes:
        run: name, for the legend and the colour.
        x: (N,) hours of training or minutes of wall time, increasing.
        y: (N,).
        faint: whether it is shown beside the run's main line.
    """

    run: str
    x: Floats
    y: Floats
    faint: bool = False


@dataclass(frozen=True)
class Picture:
    """Curves of one quantity over time.

    Attributes:
        name: part of the file's name, safe for every file system.
        title: what it shows.
        x_label: with the unit.
        y_label: with the unit.
        curves: of all runs that have the quantity.
        scale: of the y axis.
        y_range: fixed limits of the y axis, None to fit the curves.
        steps: whether a value holds until the next one, as a best time does.
        runs: names of all runs that are compared, which number the colours; empty is those that
            have a curve.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[RunCurve, ...]
    scale: Literal["linear", "log"] = "linear"
    y_range: tuple[float, float] | None = None
    steps: bool = False
    runs: tuple[str, ...] = ()


def pictures_of(runs: Sequence[RunLog], axis: TimeAxis | None = None) -> list[Picture]:
    """Return the pictures that the runs' logs have data for.

    Args:
        runs: to compare.
        axis: None is training time if all runs log it, else wall time.
    """
    axis = choose_axis(runs, "auto") if axis is None else axis
    draw = _Drawing(runs, axis)
    found = [picture for tag in race_tags(runs) for picture in draw.race(tag)]
    main = _main_map(runs)
    for tag in value_tags(runs):
        found.append(draw.value(tag, _value_name(tag.tag, main)))
    return _with_names_of_their_own([picture for picture in found if picture.curves])


def _with_names_of_their_own(pictures: Sequence[Picture]) -> list[Picture]:
    """Append a number to names that differ by case alone, or by signs that no file can have."""
    found: dict[str, Picture] = {}
    for picture in pictures:
        name, number = picture.name, 1
        while name.lower() in found:
            number += 1
            name = f"{picture.name}_{number}"
        found[name.lower()] = replace(picture, name=name)
    return list(found.values())


class _Drawing:
    """Makes curves of some runs along one axis."""

    def __init__(self, runs: Sequence[RunLog], axis: TimeAxis) -> None:
        self._runs, self._axis = runs, axis
        training = axis == "cumul_training_hours"
        self._x_label = "training time, h" if training else "wall time since the start, min"
        self._factor = 1.0 / 60.0 if training else 1.0

    def race(self, tag: RaceTag) -> list[Picture]:
        """Return best, mean and finish rate of a tag of race times."""
        name = _race_name(tag)
        best: list[RunCurve] = []
        mean: list[RunCurve] = []
        rate: list[RunCurve] = []
        for run in self._runs:
            entries = race_entries(run, tag, self._axis)
            times = entries.finished_times or entries.times
            times = _below(times.finite(), DNF_S)
            best += self._curve(run, times.at, np.minimum.accumulate(times.values))
            count = np.arange(1, len(times.values) + 1)
            mean += self._curve(run, times.at, np.cumsum(times.values) / count)
            if entries.finished is not None:
                rate += self._rates(run, entries.finished.finite())
        kind = "greedy" if tag.kind == "eval" else "exploring"
        what = f"{kind} runs on {tag.map} ({tag.tag})"
        found = [
            replace(
                self._picture(f"{name}_best", f"best time so far of {what}", "s", best), steps=True
            ),
            self._picture(f"{name}_mean", f"mean time of finishes so far, {what}", "s", mean),
        ]
        if rate:
            title = f"finish rate per interval (faint: since the start), {what}"
            rates = self._picture(f"{name}_rate", title, "%", rate, y_range=(-3.0, 103.0))
            found.append(rates)
        return found

    def value(self, tag: ValueTag, name: str) -> Picture:
        """Return the values of a tag; of times, those that were driven."""
        curves: list[RunCurve] = []
        for run in self._runs:
            entries = entries_of(values_of(run, tag), self._axis).finite()
            if tag.tag.startswith("alltime_min_ms_"):
                entries = _below(entries, DNF_S)
            curves += self._curve(run, *_thinned(entries))
        positive = all((curve.y > 0).all() for curve in curves)
        wide = positive and tag.tag in ("Training/loss", "Gradients/norm_before_clip_max")
        scale: Literal["linear", "log"] = "log" if wide else "linear"
        y_range = (-3.0, 103.0) if tag.tag == LEARNER_SHARE else None
        picture = self._picture(name, tag.title, tag.title, curves, scale=scale, y_range=y_range)
        return replace(picture, steps=tag.tag.startswith("alltime_min_ms_"))

    def _picture(
        self,
        name: str,
        title: str,
        y_label: str,
        curves: list[RunCurve],
        *,
        scale: Literal["linear", "log"] = "linear",
        y_range: tuple[float, float] | None = None,
    ) -> Picture:
        return Picture(
            name=_UNSAFE.sub("_", name),
            title=title,
            x_label=self._x_label,
            y_label=y_label,
            curves=tuple(curves),
            scale=scale,
            y_range=y_range,
            runs=tuple(run.name for run in self._runs),
        )

    def _curve(self, run: RunLog, x: Floats, y: Floats, *, faint: bool = False) -> list[RunCurve]:
        if not len(x):
            return []
        if len(x) > POINTS:
            # The last point of each of `POINTS` equal parts of the time, so that steps stay steps.
            edges = np.linspace(x[0], x[-1], POINTS)
            chosen = np.unique(np.searchsorted(x, edges, side="right") - 1)
            x, y = x[chosen], y[chosen]
        return [RunCurve(run.name, x * self._factor, y, faint)]

    def _rates(self, run: RunLog, finished: Entries) -> list[RunCurve]:
        """Return the finish rate of each interval, and faintly that since the start, in %."""
        if not len(finished.at):
            return []
        ends = np.linspace(finished.at[0], finished.at[-1], RATE_PARTS + 1)[1:]
        counts = np.concatenate([[0], finished.counts(ends)])
        sums = np.concatenate([[0.0], np.cumsum(finished.values)])
        driven = np.diff(counts)
        has = driven > 0
        parts = 100.0 * np.diff(sums[counts])[has] / driven[has]
        whole = 100.0 * np.cumsum(finished.values) / np.arange(1, len(finished.values) + 1)
        interval = self._curve(run, ends[has], parts)
        return [*interval, *self._curve(run, finished.at, whole, faint=True)]


def _below(entries: Entries, limit: float) -> Entries:
    kept = entries.values < limit
    return Entries(entries.at[kept], entries.values[kept])


def _thinned(entries: Entries) -> tuple[Floats, Floats]:
    """Return the means of equal parts of the time, if there are more entries than points."""
    if len(entries.at) <= POINTS:
        return entries.at, entries.values
    edges = np.linspace(entries.at[0], entries.at[-1], POINTS + 1)
    part = np.clip(np.searchsorted(edges, entries.at, side="left") - 1, 0, POINTS - 1)
    count = np.bincount(part, minlength=POINTS)
    has = count > 0
    x = np.bincount(part, entries.at, POINTS)[has] / count[has]
    return x, np.bincount(part, entries.values, POINTS)[has] / count[has]


def _race_name(tag: RaceTag) -> str:
    """Return the name of a tag's pictures: the map, with `explo_` and `blind_` where it is so."""
    if tag.robust:
        return tag.tag.replace("/", "_")
    kind = "explo_" if tag.kind == "explo" else ""
    status = "blind_" if tag.status == "blind" else ""
    return f"{kind}{status}{tag.map}"


def _value_name(tag: str, main_map: str | None) -> str:
    names = {
        "Training/loss": "loss",
        LEARNER_SHARE: "training_pct",
        f"RL/avg_Q_trained_{main_map}": "avg_q",
    }
    if tag in names:
        return names[tag]
    if tag.startswith("alltime_min_ms_"):
        return f"{tag.removeprefix('alltime_min_ms_').lower()}_best_time_ms"
    if tag.startswith("RL/avg_Q_"):
        return f"avg_q_{tag.removeprefix('RL/avg_Q_').removeprefix('trained_')}"
    return tag.replace("/", "_")


def _main_map(runs: Sequence[RunLog]) -> str | None:
    """Return the map whose average Q was logged most often: its picture needs no map's name."""
    counts: dict[str, int] = {}
    prefix = "RL/avg_Q_trained_"
    for run in runs:
        for tag in run.tags:
            if tag.startswith(prefix):
                name = tag.removeprefix(prefix)
                counts[name] = counts.get(name, 0) + len(run.series(tag))
    return max(sorted(counts), key=lambda name: counts[name]) if counts else None
