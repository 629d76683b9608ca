"""The calibration as a step of a run: it shows how far it is, stops in time, and is made up for."""

import io
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from rl.reporting.progress import ProgressBar
from rl.run.build import build_run
from rl.run.checkpoint import load_checkpoint
from rl.run.folder import RunFolder
from rl.training.calibrate import calibrate
from rl.training.setup import load_pretrained
from rl.training.train import train
from tests.rl_samples import tiny_config
from tests.transfer_helpers import TRANSFER, pretrained


def test_time_that_is_up_puts_the_calibration_off(tmp_path: Path) -> None:
    path, network = pretrained(tmp_path)
    cfg = tiny_config(tmp_path, transfer=TRANSFER)
    result = train(cfg, pretrain=path, max_minutes=0.0001)
    folder = result.folder
    assert (result.stopped, result.frames, result.final) == ("time is up", 0, ())
    assert "not calibrated yet, a resumed run does it first" in folder.log.read_text()
    assert not folder.calibration_report.exists()
    _, parts, _ = load_checkpoint(folder.checkpoints)
    online = parts["learner"]["online"]
    assert all(torch.equal(online[name], t) for name, t in network.state_dict().items())
    resumed = train(cfg, resume=folder.root, max_grad_steps=1)
    assert resumed.grad_steps == 1
    assert folder.calibration_report.exists()
    first = read_csv(folder.evaluations)[0]
    assert (first["weights"], first["finish_rate"]) == ("pretrained", "1")
    assert int(first["frames"]) > 100  # its runs are learnt from


@pytest.mark.parametrize("after", [3, 70])
def test_a_fit_that_is_called_off_leaves_the_policy_as_it_was(tmp_path: Path, after: int) -> None:
    path, network = pretrained(tmp_path)
    run, folder = build_run(tiny_config(tmp_path, transfer=TRANSFER)), RunFolder(tmp_path / "run")
    asked = 0

    def called_off() -> str | None:
        nonlocal asked
        asked += 1
        return "enough" if asked > after else None  # while it drives, while it fits

    assert load_pretrained(run, folder, {}, path, called_off).policy is None
    assert run.calibration_due
    for copy in (run.learner.online, run.learner.target):
        state = copy.state_dict()
        assert all(torch.equal(state[name], t) for name, t in network.state_dict().items())
    assert calibrate(run, folder.calibration_report, lambda: None)
    assert folder.calibration_report.exists()


def test_a_refused_start_leaves_no_folder(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        train(cfg, pretrain=tmp_path / "nowhere")
    assert not (tmp_path / "rl" / "tiny").exists()
    mine = tmp_path / "rl" / "tiny" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt but no run"):
        train(cfg, pretrain=tmp_path / "nowhere")
    assert mine.read_text() == "mine"


def test_collectors_that_cannot_be_had_leave_no_folder(tmp_path: Path) -> None:
    """Ray is not installed, or nothing answers at this port."""
    nowhere = {"collector_backend": "ray", "ray_address": "127.0.0.1:1", "device": "cpu"}
    with pytest.raises(UserError, match=r"performance\.(collector_backend|ray_address)"):
        train(tiny_config(tmp_path, performance=nowhere), max_grad_steps=1)
    assert not (tmp_path / "rl" / "tiny").exists()


def test_bar_appears_for_long_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        console = Console(file=io.StringIO(), force_terminal=True, width=90)
        with ProgressBar("fitting values", console) as bar:
            for share in (0.25, 0.5):
                bar.update(share)
                time.sleep(0.02)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    assert shown() == ""
    monkeypatch.setattr("rl.reporting.progress.BAR_AFTER_S", 0.0)
    text = shown()
    assert "fitting values" in text
    assert "50%" in text


def test_log_tells_how_far_it_is_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rl.reporting.progress.LOG_EVERY_S", 0.0)
    with (
        caplog.at_level("INFO", logger="rl"),
        ProgressBar("driving", Console(file=io.StringIO())) as bar,
    ):
        bar.update(0.4)
    assert "driving: 40%" in caplog.text
