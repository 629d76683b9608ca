"""The command lines of the five experiment reports, as written there, on synthetic logs."""

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.analysis import drawing
from pipeline.analysis.curves import Picture, RunCurve, pictures_of
from pipeline.analysis.drawing import draw_pictures
from pipeline.analysis.groups import load_groups
from pipeline.analysis.run_log import read_runs
from pipeline.analysis.styles import settled_range
from pipeline.cli import main
from tests.event_samples import Entry, race, write_events

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]
BY_TIME = "python scripts/analyze_experiment_by_relative_time.py"
LONG = "A01_as20_long"
AH = "A01_as20_long_vis_bc_ah_pretrained"
PLOTS = "--plot --output-dir docs/source/_static"
COMMANDS = [
    "python scripts/analyze_experiment.py uni_5 uni_6 uni_7 uni_8 uni_9",
    'python scripts/analyze_experiment.py uni_5 uni_6 uni_7 uni_8 uni_9 --logdir "{logdir}"',
    "python scripts/extract_tensorboard_data.py",
    f"{BY_TIME} uni_20 uni_20_long --interval 5",
    f"{BY_TIME} uni_20 uni_20_long --interval 5 --step_interval 50000",
    f"{BY_TIME} {LONG} uni_20 uni_20_long --interval 5 --step_interval 50000",
    f'{BY_TIME} {LONG} uni_20 uni_20_long --interval 5 --step_interval 50000 --logdir "{{logdir}}"',
    f"{BY_TIME} uni_20 uni_20_long --interval 5 {PLOTS} "
    "--prefix exp_extended_training_uni20_uni20long",
    f"{BY_TIME} {LONG} uni_20 uni_20_long --interval 5 {PLOTS} "
    "--prefix exp_extended_training_A01_uni20_uni20long",
    "python scripts/generate_experiment_plots.py --experiments extended_training",
    f"{BY_TIME} A01_as20_big_long {LONG} --interval 5 --step_interval 50000",
    f"{BY_TIME} A01_as20_big_long {LONG} uni_20 uni_20_long --interval 5 --step_interval 50000",
    f"{BY_TIME} A01_as20_big_long {LONG} uni_20 uni_20_long {PLOTS} "
    "--prefix exp_network_size_big_long",
    "python scripts/generate_experiment_plots.py --experiments network_size_big_long",
    f"{BY_TIME} {LONG}_v2 {LONG}_v4_btr {LONG}_v4.1_btr {LONG}_v4.2_btr --interval 10 "
    f"--step_interval 10000000 --time-axis cumul_training_hours {PLOTS} --prefix exp_btr_A01_v2_v4",
    f"{BY_TIME} {AH} {AH}_enc_freeze --interval 5 --step_interval 50000",
    f"{BY_TIME} {AH} {AH}_enc_freeze {AH}_enc_ah_freeze --interval 5 --step_interval 50000",
    f"{BY_TIME} {AH}_enc_ah_freeze {AH}_enc_ah_freeze_resume --interval 5 --step_interval 50000",
    f"{BY_TIME} {LONG} {LONG}_vis_pretrained {LONG}_vis_bc_pretrained {AH} {LONG}_full_iqn_bc "
    "--interval 5 --step_interval 50000",
    f"{BY_TIME} {LONG}_full_iqn_bc_2 --logdir tensorboard --interval 10 --step_interval 2000000",
    f"{BY_TIME} {LONG}_full_iqn_bc_3 --logdir tensorboard --interval 10 --step_interval 5000000",
    f"{BY_TIME} {LONG}_full_iqn_bc_3_best_ref --logdir tensorboard --interval 10 "
    "--step_interval 2000000",
    f"{BY_TIME} {LONG}_full_iqn_bc_3_4explo --logdir tensorboard --interval 10 "
    "--step_interval 2000000",
    f"{BY_TIME} {LONG} {LONG}_vis_pretrained {LONG}_vis_bc_pretrained --interval 5 "
    "--step_interval 50000",
    f"{BY_TIME} {LONG} {LONG}_vis_pretrained {LONG}_vis_bc_pretrained {AH} --interval 5 "
    "--step_interval 50000",
    "python scripts/generate_experiment_plots.py --experiments pretrain_bc pretrain_bc_full_iqn "
    "pretrain_bc_enc_freeze pretrain_bc_enc_ah_freeze pretrain_bc_enc_ah_freeze_resume",
    f"{BY_TIME} {LONG} {LONG}_vis_pretrained {LONG}_vis_bc_pretrained --time-axis wall_minutes "
    "--interval 5",
]
"""With `{logdir}` for the reports' own folder."""
TWO_MAPS = ("uni_20", "uni_20_long")


