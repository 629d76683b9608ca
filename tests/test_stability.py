"""When a recipe is called stable; the runs, their logs and the picture of that measurement."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import stability
from benchmarks.stability import judge
from datasets.contract.config import dump_config
from datasets.contract.csv_log import CsvLog, read_csv
from rl.config.experiment import load_rl_config
from rl.network.iqn import IQN
from rl.training.train import train
from tests.rl_samples import tiny_config, tiny_network
from tests.transfer_helpers import save

MINUTES = [60.0 * i for i in range(20)]


def test_three_in_a_row_then_ten_above_the_floor_is_stable() -> None:
    rates = [0.0, 0.97, 0.5, 0.95, 0.96, 1.0, *[0.81] * 10]
    verdict = judge(MINUTES, rates)
    assert verdict.decided
    assert verdict.stable
    assert verdict.reliable_s == 300.0
    assert verdict.lowest == 0.81


def test_one_evaluation_under_the_floor_decides() -> None:
    verdict = judge(MINUTES, [1.0, 1.0, 1.0, 0.9, 0.79])
    assert verdict.decided
    assert not verdict.stable


@pytest.mark.parametrize("rates", [[0.95, 0.95, 0.94] * 5, [1.0] * 12])
def test_too_few_reliable_evaluations_decide_nothing(rates: list[float]) -> None:
    verdict = judge(MINUTES, rates)
    assert not verdict.decided
    assert not verdict.stable


STEADY = {
    # With weights that stay 0, all values are equal, and the first action drives straight on.
    "lr_schedule": [[0, 0.0]],
    "averaging": {"decay": 0.0},
    "transfer": {"calibration": "off"},
    "evaluation": {"every_s": None, "every_frames": 20, "starts": 2, "final_starts": 1},
}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every evaluation finishes, ended after a few."""
    folder = tmp_path_factory.mktemp("steady")
    cfg = tiny_config(folder, run_name="scratch_7", **STEADY)
    return train(cfg, max_frames=200).folder.root


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run the benchmark's command line."""
    monkeypatch.setattr(sys, "argv", ["stability", *(str(value) for value in arguments)])
    stability.main()


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return report


def test_evaluations_of_trained_weights_are_read_from_the_log(steady: Path, tmp_path: Path) -> None:
    rows = read_csv(steady / "evaluations.csv")
    screened = [row for row in rows if row["kind"] == "screening"]
    assert 2 < len(screened) < len(rows)  # the champion's last measurement is no screening
    seconds, rates = stability._evaluations(steady)
    assert seconds == [float(row["training_s"]) for row in screened]
    assert rates == [1.0] * len(screened)
    _, means = stability._evaluations(steady, "mean_ms")
    assert means == [float(row["mean_ms"]) for row in screened]
    run = tmp_path / "bc_7"
    shutil.copytree(steady, run)
    log = CsvLog(run / "evaluations.csv")
    log.append({**screened[0], "weights": "pretrained", "finish_rate": 0.25})
    log.append({**screened[0], "training_s": 990.0, "finish_rate": 0.0, "mean_ms": ""})
    seconds, rates = stability._evaluations(run)
    assert (seconds[-1], rates[-1]) == (990.0, 0.0)
    assert 0.25 not in rates
    assert np.isnan(stability._evaluations(run, "mean_ms")[1][-1])
    summary = stability._summary(run)
    assert summary["evaluations"] == len(screened) + 1
    assert summary["last_finish_rate"] == 0.0
    assert summary["minutes"] == 16.5
    assert summary["best_mean_ms"] == round(min(means))
    assert stability._evaluations(tmp_path / "none") == ([], [])


def test_curves_are_in_minutes_and_drawn(steady: Path, tmp_path: Path) -> None:
    seconds, means = stability._evaluations(steady, "mean_ms")
    curve = stability._curve(steady, "mean_ms", 0.001)
    assert curve.run == "scratch_7"
    assert curve.x == pytest.approx(np.array(seconds) / 60)
    assert curve.y == pytest.approx(np.array(means) / 1000)
    picture = tmp_path / "curves.png"
    stability.draw(picture, [steady])
    one = np.asarray(Image.open(picture))
    other = tmp_path / "scratch_8"
    shutil.copytree(steady, other)
    row = read_csv(other / "evaluations.csv")[0]
    later = {**row, "training_s": 990.0, "weights": "raw", "finish_rate": 0.5}
    CsvLog(other / "evaluations.csv").append(later)
    stability.draw(picture, [steady, other])
    two = np.asarray(Image.open(picture))
    assert one.shape == two.shape == (605, 990, 4)
    assert not np.array_equal(one, two)


