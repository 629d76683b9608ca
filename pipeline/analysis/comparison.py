"""Runs beside each other: a common window, checkpoints of time and of steps, tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from datasets.contract.errors import UserError
from pipeline.analysis.checkpoint_values import (
    ROUNDING,
    Entries,
    Floats,
    RaceEntries,
    RaceNumbers,
    collapses,
    first_at_most,
    last_values,
    race_numbers,
)
from pipeline.analysis.metrics import (
    DNF_S,
    RaceTag,
    ValueTag,
    race_tags,
    value_tags,
    values_of,
)
from pipeline.analysis.run_log import RunLog, Series, TimeAxis
from pipeline.analysis.tables import Cell, Column, Table

ChosenAxis = Literal["auto", "wall_minutes", "cumul_training_hours"]
STEPS: Final = "steps"
Axis = Literal["wall_minutes", "cumul_training_hours", "steps"]
MOST_CHECKPOINTS: Final = 10_000
_AUTOMATIC_CHECKPOINTS: Final = 20
_AXIS_COLUMNS: Final[dict[Axis, Column]] = {
    "wall_minutes": Column("at", "wall min", 1),
    "cumul_training_hours": Column("at", "training min", 1),
    "steps": Column("at", "steps", 0),
}


class NoCommonWindowError(UserError):
    """The runs to compare have no minute or step in common."""


@dataclass(frozen=True)
class Checkpoints:
    """Where runs are compared.

    Attributes:
        axis: what is counted: minutes of wall time, minutes of training, or steps.
        low: where the common window begins.
        high: where it ends.
        at: (C,) checkpoints in it, multiples of the interval; its end if there is no multiple.
    """

    axis: Axis
    low: float
    high: float
    at: Floats


def choose_axis(runs: Sequence[RunLog], chosen: ChosenAxis) -> TimeAxis:
    """Return the time axis: `auto` is training time if all runs log it, else wall time.

    Raises:
        UserError: training time is asked for and a run does not log it.
    """
    without = [run.name for run in runs if not run.has_training_hours]
    if chosen == "auto":
        return "wall_minutes" if without else "cumul_training_hours"
    if chosen == "cumul_training_hours" and without:
        raise UserError(
            f"--time-axis cumul_training_hours: {', '.join(without)} did not log it; "
            f"use wall_minutes"
        )
    return chosen


def time_checkpoints(
    runs: Sequence[RunLog], axis: TimeAxis, interval: float | None = None
) -> Checkpoints:
    """Return the checkpoints by time, in minutes, over the window that all runs have.

    Args:
        runs: to compare.
        axis: which minutes.
        interval: between checkpoints in minutes; None chooses one.

    Raises:
        NoCommonWindowError: the runs have no common window.
        UserError: the interval is no positive number, or far too small.
    """
    spans = [
        (0.0, run.wall_minutes)
        if axis == "wall_minutes"
        else (run.first_training_minutes, run.training_minutes)
        for run in runs
    ]
    return _checkpoints(runs, axis, spans, interval, "--interval")


def step_checkpoints(runs: Sequence[RunLog], interval: float | None = None) -> Checkpoints:
    """Return the checkpoints by step; arguments and errors as in `time_checkpoints`."""
    spans = [(float(run.steps[0]), float(run.steps[1])) for run in runs]
    return _checkpoints(runs, STEPS, spans, interval, "--step_interval")


def _checkpoints(
    runs: Sequence[RunLog],
    axis: Axis,
    spans: Sequence[tuple[float, float]],
    interval: float | None,
    option: str,
) -> Checkpoints:
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    unit = "steps" if axis == STEPS else "minutes"
    if not high > low:
        shown = ", ".join(
            f"{run.name} {a:,.4g} to {b:,.4g}" for run, (a, b) in zip(runs, spans, strict=True)
        )
        raise NoCommonWindowError(f"no common window of {unit}: {shown}")
    if interval is None:
        interval = _round_interval(high)
    if not (math.isfinite(interval) and interval > 0):
        raise UserError(f"{option} {interval}: expected a number of {unit} over 0")
    if high / interval > MOST_CHECKPOINTS:
        raise UserError(
            f"{option} {interval:g}: {high / interval:,.0f} checkpoints up to {high:,.1f} {unit}, "
            f"expected at most {MOST_CHECKPOINTS:,}"
        )
    at: Floats = interval * np.arange(1.0, math.floor(high / interval * (1.0 + ROUNDING)) + 1.0)
    at = at[at >= low]
    if not len(at):
        at = np.array([high])
    return Checkpoints(axis, low, high, at)


def _round_interval(high: float) -> float:
    """Return a round interval, 1, 2 or 5 times a power of ten, that gives about 20 checkpoints."""
    least = high / _AUTOMATIC_CHECKPOINTS
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least)


def entries_of(series: Series, axis: Axis) -> Entries:
    """Return a tag's entries along an axis: minutes, or steps."""
    if axis == STEPS:
        ordered = series.by_step()
        return Entries(ordered.steps.astype(np.float64), ordered.values)
    return Entries(series.minutes(axis), series.values)