def write_run(logdir: Path, name: str, seed: int, *, with_training: bool = True) -> None:
    """An hour in two folders: nothing finishes in the first quarter, then all that is greedy."""
    maps = ("A01", "hock") if name in TWO_MAPS else ("A01",)
    for part, (first, last) in enumerate(((1, 20), (21, 40))):
        entries: list[Entry] = []
        for i in range(first, last + 1):
            at, step = 90.0 * i, 300_000 * i
            best = 24.0 + seed / 10 + 2.0 / i
            for track in maps:
                time_s = best if i > 10 else None
                entries += race(at, step, time_s, track=track)
                entries += race(at, step, time_s, kind="explo", track=track)
                if time_s is not None:
                    robust = f"Race/eval_race_time_robust_trained_{track}"
                    entries.append(Entry(at, step, robust, time_s))
                least = 1000 * (time_s or 300.0)
                entries.append(Entry(at, step, f"alltime_min_ms_{track}", least))
                entries.append(Entry(at, step, f"RL/avg_Q_trained_{track}", -1.0 / i))
            entries.append(Entry(at, step, "Training/loss", 50.0 + 10_000.0 / i))
            entries.append(Entry(at, step, "Performance/learner_percentage_training", 0.6))
            entries.append(Entry(at, step, "Gradients/norm_before_clip_max", 20.0 + i))
            if with_training:
                entries.append(Entry(at, step, "cumul_training_hours", at / 3600))
        write_events(logdir / (name if part == 0 else f"{name}_2"), entries, pid=seed)


