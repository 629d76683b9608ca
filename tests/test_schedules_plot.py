"""`rl --show-schedules`: set points in frames driven, the table and the picture."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands.show_schedules import draw, frames_text, panels_of, show_schedules
from rl.config.experiment import RLConfig, load_rl_config

PNG = b"\x89PNG"


def config(*overrides: str) -> RLConfig:
    return load_rl_config(None, ["run_name=shown", *overrides])


@pytest.mark.parametrize("origin", [0, 700])
def test_set_points_are_where_a_run_meets_them(origin: int) -> None:
    cfg = config("global_schedule_speed=3", f"schedule_origin={origin}")
    curves = [curve for panel in panels_of(cfg) for curve in panel.curves]
    assert {curve.label for curve in curves} >= {"learning rate", "gamma", "epsilon", "kept"}
    for curve in curves:
        for frames, value in curve.points:
            assert curve.value(cfg.schedules_at(int(frames))) == pytest.approx(value), curve.label
    points = {curve.key: [frames for frames, _ in curve.points] for curve in curves}
    assert points["lr_schedule"][1] == origin + 3 * 3_000_000
    assert points["gamma_schedule"][1] == origin + 1_500_000


def test_rewards_that_are_always_zero_have_no_curve() -> None:
    cfg = config("engineered_kamikaze_reward_schedule=[[0, 0.0], [5, 0.25]]")
    labels = [curve.label for panel in panels_of(cfg) for curve in panel.curves]
    assert "kamikaze" in labels
    assert "close to line, per m" not in labels


def test_table_counts_frames_driven_and_the_picture_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    path = show_schedules(config("global_schedule_speed=8", "lr_schedule=[[0, 0.5], [100, 0.25]]"))
    assert path == Path("output/schedules/shown.png")
    assert path.read_bytes().startswith(PNG)
    text = capsys.readouterr().out
    assert "0: 0.5 → 800: 0.25" in text
    assert "always 0: close_to_vcp, kamikaze" in text


def test_schedules_that_never_change_can_be_drawn_alone(tmp_path: Path) -> None:
    constant = [f"{key}=[[0, 0.5]]" for key in ("lr_schedule", "gamma_schedule")]
    constant += [f"{key}=[[0, 0.0]]" for key in ("epsilon_schedule", "epsilon_boltzmann_schedule")]
    off = [f"engineered_{name}_reward_schedule=[[0, 0.0]]" for name in ("speedslide", "neoslide")]
    rest = ["memory_size_schedule=[[0, [9, 5]]]", "tensorboard_suffix_schedule=[[0, x]]"]
    draw(config(*constant, *off, *rest), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_command_answers_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.cli import main;"
        f"code = main(['rl', '--show-schedules', '--out', {str(tmp_path / 'a.png')!r}]);"
        "print(code, 'torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize("arguments", [["--show-schedules"], []])
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "a.png"
    config_path = Path(__file__).parent.parent / "config_files" / "rl" / "config_default.yaml"
    assert main(["rl", *arguments, "--config", str(config_path), "--out", str(out)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_counts_are_written_short() -> None:
    written = [frames_text(count) for count in (0, 950, 50_000, 1_250_000, 2e9)]
    assert written == ["0", "950", "50k", "1.25M", "2G"]