def race_entries(run: RunLog, tag: RaceTag, axis: Axis) -> RaceEntries:
    """Return the runs that a tag of race times tells of, along an axis."""
    finished, only = tag.finished_tag, tag.finished_time_tag
    has_finished = finished is not None and finished in run
    times = entries_of(run.series(tag.tag), axis)
    finished_times = None
    if has_finished and only is not None:
        finished_times = entries_of(run.series(only), axis)
        if only not in run:
            below = times.values < DNF_S
            finished_times = Entries(times.at[below], times.values[below])
    return RaceEntries(
        times=times,
        finished=entries_of(run.series(finished), axis) if has_finished and finished else None,
        finished_times=finished_times,
    )


# -- tables -------------------------------------------------------------------------------------

_RACE_COLUMNS: Final = (
    Column("runs", "runs", 0),
    Column("best", "best, s", 3),
    Column("mean", "mean, s", 2),
    Column("std", "std, s", 2),
    Column("best_finished", "best fin., s", 3),
    Column("finish_rate", "rate", 1, percent=True),
    Column("first_finish", "first finish", 1),
    Column("interval_runs", "| last interval: runs", 0),
    Column("interval_best", "best, s", 3),
    Column("interval_mean", "mean, s", 2),
    Column("interval_std", "std, s", 2),
    Column("interval_mean_finished", "mean fin., s", 3),
    Column("interval_rate", "rate", 1, percent=True),
)


def race_table(runs: Sequence[RunLog], tag: RaceTag, checkpoints: Checkpoints) -> Table:
    """Return the race times of a tag at checkpoints, a row for each checkpoint and run.

    The columns before `interval_runs` are cumulative since the start of a run, the others count
    what was driven since the last checkpoint.
    """
    numbers = {
        run.name: race_numbers(race_entries(run, tag, checkpoints.axis), checkpoints.at)
        for run in runs
    }
    first_decimals = 0 if checkpoints.axis == STEPS else 1
    columns = tuple(
        Column(c.key, c.title, first_decimals) if c.key == "first_finish" else c
        for c in _RACE_COLUMNS
    )
    rows: list[tuple[Cell, ...]] = [
        (float(at), run.name, *(getattr(numbers[run.name][i], c.key) for c in columns))
        for i, at in enumerate(checkpoints.at)
        for run in runs
    ]
    return Table(
        title=f"{tag.tag} {_by(checkpoints)}",
        columns=(_AXIS_COLUMNS[checkpoints.axis], Column("run", "run"), *columns),
        rows=tuple(rows),
        notes=tuple(_collapse_notes(numbers, checkpoints)),
    )


def _collapse_notes(numbers: dict[str, list[RaceNumbers]], checkpoints: Checkpoints) -> list[str]:
    unit = _AXIS_COLUMNS[checkpoints.axis].title
    return [
        f"collapse of {name} at {fall.at:,.{0 if checkpoints.axis == STEPS else 1}f} ({unit}): "
        f"{fall.rate:.1%} of the interval's runs finish, after {fall.best_before:.1%} at best"
        for name, found in numbers.items()
        for fall in collapses(found, checkpoints.at)
    ]


