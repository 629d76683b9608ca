"""`report`: one HTML file of runs, which loads nothing and leaves nothing half written."""

import base64
import hashlib
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.commands import report_command
from pipeline.report.page_curves import script_json
from rl.evaluation.best_runs import load_run, saved_runs
from rl.evaluation.greedy import DrivenRun
from rl.run.folder import RunFolder
from rl.training.train import train
from tests.report_samples import MAP, kept_run, write_logs, write_run
from tests.rl_samples import straight_line, tiny_config

SCRIPT = "<script>alert(1)<!--"
"""Name of a run that must not become a part of the page."""
Report = Callable[..., str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three runs on one straight road, two of them with logs."""
    root = tmp_path_factory.mktemp("report")
    line = straight_line(root, 60.0)
    fast, slow = kept_run(line, "expert", 1), kept_run(line, "novice", 2)
    write_run(root, "plain", line, fast)
    write_run(root, SCRIPT, line, slow, lr=0.002)
    write_run(root, "other_version", line, fast)
    kept = saved_runs(root / "rl" / "other_version" / "best_runs", MAP)[0]
    np.save(kept / "actions.npy", np.full(len(fast.actions), 3, np.uint8))
    write_logs(root, "plain", [None, 12.0, 11.5, 11.0])
    write_logs(root, SCRIPT, [14.0, float("nan"), 13.0, 12.5])
    return root


@pytest.fixture
def report(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Report:
    """Write a report of runs by name and return the page."""
    monkeypatch.chdir(project)

    def write(*arguments: str) -> str:
        out = tmp_path / "new" / "report.html"
        assert main(_command(out, *arguments)) == 0
        assert f"written: {out}" in capsys.readouterr().out
        return out.read_text(encoding="utf-8")

    return write


def _command(out: Path, *arguments: str) -> list[str]:
    return ["report", *arguments, "-o", str(out), "--runs-dir", "rl"]


def data_of(page: str, element: str = "viewer-data") -> Any:
    """What the page carries in an element of data."""
    found = re.search(rf'<script type="application/json" id="{element}">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def text_of(page: str) -> str:
    """Text of the page without tags, scripts and styles."""
    plain = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", plain))


def test_a_report_shows_what_the_runs_are(report: Report) -> None:
    page = report("plain", SCRIPT)
    text = re.sub(r"\s+", " ", text_of(page))
    assert f"Report of plain, {SCRIPT}" in text
    assert "lr_schedule [[0, 0.001]] [[0, 0.002]]" in text
    assert "champion of plain s 64 50.0 % 9.876" in text
    assert "expert driver" in text
    assert "INJECTION of plain" in text
    assert "plain</script>.pt" in text
    assert "gain 0.25 0.25" in text
    assert "A & B" in text
    assert "steps 1 to 301" in text
    assert len(re.findall(r'id="plot-data-\d+"', page)) >= 4


def test_the_times_and_places_are_those_of_the_recorded_runs(report: Report, project: Path) -> None:
    runs = data_of(report("plain", SCRIPT))["runs"]
    assert [run["name"] for run in runs] == ["plain", SCRIPT, "expert driver"]
    for run in runs[:2]:
        kept = load_run(saved_runs(project / "rl" / run["name"] / "best_runs", MAP)[0])
        assert run["race_time_ms"] == kept.race_time_ms
        assert sum(run["sectors"]) == pytest.approx(kept.race_time_ms / 1000, abs=1e-3)
        assert run["ticks"] == len(kept.actions) + 1
        assert floats(run["times"])[-1] == kept.race_time_ms
        actions = np.frombuffer(base64.b64decode(run["actions"]), np.uint8)
        np.testing.assert_array_equal(actions[:-1], kept.actions)
        assert (np.diff(floats(run["progress"])) >= 0).all()


def test_progress_and_sectors_are_those_of_the_places(report: Report, project: Path) -> None:
    """On a straight road along z the car's place says all; y on the map is -z."""
    data = data_of(report("plain", "--driver", "good"))
    length = data["track"]["length"]
    assert length == pytest.approx(59.75)  # the finish lies in the middle of the last half metre
    for run in data["runs"]:
        z = -floats(run["y"]).astype(np.float64)
        progress, times = floats(run["progress"]), floats(run["times"])
        np.testing.assert_allclose(progress[:-1], np.minimum(z[:-1], length), atol=1e-3)
        at = np.arange(len(z)) * 10.0
        expected = np.interp([10.0, 30.0, 50.0], z, at)
        np.testing.assert_allclose(times[[10, 30, 50]], expected, atol=0.5)
        passed = np.interp(1000 * np.cumsum(run["sectors"])[:7], at, z)
        np.testing.assert_allclose(np.diff(passed), 60.0 / 8, atol=0.1)
        np.testing.assert_allclose(passed, data["track"]["sectors"][1:8], atol=0.1)


def test_nothing_is_loaded_and_only_its_own_scripts_run(report: Report) -> None:
    page = report("plain", SCRIPT)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2  # bokeh's and ours
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = html.unescape(policy[1])
    assert "default-src 'none'" in allowed
    for script in scripts:
        digest = hashlib.sha256(script.encode()).digest()
        assert f"'sha256-{base64.b64encode(digest).decode()}'" in allowed
    assert "alert(1)" not in "".join(scripts)
    without = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    assert "<script" not in without
    assert not re.search(r"<(link|img|iframe|object|embed)\b|@import|url\(", without)


def test_data_cannot_end_its_element() -> None:
    value = {"a": "</script><script>&amp;", "b": [1.5, None]}
    text = script_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_a_run_of_another_version_is_left_out_and_named(report: Report) -> None:
    page = report("plain", "other_version")
    names = [run["name"] for run in data_of(page)["runs"]]
    assert names == ["plain", "expert driver"]
    left = f"left out: other_version (best_runs/{MAP}_"
    assert left in text_of(page)
    assert "another version of the simulator" in text_of(page)


def test_a_run_that_is_still_written_is_reported(
    report: Report, project: Path, tmp_path: Path
) -> None:
    root = tmp_path / "writing"
    kept = saved_runs(project / "rl" / "plain" / "best_runs", MAP)[0]
    write_run(root, "plain", project / "straight.npy", load_run(kept))
    log = write_logs(root, "plain", [None, 12.0, 11.5])
    log.write_bytes(log.read_bytes()[:-7])
    half = root / "rl" / "plain" / "best_runs" / f"{MAP}_1"
    half.mkdir()
    (half / f"{MAP}_1.inputs").write_text("0.00-1.00 press up\n")
    (root / "rl" / "plain" / "machine.json").write_text('[{"cpu"')
    page = report(str(root / "rl" / "plain"), "--logdir", str(root / "tensorboard"))
    assert [run["name"] for run in data_of(page)["runs"]] == ["plain", "expert driver"]
    assert "its last record is cut" in text_of(page)


def test_a_run_by_its_path_and_one_without_logs(report: Report, project: Path) -> None:
    page = report(str(project / "rl" / ".." / "rl" / "other_version"), "--driver", "none")
    assert "no curves" in text_of(page)
    assert "lr_schedule" in text_of(page)
    assert 'id="viewer-data"' not in page
    assert "left out: other_version" in text_of(page)


def test_inputs_and_drivers_are_shown_without_any_run(
    report: Report, project: Path, tmp_path: Path
) -> None:
    kept = saved_runs(project / "rl" / "plain" / "best_runs", MAP)[0]
    alone = tmp_path / "inputs" / "mine.inputs"
    alone.parent.mkdir()
    shutil.copy(kept / f"{kept.name}.inputs", alone)
    run = load_run(kept)
    line = str(project / "straight.npy")
    page = report("--replay", str(alone), str(kept), "--driver", "novice", "--track", line)
    runs = data_of(page)["runs"]
    assert [each["name"] for each in runs] == ["mine", f"plain {kept.name}", "novice driver"]
    assert runs[1]["race_time_ms"] == run.race_time_ms
    assert runs[0]["race_time_ms"] != run.race_time_ms  # from the exact start
    assert "Bokeh" not in page.replace("Bokeh.embed", "")


def test_a_trained_run_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(tmp_path), max_grad_steps=40)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "page.html"
    command = ["report", "tiny", "-o", str(out), "--runs-dir", "rl", "--logdir", "tensorboard"]
    assert main([*command, "--driver", "none"]) == 0
    page = out.read_text(encoding="utf-8")
    kept = saved_runs(RunFolder(tmp_path / "rl" / "tiny").best_runs, "straight")
    shown = data_of(page)["runs"]
    assert [run["race_time_ms"] for run in shown] == [load_run(kept[0]).race_time_ms]
    assert shown[0]["sheet"]["width"] == 34
    assert "champion of tiny" in text_of(page)
    assert "Training/loss" in text_of(page)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name runs to report"),
        (["plian"], "did you mean plain?"),
        (["rl/nowhere"], "neither the name of a run nor an existing folder"),
        (["../x"], "neither the name of a run nor an existing folder"),
        (["./rl"], "holds no run"),
        (["plain", "rl/plain"], "given twice"),
        (["plain", "--map", "t"], "there are s"),
        (["plain", "--driver", "champion"], "expected one of amateur, expert, good, novice"),
        (["plain", "--replay", "nothing.inputs"], "no such run, file or folder"),
        (["--driver", "expert"], "name it with --track"),
        (["--driver", "expert", "--track", "A02"], "did you mean 'A01'?"),
        (["plain", "--driver", *["novice"] * 9], "the viewer shows 8 at most"),
        (["plain", "-o", "page.txt"], "an .html file"),
        (["plain", "-o", "straight.npy/page.html", "--driver", "none"], "could not be saved"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(project)
    before = sorted(project.rglob("*"))
    assert main(["report", "-o", "page.html", "--runs-dir", "rl", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert sum(line.startswith("rulka-pipeline: ") for line in error) == 1
    after = [path for path in sorted(project.rglob("*")) if "output" not in path.parts]
    assert after == [path for path in before if "output" not in path.parts]


def test_an_empty_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tensorboard" / "empty").mkdir(parents=True)
    assert main(["report", "tensorboard/empty", "-o", "page.html"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_without_the_extra_it_says_what_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(report_command, "find_spec", lambda name: None)
    assert main(_command(project / "page.html", "plain")) == 2
    error = capsys.readouterr().err
    assert "report needs bokeh and jinja2" in error
    assert "uv sync --extra report" in error
    assert not (project / "page.html").exists()


def test_another_road_is_left_out(report: Report, tmp_path: Path) -> None:
    line = straight_line(tmp_path, 80.0)
    run: DrivenRun = kept_run(line, "expert", 1)
    write_run(tmp_path, "longer", line, run)
    page = report("plain", str(tmp_path / "rl" / "longer"))
    assert "longer: was driven on another road" in text_of(page)
    assert [each["name"] for each in data_of(page)["runs"]] == ["plain", "expert driver"]
