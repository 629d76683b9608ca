"""Log folders put together to runs: which files belong to whom, one time zero, hidden entries."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from datasets.contract.errors import UserError
from datasets.contract.ownership import MARKER
from pipeline.analysis.run_log import RunLog, read_runs
from tests.event_samples import Entry, write_events

Span = tuple[float, int, int]
"""First wall second, first step, number of entries; each is 10 s and 10,000 steps on."""
STRIDE_S, STRIDE = 10.0, 10_000


def entries(span: Span, base: float = 0.0) -> list[Entry]:
    """Entries of `loss`, whose value is `base` plus the step in 40,000."""
    wall, step, count = span
    return [
        Entry(wall + STRIDE_S * i, step + STRIDE * i, "loss", base + (step + STRIDE * i) / 4e4)
        for i in range(count)
    ]


def write(
    logdir: Path, folder: str, span: Span, *, base: float = 0.0, mark: int | None = None, pid: int
) -> None:
    start = [] if mark is None else [Entry(span[0], mark, None)]
    write_events(logdir / folder, [*start, *entries(span, base)], pid=pid)


def mark_folder(folder: Path, run: str, identity: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"format": 1, "stage": "rl", "run": run, "id": identity}
    (folder / MARKER).write_text(json.dumps(values), encoding="utf-8")


def read(logdir: Path, *names: str) -> list[RunLog]:
    return read_runs(names, logdir, cache=None)


def losses(run: RunLog) -> list[float]:
    return [float(value) for value in run.series("loss").values]


def up_to(count: int, base: float = 0.0, first: int = 0) -> list[float]:
    return [base + (first + STRIDE * i) / 4e4 for i in range(count)]


def test_suffix_folders_are_merged_in_order_with_one_time_zero(tmp_path: Path) -> None:
    write(tmp_path, "run_10", (300.0, 200_000, 10), pid=1)
    write(tmp_path, "run_2", (100.0, 100_000, 10), pid=1)
    write(tmp_path, "run", (0.0, 0, 10), pid=1)
    (run,) = read(tmp_path, "run")
    assert run.folders == ("run", "run_2", "run_10")
    assert losses(run) == up_to(30)
    minutes = run.series("loss").wall_minutes
    assert (minutes[0], minutes[10], minutes[-1]) == pytest.approx((0.0, 100 / 60, 390 / 60))
    assert run.wall_minutes == pytest.approx(6.5)
    assert run.steps == (0, 290_000)
    assert run.describe() == (
        "run: run, run_2, run_10 (3 event files); 6.5 min of wall time, training time not logged, "
        "steps 0 to 290,000"
    )


def test_a_foreign_folder_whose_steps_do_not_continue_is_named_and_left_out(tmp_path: Path) -> None:
    write(tmp_path, "run", (0.0, 0, 10), pid=1)
    write(tmp_path, "run_2", (100.0, 0, 7), base=50.0, pid=2)
    write(tmp_path, "run_3", (500.0, 900_000, 3), base=70.0, pid=3)
    first, second = read(tmp_path, "run", "run_2")
    assert losses(first) == up_to(10)
    assert losses(second) == up_to(7, 50.0)
    assert first.notes == (
        "run_2: not merged, because it begins at step 0 and does not continue run, which ends at "
        "step 90,000",
        "run_3: not merged, because it begins at step 900,000 and does not continue run, which "
        "ends at step 90,000",
    )


@pytest.mark.parametrize(
    "order",
    [
        o
        for o in itertools.permutations(range(4))
        if o.index(0) < o.index(1) and o.index(2) < o.index(3)
    ],
)
def test_no_order_of_two_colliding_runs_hides_mixes_or_loses_entries(
    tmp_path: Path, order: Sequence[int]
) -> None:
    """Run `run` goes on in `run_2`, which is also a run of its own and goes on in `run_2_2`.

    Each run writes its own folders in order; every order of both is tried.
    """
    pieces = [
        ("run", (0, 10), 0.0, 11),
        ("run_2", (100_000, 9), 0.0, 11),
        ("run_2", (0, 10), 50.0, 22),
        ("run_2_2", (100_000, 6), 50.0, 22),
    ]
    written: set[str] = set()
    for moment, index in enumerate(order):
        folder, (step, count), base, pid = pieces[index]
        # Older versions put a mark at step 0 into a folder that already held events.
        mark = 0 if folder in written else None
        write(tmp_path, folder, (1000.0 * moment, step, count), base=base, mark=mark, pid=pid)
        written.add(folder)
    first, second = read(tmp_path, "run", "run_2")
    assert losses(first) == up_to(19)
    assert losses(second) == up_to(16, 50.0)


def test_markers_name_the_run_whatever_the_steps_say(tmp_path: Path) -> None:
    write(tmp_path, "run", (0.0, 0, 10), pid=1)
    write(tmp_path, "run_2", (100.0, 100_000, 10), base=50.0, pid=2)
    write(tmp_path, "renamed_2", (100.0, 500_000, 4), pid=1)
    mark_folder(tmp_path / "run", "run", "a")
    mark_folder(tmp_path / "run_2", "run_2", "b")
    mark_folder(tmp_path / "renamed_2", "run", "a")
    first, second = read(tmp_path, "run", "run_2")
    assert first.folders == ("run", "renamed_2")
    assert losses(first) == [*up_to(10), *up_to(4, first=500_000)]
    assert losses(second) == up_to(10, 50.0, 100_000)


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    write(tmp_path, "run", (0.0, 0, 10), pid=1)
    (tmp_path / "run" / MARKER).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path, "run")


def test_a_resume_hides_the_lost_entries_in_every_folder_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, "run", (0.0, 0, 10), pid=1)
    write(tmp_path, "run_2", (100.0, 100_000, 5), pid=1)  # lost but for the resume below
    write(tmp_path, "run", (1000.0, 70_000, 2), base=30.0, mark=70_000, pid=2)
    (run,) = read(tmp_path, "run")
    assert losses(run) == [*up_to(7), *up_to(2, 30.0, 70_000)]
    assert run.steps == (0, 80_000)


def test_training_minutes_leave_out_the_time_between_stop_and_resume(tmp_path: Path) -> None:
    def hours(wall: float, step: int, value: float) -> list[Entry]:
        return [Entry(wall, step, "loss", step), Entry(wall, step, "cumul_training_hours", value)]

    write_events(tmp_path / "run", [*hours(0.0, 0, 0.5), *hours(3600.0, 10, 1.5)], pid=1)
    later = [Entry(89_100.0, 20, "loss", 20.0), *hours(90_000.0, 30, 2.0)]
    write_events(tmp_path / "run", [*later, Entry(90_900.0, 40, "loss", 40.0)], pid=2)
    (run,) = read(tmp_path, "run")
    series = run.series("loss")
    assert series.training_minutes == pytest.approx([30.0, 90.0, 105.0, 120.0, 135.0])
    assert series.wall_minutes == pytest.approx([0.0, 60.0, 1485.0, 1500.0, 1515.0])
    assert (run.first_training_minutes, run.training_minutes) == pytest.approx((30.0, 135.0))


def test_a_session_that_begins_before_the_last_one_ends_is_placed_after_it(tmp_path: Path) -> None:
    write(tmp_path, "run", (1000.0, 0, 10), pid=1)
    write(tmp_path, "run", (1030.0, 100_000, 4), pid=2)
    (run,) = read(tmp_path, "run")
    assert run.series("loss").wall_minutes[[9, 10, 13]] == pytest.approx([1.5, 1.5, 2.0])
    assert "begins 1.0 min before the file before it ends" in run.notes[0]


def test_entries_are_sorted_by_step_where_steps_go_back(tmp_path: Path) -> None:
    write(tmp_path, "run", (0.0, 0, 3), pid=1)
    write(tmp_path, "run", (100.0, 10_000, 2), base=7.0, pid=2)
    (run,) = read(tmp_path, "run")
    ordered = run.series("loss").by_step()
    assert ordered.steps.tolist() == [0, 10_000, 10_000, 20_000, 20_000]
    assert ordered.values.tolist() == [0.0, 0.25, 7.25, 0.5, 7.5]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "run & co $1$", "läufe"])
def test_any_folder_name_is_a_run(tmp_path: Path, name: str) -> None:
    if "/" in name:
        name = name.replace("/", "∕")
    write(tmp_path, name, (0.0, 0, 3), pid=1)
    (run,) = read(tmp_path, name)
    assert losses(run) == up_to(3)


def test_a_run_folder_says_where_its_logs_are(tmp_path: Path) -> None:
    write(tmp_path / "logs", "run", (0.0, 0, 3), pid=1)
    folder = tmp_path / "rl" / "run"
    folder.mkdir(parents=True)
    snapshot = f"tensorboard_dir: {tmp_path / 'logs'}\n"
    (folder / "config_snapshot.yaml").write_text(snapshot, encoding="utf-8")
    for path in (folder, tmp_path / "logs" / "run"):
        (run,) = read_runs([str(path)], tmp_path / "nowhere", cache=None)
        assert losses(run) == up_to(3)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "A01_as20_long", (0.0, 0, 3), pid=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "events.out.tfevents.1.host.1.0").write_bytes(b"")
    cases = {
        "A01_as20_lang": "did you mean A01_as20_long",
        "empty": "no logs of such a run",
        "hollow": "no scalars",
        "../x": "neither the name of a run nor an existing folder",
        "..": "no run with a configuration and logs",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            read(tmp_path, name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="given twice"):
        read(tmp_path, "A01_as20_long", "A01_as20_long")
    with pytest.raises(UserError, match="no such folder of logs"):
        read(tmp_path / "missing", "A01_as20_long")
