"""Tables of runs beside each other: every cell is a number worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from datasets.contract.errors import UserError
from pipeline.analysis.checkpoint_values import (
    Entries,
    RaceEntries,
    collapses,
    race_numbers,
)
from pipeline.analysis.comparison import (
    NoCommonWindowError,
    choose_axis,
    common_target,
    race_table,
    step_checkpoints,
    tables,
    target_table,
    time_checkpoints,
    value_table,
)
from pipeline.analysis.metrics import LEARNER_SHARE, race_tags, value_tags
from pipeline.analysis.run_log import RunLog, read_runs
from pipeline.analysis.summary import best_table, last_table, tag_table
from pipeline.analysis.tables import Column, Table, text_of
from tests.event_samples import Entry, race, write_events

MINUTE = 60.0
TIME, ROBUST = "Race/eval_race_time_trained_A01", "Race/eval_race_time_robust_trained_A01"


def hours(minute: float, step: int, training_hours: float) -> Entry:
    return Entry(minute * MINUTE, step, "cumul_training_hours", training_hours)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunLog]:
    """Two runs: `one` of 7 greedy runs in 8 minutes, `two` of 3 in 5; training is half the wall."""
    one = [
        Entry(0.0, 0, "Training/loss", 15_000.0),
        *race(1.0 * MINUTE, 100, None),
        *race(2.0 * MINUTE, 200, 32.0),
        *race(3.0 * MINUTE, 300, 28.0),
        Entry(3.0 * MINUTE, 300, ROBUST, 28.0),
        *race(4.5 * MINUTE, 450, 26.0),
        *race(5.5 * MINUTE, 550, None),
        *race(6.5 * MINUTE, 650, None),
        *race(7.0 * MINUTE, 700, 24.5),
        Entry(7.0 * MINUTE, 700, "Training/loss", 64.0),
        Entry(7.0 * MINUTE, 700, LEARNER_SHARE, 62.5),
        Entry(7.0 * MINUTE, 700, "alltime_min_ms_A01", 24_500.0),
        *[hours(minute, 100 * minute, minute / 120) for minute in range(9)],
    ]
    two = [
        *race(0.0, 50, 30.0),
        *race(2.0 * MINUTE, 400, 27.0),
        *race(5.0 * MINUTE, 900, None),
        Entry(1.0 * MINUTE, 225, "Training/loss", 128.0),
        Entry(5.0 * MINUTE, 900, "Training/loss", float("nan")),
        Entry(5.0 * MINUTE, 900, LEARNER_SHARE, 0.5),
        *[hours(minute, 180 * minute, minute / 120) for minute in range(6)],
    ]
    write_events(tmp_path / "one", sorted(one, key=lambda entry: entry.wall_s), pid=1)
    write_events(tmp_path / "two", sorted(two, key=lambda entry: entry.wall_s), pid=2)
    return read_runs(["one", "two"], tmp_path, cache=None)


def cells(table: Table) -> list[list[object]]:
    return [
        [round(cell, 6) if isinstance(cell, float) else cell for cell in row] for row in table.rows
    ]


def std(*values: float) -> float:
    return round(
        math.sqrt(sum((v - sum(values) / len(values)) ** 2 for v in values) / len(values)), 6
    )


def test_race_times_by_wall_minutes(runs: list[RunLog]) -> None:
    (tag,) = [tag for tag in race_tags(runs) if tag.tag == TIME]
    checkpoints = time_checkpoints(runs, "wall_minutes", 2.0)
    table = race_table(runs, tag, checkpoints)
    assert cells(table) == [
        # at, run, runs, best, mean, std, best fin., rate, first | runs, best, mean, std, fin., rate
        [2.0, "one", 2, 32.0, 166.0, 134.0, 32.0, 0.5, 2.0, 2, 32.0, 166.0, 134.0, 32.0, 0.5],
        [2.0, "two", 2, 27.0, 28.5, 1.5, 27.0, 1.0, 0.0, 2, 27.0, 28.5, 1.5, 28.5, 1.0],
        [
            4.0,
            "one",
            3,
            28.0,
            120.0,
            std(300, 32, 28),
            28.0,
            round(2 / 3, 6),
            2.0,
            *(1, 28.0, 28.0, 0.0, 28.0, 1.0),
        ],
        [4.0, "two", 2, 27.0, 28.5, 1.5, 27.0, 1.0, 0.0, 0, None, None, None, None, None],
    ]
    assert "common window 0.0 to 5.0 min of wall time" in table.title


def test_race_times_by_training_minutes_and_by_step(runs: list[RunLog]) -> None:
    (tag,) = [tag for tag in race_tags(runs) if tag.tag == TIME]
    by_time = race_table(runs, tag, time_checkpoints(runs, "cumul_training_hours", 1.0))
    assert [row[:4] for row in by_time.rows] == [
        (1.0, "one", 2, 32.0),
        (1.0, "two", 2, 27.0),
        (2.0, "one", 3, 28.0),
        (2.0, "two", 2, 27.0),
    ]
    assert by_time.column("first_finish") == pytest.approx([1.0, 0.0, 1.0, 0.0])
    by_step = race_table(runs, tag, step_checkpoints(runs, 350.0))
    assert cells(by_step) == [
        [
            350.0,
            "one",
            3,
            28.0,
            120.0,
            std(300, 32, 28),
            28.0,
            round(2 / 3, 6),
            200.0,
            *(3, 28.0, 120.0, std(300, 32, 28), 30.0, round(2 / 3, 6)),
        ],
        [350.0, "two", 1, 30.0, 30.0, 0.0, 30.0, 1.0, 50.0, 1, 30.0, 30.0, 0.0, 30.0, 1.0],
        [
            700.0,
            "one",
            7,
            24.5,
            round(1010.5 / 7, 6),
            std(300, 32, 28, 26, 300, 300, 24.5),
            *(24.5, round(4 / 7, 6), 200.0, 4, 24.5, 162.625, std(26, 300, 300, 24.5), 25.25, 0.5),
        ],
        [700.0, "two", 2, 27.0, 28.5, 1.5, 27.0, 1.0, 50.0, 1, 27.0, 27.0, 0.0, 27.0, 1.0],
    ]
    assert "BY STEP, common window 50 to 800 steps" in by_step.title


def test_a_tag_without_finished_events_shows_a_dash(runs: list[RunLog]) -> None:
    (tag,) = [tag for tag in race_tags(runs) if tag.robust]
    table = race_table(runs, tag, time_checkpoints(runs, "wall_minutes", 4.0))
    assert table.rows[0] == (
        4.0,
        "one",
        1,
        28.0,
        28.0,
        0.0,
        *[None] * 3,
        1,
        28.0,
        28.0,
        0.0,
        None,
        None,
    )
    assert table.rows[1] == (4.0, "two", 0, *[None] * 6, 0, *[None] * 5)
    row = text_of(table).splitlines()[4].split()
    assert row == ["4.0", "two", "0", *"------", "0", *"-----"]


def test_last_values_by_time_and_by_step(runs: list[RunLog]) -> None:
    tags = {tag.tag: tag for tag in value_tags(runs)}
    loss = value_table(runs, tags["Training/loss"], time_checkpoints(runs, "wall_minutes", 2.5))
    assert loss.rows[0] == (2.5, 15_000.0, 128.0)
    assert loss.rows[1][:2] == (5.0, 15_000.0)
    assert math.isnan(float(loss.rows[1][2] or 0))  # what was logged last, not what came before it
    steps = step_checkpoints(runs, 400.0)
    assert value_table(runs, tags["Training/loss"], steps).rows == (
        (400.0, 15_000.0, 128.0),
        (800.0, 64.0, 128.0),
    )
    best = value_table(runs, tags["alltime_min_ms_A01"], steps)
    assert best.rows == ((400.0, None, None), (800.0, 24.5, None))


def test_learner_shares_of_both_kinds_are_per_cent(runs: list[RunLog]) -> None:
    (tag,) = [tag for tag in value_tags(runs) if tag.tag == LEARNER_SHARE]
    assert value_table(runs, tag, step_checkpoints(runs, 800.0)).rows == ((800.0, 62.5, None),)
    assert last_table(runs).records()[2:] == [
        {
            "tag": LEARNER_SHARE,
            "title": "learner busy with training, %",
            "run": "one",
            "last": 62.5,
            "steps": 700,
            "ratio": 1.0,
        },
        {
            "tag": LEARNER_SHARE,
            "title": "learner busy with training, %",
            "run": "two",
            "last": 50.0,
            "steps": 900,
            "ratio": 0.8,
        },
    ]


def test_whole_runs(runs: list[RunLog]) -> None:
    rows = {(row["tag"], row["run"]): row for row in best_table(runs, "wall_minutes").records()}
    one, two = rows[TIME, "one"], rows[TIME, "two"]
    assert [one[k] for k in ("best", "steps", "minutes", "entries")] == [24.5, 700, 7.0, 7]
    assert [two[k] for k in ("best", "steps", "minutes", "entries")] == [27.0, 400, 2.0, 3]
    assert (one["finish_rate"], two["finish_rate"]) == pytest.approx((4 / 7, 2 / 3))
    assert rows["alltime_min_ms_A01", "one"]["best"] == 24.5
    assert rows["alltime_min_ms_A01", "two"]["best"] is None
    losses = last_table(runs).records()[:2]
    assert [(row["last"], row["steps"], row["ratio"]) for row in losses] == [
        (64.0, 700, 1.0),
        (128.0, 225, 2.0),
    ]
    loss = next(row for row in tag_table(runs[1]).records() if row["tag"] == "Training/loss")
    assert list(loss.values()) == ["Training/loss", 2, 1, 128.0, 128.0, 128.0, 128.0]


def test_time_and_steps_to_a_target(runs: list[RunLog]) -> None:
    (tag,) = [tag for tag in race_tags(runs) if tag.tag == TIME]
    assert common_target(runs, tag) == 27.0
    table = target_table(runs, tag, "wall_minutes", [28.0, 27.0, 20.0])
    assert cells(table) == [
        [28.0, "one", 3.0, 300],
        [28.0, "two", 2.0, 400],
        [27.0, "one", 4.5, 450],
        [27.0, "two", 2.0, 400],
        [20.0, "one", None, None],
        [20.0, "two", None, None],
    ]


def rates(*finished: tuple[int, int]) -> RaceEntries:
    """Runs of intervals of 10 minutes: how many finished, of how many."""
    at = np.concatenate([10.0 * i + np.linspace(1, 9, n) for i, (_, n) in enumerate(finished)])
    flags = np.concatenate([[1.0] * k + [0.0] * (n - k) for k, n in finished])
    return RaceEntries(Entries(at, np.where(flags == 1, 25.0, 300.0)), Entries(at, flags), None)


def test_a_cumulative_rate_hides_what_the_interval_rate_shows() -> None:
    """A policy that always finishes from minute 60 on reads 50 % at minute 120, 88 % at 490."""
    entries = rates(*[(0, 6)] * 6, *[(6, 6)] * 43)
    found = race_numbers(entries, np.array([60.0, 120.0, 490.0]))
    assert [number.finish_rate for number in found] == pytest.approx([0.0, 0.5, 43 / 49])
    assert [number.interval_rate for number in found] == [0.0, 1.0, 1.0]
    assert found[1].first_finish == 61.0


def test_a_collapse_is_named_once_until_the_rate_is_back() -> None:
    intervals = [(1, 10), (8, 10), (6, 10), (4, 10), (1, 10), (9, 10), (0, 3), (3, 10)]
    checkpoints = np.linspace(10.0, 80.0, 8)
    found = collapses(race_numbers(rates(*intervals), checkpoints), checkpoints)
    assert [(fall.at, fall.rate, fall.best_before) for fall in found] == [
        (40.0, 0.4, 0.8),
        (80.0, 0.3, 0.9),
    ]


def test_automatic_intervals_are_round(runs: list[RunLog]) -> None:
    assert time_checkpoints(runs, "wall_minutes").at[[0, -1]] == pytest.approx((0.5, 5.0))
    assert step_checkpoints(runs).at[[0, -1]] == pytest.approx((50.0, 800.0))


def test_a_window_shorter_than_the_interval_has_its_end_as_checkpoint(runs: list[RunLog]) -> None:
    assert time_checkpoints(runs, "wall_minutes", 30.0).at.tolist() == [5.0]


def test_runs_without_training_hours_are_compared_by_wall_time(tmp_path: Path) -> None:
    for name, more in (("with", [hours(1.0, 1, 0.5)]), ("without", [])):
        write_events(tmp_path / name, [*race(0.0, 1, 25.0), *race(90.0, 9, 24.0), *more])
    found = read_runs(["with", "without"], tmp_path, cache=None)
    assert choose_axis(found, "auto") == "wall_minutes"
    assert choose_axis(found[:1], "auto") == "cumul_training_hours"
    with pytest.raises(UserError, match="without did not log it"):
        choose_axis(found, "cumul_training_hours")


def test_no_common_window(tmp_path: Path) -> None:
    def write(name: str, minutes: list[float], steps: list[int]) -> None:
        pairs = list(zip(minutes, steps, strict=True))
        entries = [Entry(60 * m, s, "Training/loss", 1.0) for m, s in pairs]
        write_events(tmp_path / name, [*entries, *(hours(m, s, m / 60) for m, s in pairs)])

    write("early", [0.0, 10.0], [0, 1000])
    write("late", [20.0, 30.0], [2000, 3000])
    found = read_runs(["early", "late"], tmp_path, cache=None)
    with pytest.raises(NoCommonWindowError, match="early 0 to 10, late 20 to 30"):
        tables(found, time_axis="cumul_training_hours")
    last = tables(found, time_axis="wall_minutes")[-1]
    assert last.title == "BY STEP: not compared"
    assert last.rows == (("no common window of steps: early 0 to 1,000, late 2,000 to 3,000",),)


@pytest.mark.parametrize("interval", [0.0, -5.0, float("nan"), float("inf"), 1e-7])
def test_intervals_that_are_refused(runs: list[RunLog], interval: float) -> None:
    with pytest.raises(UserError, match="--interval"):
        tables(runs, interval=interval)
    with pytest.raises(UserError, match="--step_interval"):
        tables(runs, step_interval=interval)


def test_text_has_units_and_dashes() -> None:
    columns = (Column("at", "steps", 0), Column("run", "run"), Column("rate", "rate", 1, True))
    table = Table("T", columns, ((1_000_000.0, "a", 0.5), (2.0, "long", None)), ("note",))
    assert text_of(table).splitlines() == [
        "T",
        "    steps  run     rate",
        "---------  ----  ------",
        "1,000,000  a     50.0 %",
        "        2  long       -",
        "note",
    ]
    with pytest.raises(KeyError):
        table.column("nothing")