def value_table(runs: Sequence[RunLog], tag: ValueTag, checkpoints: Checkpoints) -> Table:
    """Return the last values of a tag at checkpoints, a column for each run."""
    found = [
        last_values(entries_of(values_of(run, tag), checkpoints.axis), checkpoints.at)
        for run in runs
    ]
    columns = [_AXIS_COLUMNS[checkpoints.axis]]
    columns += [Column(run.name, run.name, tag.decimals) for run in runs]
    rows = tuple(
        (float(at), *(values[i] for values in found)) for i, at in enumerate(checkpoints.at)
    )
    return Table(f"{tag.tag} ({tag.title}; last value) {_by(checkpoints)}", tuple(columns), rows)


def target_table(
    runs: Sequence[RunLog], tag: RaceTag, axis: TimeAxis, targets: Sequence[float]
) -> Table:
    """Return when each run first drove a time of at most each target, in minutes and steps.

    Args:
        runs: to compare.
        tag: of race times.
        axis: which minutes.
        targets: race times in s.
    """
    rows: list[tuple[Cell, ...]] = []
    for target in targets:
        for run in runs:
            series = run.series(tag.tag)
            times = Entries(series.minutes(axis), series.values)
            at = first_at_most(times, target)
            if at is None:
                rows.append((target, run.name, None, None))
            else:
                rows.append((target, run.name, float(times.at[at]), int(series.steps[at])))
    columns = (Column("target", "target, s", 3), Column("run", "run"))
    minutes = Column("minutes", _AXIS_COLUMNS[axis].title, 1)
    return Table(
        f"{tag.tag}: time and steps to a target",
        (*columns, minutes, Column("steps", "steps", 0)),
        tuple(rows),
    )


def common_target(runs: Sequence[RunLog], tag: RaceTag) -> float | None:
    """Return the best time in s that every run reached, which is that of the slowest run.

    Returns:
        None if a run has no entry of the tag, or never finished.
    """
    best = []
    for run in runs:
        values = run.series(tag.tag).values
        fine = values[np.isfinite(values)]
        best.append(float(fine.min()) if len(fine) else DNF_S)
    return max(best) if best and max(best) < DNF_S else None


def tables(
    runs: Sequence[RunLog],
    *,
    time_axis: ChosenAxis = "auto",
    interval: float | None = None,
    step_interval: float | None = None,
    targets: Sequence[float] = (),
) -> list[Table]:
    """Return all tables of a comparison: by time, by step, and the way to targets.

    Args:
        runs: to compare.
        time_axis: see `choose_axis`.
        interval: minutes between checkpoints; None chooses.
        step_interval: steps between checkpoints; None chooses.
        targets: race times in s; empty takes for each tag the best one that all runs reached.

    Raises:
        UserError: no common window of time, or an interval that is no positive number.
    """
    axis = choose_axis(runs, time_axis)
    races, values = race_tags(runs), value_tags(runs)
    if not races and not values:
        raise UserError(
            f"{', '.join(run.name for run in runs)}: no tag of race times or losses in these logs; "
            f"see docs/metrics.md"
        )
    by_time = time_checkpoints(runs, axis, interval)
    kinds = [by_time]
    no_steps: str | None = None
    try:
        kinds.append(step_checkpoints(runs, step_interval))
    except NoCommonWindowError as error:
        no_steps = str(error)
    found: list[Table] = []
    for checkpoints in kinds:
        found += [race_table(runs, tag, checkpoints) for tag in races]
        found += [value_table(runs, tag, checkpoints) for tag in values]
    if no_steps is not None:
        found.append(Table("BY STEP: not compared", (Column("why", "why"),), ((no_steps,),)))
    for tag in races:
        goal = common_target(runs, tag)
        goals = list(targets) or ([goal] if goal is not None else [])
        if goals:
            found.append(target_table(runs, tag, axis, goals))
    return found


def _by(checkpoints: Checkpoints) -> str:
    low, high = checkpoints.low, checkpoints.high
    if checkpoints.axis == STEPS:
        return f"BY STEP, common window {low:,.0f} to {high:,.0f} steps"
    kind = "wall" if checkpoints.axis == "wall_minutes" else "training"
    return f"BY RELATIVE TIME, common window {low:,.1f} to {high:,.1f} min of {kind} time"