def runs_named() -> list[str]:
    words = {word for command in COMMANDS for word in command.split()}
    return sorted(word for word in words if word.startswith(("uni_", "A01_")))


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw with few pixels, which takes a third of the time."""
    monkeypatch.setattr(drawing, "DPI", 40)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, the groups and logs of every run that the reports name."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("scripts", "config_files"):
        (folder / name).symlink_to(ROOT / name)
    for seed, name in enumerate(runs_named()):
        # `..._full_iqn_bc` and `..._full_iqn_bc_2` are two runs: its logs may not go on there.
        write_run(folder / "output" / "tensorboard", name, seed + 1)
    return folder


def run(command: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command line in the project's folder, in this process."""
    words = shlex.split(command.format(logdir=project / "output" / "tensorboard"))
    assert words[0] == "python"
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", words[1:])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(words[1], run_name="__main__")
    return int(str(ended.value.code))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_reports_runs_as_written(
    command: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run(command, project, monkeypatch) == 0
    out = capsys.readouterr().out
    names = [word for word in command.split() if word.startswith(("uni_", "A01_"))]
    for name in names:
        assert f"\n{name}: {name}, {name}_2 (" in f"\n{out}" or f"{name}: {name} (" in out
    if "by_relative_time" in command:
        assert "BY RELATIVE TIME" in out
        assert "BY STEP" in out
    pictures = [Path(line.removeprefix("picture: ")) for line in out.splitlines() if ".jpg" in line]
    assert bool(pictures) == ("--plot" in command or "plots" in command)
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size[0] > 300


def test_pictures_are_named_as_in_the_reports(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    btr = next(command for command in COMMANDS if "exp_btr" in command)
    two = next(command for command in COMMANDS if "exp_extended_training_uni20" in command)
    for command in (btr, two):
        assert run(command, project, monkeypatch) == 0
    found = {path.name for path in (project / "docs/source/_static").iterdir()}
    robust = "Race_eval_race_time_robust_trained_A01"
    names = ("a01_best_time_ms", f"{robust}_best", f"{robust}_mean", "A01_best", "A01_rate")
    for name in (*names, "loss", "avg_q", "training_pct", "explo_A01_best", "explo_A01_rate"):
        assert f"exp_btr_A01_v2_v4_{name}.jpg" in found
    assert "exp_extended_training_uni20_uni20long_explo_hock_best.jpg" in found


def test_the_default_folder_of_logs_is_also_found_under_output(tmp_path: Path) -> None:
    write_run(tmp_path / "output" / "tensorboard", "uni_7", 1)
    script = ROOT / "scripts" / "analyze_experiment.py"
    done = subprocess.run(
        [sys.executable, str(script), "uni_7"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "uni_7: uni_7, uni_7_2 (2 event files); 58.5 min of wall time" in done.stdout


def test_two_runs_with_colliding_names_are_told_apart(project: Path) -> None:
    one, two = (f"{LONG}_full_iqn_bc", f"{LONG}_full_iqn_bc_2")
    first, second = read_runs([one, two], project / "output" / "tensorboard", cache=None)
    tag = "Race/eval_race_time_trained_A01"
    assert [len(found.series(tag)) for found in (first, second)] == [40, 40]
    assert first.series(tag).values.min() != second.series(tag).values.min()


def test_every_group_is_of_runs_with_a_configuration() -> None:
    groups = load_groups(ROOT / "config_files/experiments/groups.yaml").groups
    for group in groups.values():
        for name in group.runs:
            assert (ROOT / "config_files" / "rl" / f"{name}.yaml").exists()
    assert len({group.prefix for group in groups.values()}) == len(groups)


def refused(capture: Capture, *arguments: str) -> str:
    capture.readouterr()
    assert main(list(arguments)) == 2
    captured = capture.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    assert captured.out == ""
    return lines[0]


def test_bad_input_is_one_line_and_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    pictures = tmp_path / "pictures"
    plot = ("--plot", "--output-dir", str(pictures))
    assert "did you mean uni_20" in refused(capsys, "compare", "uni_21", *plot)
    assert "did you mean pretrain_bc" in refused(capsys, "compare", "--experiments", "pretrain_cb")
    assert "neither the name" in refused(capsys, "compare", "../x", *plot)
    assert "no logs of such a run" in refused(capsys, "compare", "<script>", *plot)
    assert "--prefix" in refused(capsys, "compare", "uni_20", *plot, "--prefix", "../x")
    assert "--interval" in refused(capsys, "compare", "uni_20", *plot, "--interval", "0")
    assert "name the runs" in refused(capsys, "compare")
    assert "need names of their own" in refused(
        capsys, "compare", "--experiments", "btr", "pretrain_bc", "--prefix", "p"
    )
    assert "did you mean Training/loss" in refused(
        capsys, "scalars", "uni_20", "--tags", "Training/los"
    )
    assert "no such folder of logs" in refused(capsys, "compare", "uni_20", "--logdir", "nowhere")
    assert not pictures.exists()


def test_scalars_are_written_as_csv(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    out = tmp_path / "loss.csv"
    tags = ("--tags", "Training/loss", "Gradients/norm_before_clip_max")
    assert main(["scalars", "uni_7", *tags, "--out", str(out)]) == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 40
    assert lines[0] == "run,tag,step,wall_minutes,training_minutes,value"
    run, tag, *numbers = lines[1].split(",")
    assert (run, tag) == ("uni_7", "Training/loss")
    assert [float(n) for n in numbers] == pytest.approx([300_000, 0.0, 1.5, 10_050.0])
    assert "loss.csv exists" in refused(capsys, "scalars", "uni_7", "--out", str(out))
    assert out.read_text(encoding="utf-8").splitlines() == lines
    assert main(["scalars", "uni_7", *tags[:2], "--out", str(out), "--overwrite"]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1 + 40
    assert main(["scalars", "uni_7", *tags]) == 0
    assert "Gradients/norm_before_clip_max       40" in capsys.readouterr().out


def test_groups_with_missing_runs_are_drawn_of_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "config_files").symlink_to(ROOT / "config_files")
    write_run(tmp_path / "tensorboard", "uni_20", 1)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--experiments", "extended_training", "btr"]) == 0
    captured = capsys.readouterr()
    assert "uni_20: uni_20, uni_20_2" in captured.out
    assert "no logs of A01_as20_long, uni_20_long" in " ".join(captured.err.split())
    assert "there are logs of none" in refused(capsys, "compare", "--experiments", "btr")


def test_exploring_and_greedy_runs_and_alike_maps_never_share_a_name(tmp_path: Path) -> None:
    entries = [
        entry
        for i in range(3)
        for track in ("A01", "a01", "a<1", "a>1")
        for kind in ("eval", "explo")
        for entry in race(60.0 * i, i, 25.0 - i, kind=kind, track=track)
    ]
    write_events(tmp_path / "run", entries)
    pictures = pictures_of(read_runs(["run"], tmp_path, cache=None))
    names = [picture.name.lower() for picture in pictures]
    assert len(names) == len(set(names)) == 4 * 2 * 3
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)


def test_best_curves_leave_out_what_did_not_finish(project: Path) -> None:
    found = pictures_of(read_runs(["uni_7"], project / "output" / "tensorboard", cache=None))
    by_name = {picture.name: picture for picture in found}
    for name in ("A01_best", "A01_mean", "a01_best_time_ms"):
        (curve,) = by_name[name].curves
        assert curve.y.max() < 30.0
        assert len(curve.y) == 30
    assert by_name["A01_best"].x_label == "training time, h"
    assert by_name["A01_best"].curves[0].x[-1] == pytest.approx(1.0)
    interval, whole = by_name["A01_rate"].curves
    assert (interval.y[-1], whole.y[-1]) == (100.0, 75.0)


def test_a_first_value_of_fifteen_thousand_does_not_flatten_the_rest(tmp_path: Path) -> None:
    x = np.linspace(0.0, 10.0, 101)
    y = np.where(x < 0.5, 15_000.0, 60.0 + x)
    low, high = settled_range([(x[:0], y[:0]), (x, y)]) or (0.0, 0.0)
    assert 55.0 < low < 61.0
    assert 70.0 < high < 75.0
    nan = Picture("n", "t", "x", "y", (RunCurve("_hidden $x$", x, np.full(101, np.nan)),))
    (path,) = draw_pictures([nan], tmp_path / "new", "p")
    assert path == tmp_path / "new" / "p_n.jpg"
    assert path.stat().st_size > 2000
