"""Runs as a whole: best times and where they were driven, last values beside the first run's."""

from collections.abc import Sequence

import numpy as np

from pipeline.analysis.comparison import race_entries
from pipeline.analysis.metrics import race_tags, value_tags, values_of
from pipeline.analysis.run_log import RunLog, TimeAxis
from pipeline.analysis.tables import Cell, Column, Table


def best_table(runs: Sequence[RunLog], axis: TimeAxis) -> Table:
    """Return the best time of each run by tag, and the step and minute at which it was driven.

    Args:
        runs: to compare.
        axis: which minutes.
    """
    rows: list[tuple[Cell, ...]] = []
    races = {tag.tag: tag for tag in race_tags(runs)}
    factors = {
        tag.tag: tag.factor for tag in value_tags(runs) if tag.tag.startswith("alltime_min_ms_")
    }
    factors |= dict.fromkeys(races, 1.0)
    for tag, factor in factors.items():
        for run in runs:
            series = run.series(tag)
            values = np.where(np.isfinite(series.values), factor * series.values, np.inf)
            if not np.isfinite(values).any():
                rows.append((tag, run.name, None, None, None, None, None))
                continue
            at = int(values.argmin())
            rate = None
            if tag in races:
                finished = race_entries(run, races[tag], axis).finished
                rate = None if finished is None else float(np.nanmean(finished.values))
            minutes, steps = float(series.minutes(axis)[at]), int(series.steps[at])
            rows.append((tag, run.name, float(values[at]), steps, minutes, len(values), rate))
    unit = "wall min" if axis == "wall_minutes" else "training min"
    columns = (
        Column("tag", "tag"),
        Column("run", "run"),
        Column("best", "best, s", 3),
        Column("steps", "at step", 0),
        Column("minutes", f"at {unit}", 1),
        Column("entries", "entries", 0),
        Column("finish_rate", "rate of all", 1, percent=True),
    )
    return Table("BEST TIMES", columns, tuple(rows))


def last_table(runs: Sequence[RunLog]) -> Table:
    """Return the last finite value of each run by tag, its step, and its ratio to the first run's.

    A ratio over 1 is larger than the first run's value; there is none where that is 0.
    """
    rows: list[tuple[Cell, ...]] = []
    for tag in value_tags(runs):
        if tag.tag.startswith("alltime_min_ms_"):
            continue
        first: float | None = None
        for run in runs:
            series = values_of(run, tag)
            fine = np.flatnonzero(np.isfinite(series.values))
            if not len(fine):
                rows.append((tag.tag, tag.title, run.name, None, None, None))
                continue
            value = float(series.values[fine[-1]])
            first = value if run is runs[0] else first
            ratio = value / first if first else None
            rows.append((tag.tag, tag.title, run.name, value, int(series.steps[fine[-1]]), ratio))
    columns = (
        Column("tag", "tag"),
        Column("title", "meaning"),
        Column("run", "run"),
        Column("last", "last value", 4),
        Column("steps", "at step", 0),
        Column("ratio", "times the first run's", 2),
    )
    return Table("LAST VALUES", columns, tuple(rows))


def tag_table(run: RunLog, tags: Sequence[str] | None = None) -> Table:
    """Return count, first, last, least and largest finite value of a run's tags.

    Args:
        run: whose logs.
        tags: which; None is all.
    """
    rows: list[tuple[Cell, ...]] = []
    for tag in run.tags if tags is None else tags:
        series = run.series(tag)
        if not len(series):
            continue
        fine = series.values[np.isfinite(series.values)]
        numbers = (fine[0], fine[-1], fine.min(), fine.max()) if len(fine) else ()
        cells: tuple[Cell, ...] = tuple(float(n) for n in numbers) or (None,) * 4
        rows.append((tag, len(series), len(series) - len(fine), *cells))
    columns = (
        Column("tag", "tag"),
        Column("entries", "entries", 0),
        Column("not_finite", "not finite", 0),
        Column("first", "first", 4),
        Column("last", "last", 4),
        Column("least", "least", 4),
        Column("largest", "largest", 4),
    )
    return Table(f"SCALARS of {run.name}", columns, tuple(rows))