def test_a_seed_that_has_had_its_time_is_not_trained_again(
    steady: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = ("--arm", "scratch", "--runs", steady.parent, "--seeds", 7)
    before = sorted(path.stat().st_mtime_ns for path in steady.rglob("*"))
    call(monkeypatch, *seed, "--minutes", 1e-6)
    report = report_of(capsys)
    assert report["arm"] == "scratch"
    assert report["seeds"] == {"scratch_7": stability._summary(steady)}
    assert sorted(path.stat().st_mtime_ns for path in steady.rglob("*")) == before
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, *seed, "--minutes", 45)
    assert stopped.value.code == 2
    assert "scratch_7 was interrupted: remove it" in capsys.readouterr().err


def test_seeds_are_trained_for_equal_observations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluations are spaced by observations, and a verdict does not end the run."""
    config = tmp_path / "tiny.yaml"
    dump_config(tiny_config(tmp_path, **STEADY), config)
    monkeypatch.setattr(stability, "POLL_S", 0.1)
    monkeypatch.setattr(stability, "EVERY_FRAMES", 150)
    monkeypatch.setattr(stability, "STARTS", 2)
    options = ("--arm", "scratch", "--config", config, "--seeds", 3, "--runs", tmp_path / "runs")
    picture = tmp_path / "frames.png"
    call(monkeypatch, *options, "--frames", 600, "--out", picture)
    assert 3 <= report_of(capsys)["seeds"]["scratch_3"]["evaluations"] <= 6
    run = tmp_path / "runs" / "scratch_3"
    frames = stability._column(run, "frames")
    assert frames == sorted(frames)
    assert frames[-1] >= 600 - 2 * 150
    curve = stability._curve(run, "mean_ms", 0.001, "frames")
    assert np.array_equal(curve.x, np.array(frames) / 1000)
    assert picture.stat().st_size > 1000
    call(monkeypatch, *options, "--frames", 600)  # it has had its observations
    assert stability._column(run, "frames") == frames
    with pytest.raises(SystemExit):
        call(monkeypatch, *options, "--frames", 2000)
    assert "scratch_3 was interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("bc",), ("scratch", "--pretrain", "x")])
def test_an_arm_and_its_start_must_fit(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, "--arm", *arguments)
    assert stopped.value.code == 2
    assert "--arm bc needs --pretrain, --arm scratch excludes it" in capsys.readouterr().err


def test_a_seed_is_trained_from_the_cloned_policy_until_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "clone", IQN(tiny_network()), "iqn_bc.pt")
    config = tmp_path / "tiny.yaml"
    dump_config(tiny_config(tmp_path, **STEADY), config)
    monkeypatch.setattr(stability, "POLL_S", 0.1)
    runs, picture = tmp_path / "runs", tmp_path / "bc.png"
    options = ("--arm", "bc", "--pretrain", tmp_path / "clone", "--config", config)
    call(monkeypatch, *options, "--seeds", 5, "--runs", runs, "--out", picture, "--minutes", 5)
    found = report_of(capsys)["seeds"]["bc_5"]
    assert found["stable"]
    assert found["watched"] == 10
    assert found["lowest"] == 1.0
    # The verdict ended it, not the clock.
    assert "stopping: stopped by SIGTERM" in (runs / "bc_5" / "train.log").read_text()
    cfg = load_rl_config(runs / "bc_5" / "config_snapshot.yaml")
    assert cfg.seed == 5
    assert cfg.tensorboard_dir == str(runs / "tensorboard")
    assert (runs / "bc_5" / "injection_report.json").exists()
    rows = read_csv(runs / "bc_5" / "evaluations.csv")
    assert rows[0]["weights"] == "pretrained"
    assert picture.stat().st_size > 1000
