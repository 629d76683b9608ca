"""The search for the fastest lap: refusals, and one short search that is stopped and continued."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.near_optimal.__main__ import main
from benchmarks.near_optimal.laps import Laps
from benchmarks.near_optimal.search import STATE_FILE, SearchState
from benchmarks.near_optimal.starts import expert_starts
from datasets.inputs import read_inputs
from rl.envs.registry import find_track
from rl.evaluation.best_known import drive_from_exact_start


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one line of a search that is refused with exit code 2."""
    try:
        code: object = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("near_optimal")
    return line


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out")
    assert "did you mean 'A01'" in refused(capsys, "--track", "A02", *out)
    assert "expected a whole number" in refused(
        capsys, "--track", "short", "--patience-laps", "0", *out
    )
    np.save(tmp_path / "line.npy", np.zeros((3, 3)))
    assert "expected an array" in refused(capsys, "--track", tmp_path / "line.npy", *out)
    nowhere = tmp_path / "nowhere.inputs"
    assert "no such file" in refused(capsys, "--track", "short", "--from", nowhere, *out)
    several = ("--track", "short", "A01", "--from", nowhere)
    assert "give one --track" in refused(capsys, *several, *out)
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_track_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "A01_24000"
    run.mkdir()
    (run / "A01_24000.inputs").write_text("0.00-24.00 press up\n")
    (run / "run.json").write_text(json.dumps({"track": "A01"}))
    command = ("--track", "short", "--out", tmp_path / "out", "--from")
    assert "a run on A01, not on short" in refused(capsys, *command, run)
    assert "a run on A01, not on short" in refused(capsys, *command, run / "A01_24000.inputs")


def test_the_folder_of_another_search_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / STATE_FILE).write_text("{}")
    line = refused(capsys, "--track", "short", "--out", tmp_path)
    assert "the folder of a search on one track" in line


@pytest.fixture(scope="module")
def laps() -> Laps:
    return Laps(find_track("short"))


@pytest.mark.slow
def test_laps_of_the_search_are_races(laps: Laps) -> None:
    for start in expert_starts(laps, seed=1):
        driven = laps.drive(start.actions)
        assert driven is not None
        assert driven.lap.race_time_ms == start.race_time_ms == laps.race(start.actions)


def search(out: Path, *arguments: str) -> SearchState:
    assert main(["--track", "short", "--out", str(out), *arguments]) == 0
    return SearchState.model_validate_json((out / "short" / STATE_FILE).read_text())


@pytest.mark.slow
def test_a_search_gains_continues_and_can_be_driven_again(laps: Laps, tmp_path: Path) -> None:
    """Measured: the first pass gains 0.3 s and more on the fastest expert driver."""
    whole = search(tmp_path / "whole", "--patience-laps", "20000")
    parts = search(tmp_path / "parts", "--patience-laps", "1")
    assert parts.passes < whole.passes
    parts = search(tmp_path / "parts", "--patience-laps", "20000")
    assert parts.model_copy(update={"cpu_seconds": 0.0}) == whole.model_copy(
        update={"cpu_seconds": 0.0}
    )
    assert whole.interpolated_ms < whole.starts[0].race_time_ms - 100.0
    notes = json.loads((tmp_path / "whole" / "short" / "short.json").read_text())
    inputs = read_inputs(tmp_path / "whole" / "short" / "short.inputs")
    actions = inputs.at_ticks(notes["race_time_ms"] // 10)
    assert drive_from_exact_start(laps.track, actions) == notes["race_time_ms"]


@pytest.mark.slow
def test_what_is_no_lap_of_the_track_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "straight.inputs"
    path.write_text("0.00-8.00 press up\n")
    line = refused(capsys, "--track", "short", "--out", tmp_path / "out", "--from", path)
    assert "does not finish short from its exact start" in line
    state = tmp_path / "out" / "A01" / STATE_FILE
    state.parent.mkdir(parents=True)
    short = search(tmp_path / "small", "--patience-laps", "1")
    state.write_text(short.model_dump_json())
    assert "a search on short, not on A01" in refused(
        capsys, "--track", "A01", "--out", tmp_path / "out"
    )
