"""Input files driven in the simulator and recorded."""

from pathlib import Path

import numpy as np
import pytest

from datasets.doctor.checks import diagnose
from datasets.inputs import Inputs, format_inputs, read_inputs
from datasets.reader import ReplayFile
from pipeline.cli import main
from pipeline.recording.capture import CaptureRequest, capture_inputs
from pipeline.recording.inputs import find_inputs, key_time
from rl.envs.registry import find_track
from rl.evaluation.best_runs import save_best_run
from rl.evaluation.greedy import DrivenRun, evaluate_drivers


@pytest.fixture(scope="module")
def best() -> DrivenRun:
    run = evaluate_drivers(find_track("short"), "expert", starts=2, seed=5).best_run
    assert run is not None
    return run


def capture(replays: Path, out: Path, *options: str) -> int:
    command = ["data", "capture", "--replays", str(replays), "--track", "short", "--out", str(out)]
    return main([*command, "--image-size", "9x11", *options])


def test_a_best_run_is_driven_again_exactly(best: DrivenRun, tmp_path: Path) -> None:
    saved = save_best_run(tmp_path / "best_runs", best, {})
    assert capture(tmp_path / "best_runs", tmp_path / "x.h5") == 0
    with ReplayFile(tmp_path / "x.h5") as file:
        assert [c.name for c in diagnose(file).checks if c.level == "error"] == []
        assert file.n_replays == 1
        replay = file.replay(0)
        assert file.spec.key_ms == 10
        assert file.image_size == (9, 11)
    assert (replay.name, replay.driver) == (saved.name, "agent")
    assert (replay.race_time_ms, replay.finished) == (best.race_time_ms, True)
    np.testing.assert_array_equal(replay.actions, best.actions)


def test_scripts_are_driven_from_a_standstill(best: DrivenRun, tmp_path: Path) -> None:
    """The expert's keys finish from there too, in another time than the files' names say."""
    replays = tmp_path / "replays"
    (replays / "more").mkdir(parents=True)
    text = format_inputs(Inputs(best.actions), "script")
    (replays / "pos10_eve_9990ms.txt").write_text(text + "15000 press down\n")
    (replays / "more" / "pos2_a_b_9000ms.inputs").write_text("0 press up")
    (replays / "more" / "notes.md").write_text("no inputs")
    request = CaptureRequest(replays, "short", fps=10, image_size=(9, 11), keep_unfinished=True)
    summary = capture_inputs(tmp_path / "x.h5", request)
    assert summary.recorded == 2
    with ReplayFile(tmp_path / "x.h5") as file:
        assert [str(name) for name in file.replays["driver"]] == ["a_b", "eve"]
        straight, turning = file.replay(0), file.replay(1)
        assert file.frame_interval_ms == 100
    assert not straight.finished
    assert summary.unfinished[0] == "pos2_a_b_9000ms"
    assert not straight.actions.any()  # held to the end
    n = min(len(turning.actions), len(best.actions))
    np.testing.assert_array_equal(turning.actions[:n], best.actions[:n])


def test_runs_that_do_not_finish_are_left_out(
    best: DrivenRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_best_run(tmp_path / "runs", best, {})
    (tmp_path / "runs" / "idle.txt").write_text("0.00-0.50 press up\n")
    assert capture(tmp_path / "runs", tmp_path / "x.h5") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "did not finish, cut off after" in printed
    assert "1 runs did not finish and are left out" in printed
    assert capture(tmp_path / "runs", tmp_path / "y.h5", "--keep-unfinished") == 0
    with ReplayFile(tmp_path / "x.h5") as few, ReplayFile(tmp_path / "y.h5") as every:
        assert (few.n_replays, every.n_replays) == (1, 2)
        assert sorted(every.replays["finished"].tolist()) == [False, True]


def test_how_long_keys_are_held_is_told(best: DrivenRun, tmp_path: Path) -> None:
    """What the text releases at the finish, between two actions, is no key that was let go."""
    held = best.actions[::5].repeat(5)[: len(best.actions) // 5 * 5 - 3]
    run = DrivenRun("short", 3, 0.0, len(held) * 10, held)
    save_best_run(tmp_path / "held", run, {})
    assert key_time(find_inputs(tmp_path / "held")) == 50
    save_best_run(tmp_path / "held", best, {})
    assert key_time(find_inputs(tmp_path / "held")) == 10


def test_another_time_than_the_file_says_is_told(best: DrivenRun, tmp_path: Path) -> None:
    folder = save_best_run(tmp_path / "runs", best, {})
    path = next(folder.glob("*.inputs"))
    ours = format_inputs(Inputs(best.actions))
    late = best.actions.copy()
    late[3:20] = 3  # coasts at first
    path.write_text(format_inputs(Inputs(late)))
    summary = capture_inputs(
        tmp_path / "x.h5", CaptureRequest(tmp_path / "runs", "short", keep_unfinished=True)
    )
    assert path.read_text() != ours
    assert summary.differing + summary.unfinished == [path.stem]


def test_files_of_one_name_keep_apart(best: DrivenRun, tmp_path: Path) -> None:
    for part in ("a", "b"):
        save_best_run(tmp_path / "runs" / part, best, {})
    summary = capture_inputs(tmp_path / "x.h5", CaptureRequest(tmp_path / "runs", "short"))
    assert summary.recorded == 2
    with ReplayFile(tmp_path / "x.h5") as file:
        name = f"short_{best.race_time_ms}"
        assert file.replays["name"].tolist() == [f"{part}_{name}_{name}" for part in "ab"]


def test_inputs_are_converted(best: DrivenRun, tmp_path: Path) -> None:
    source = tmp_path / "run.inputs"
    source.write_text(format_inputs(Inputs(best.actions)))
    script = tmp_path / "run.txt"
    assert main(["data", "inputs", str(source), "--to", "script", "--out", str(script)]) == 0
    assert script.read_text() == format_inputs(Inputs(best.actions), "script")
    np.testing.assert_array_equal(read_inputs(script).actions, read_inputs(source).actions)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replays = tmp_path / "replays"
    for content, message in (
        (None, "no input files there"),
        ("0-90 press up\n0-90 push up\n", "bad.txt:2: unknown command 'push'"),
    ):
        if content is not None:
            replays.mkdir()
            (replays / "bad.txt").write_text(content)
        assert capture(replays, tmp_path / "x.h5") == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert not list(tmp_path.glob("x.h5*"))
