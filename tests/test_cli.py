"""The command line: its options, and one line with exit code 2 for a user's mistakes."""

import json
from pathlib import Path

import pytest
import torch

from datasets.contract.config import dump_config, load_config
from datasets.contract.errors import UserError
from pipeline.cli import main
from pipeline.demo import keep_earlier
from rl.config import RLConfig
from rl.network.config import NetworkConfig
from rl.network.iqn import IQN
from tests.rl_samples import straight_line, tiny_config, tiny_network

Capture = pytest.CaptureFixture[str]


def refused(capture: Capture, *arguments: str | Path) -> str:
    """The one line that a command ends with when the user made a mistake."""
    capture.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = capture.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("rulka-pipeline: ")
    return lines[0]


def saved_alone(folder: Path, network: NetworkConfig) -> Path:
    """A whole policy that accelerates, written without metadata."""
    policy = IQN(network)
    with torch.no_grad():
        policy.A_head.last.bias[0] = 1.0
    folder.mkdir()
    torch.save(policy.state_dict(), folder / "iqn_bc.pt")
    return folder


def test_eval_of_a_policy_without_metadata(tmp_path: Path, capsys: Capture) -> None:
    folder = saved_alone(
        tmp_path / "old", NetworkConfig.model_validate({"decoder": {"zero_init_last": True}})
    )
    command = ("eval", folder, "--track", straight_line(tmp_path), "--episodes", "2", "--json")
    assert "--legacy-input" in refused(capsys, *command)
    assert main([*map(str, command), "--legacy-input", "iqn"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"]["finish_rate"] == 1.0


@pytest.mark.parametrize("scale", ["01", "iqn"])
def test_rl_from_a_policy_without_metadata(tmp_path: Path, capsys: Capture, scale: str) -> None:
    folder = saved_alone(tmp_path / "old", tiny_network())
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    command = ("rl", "--config", tmp_path / "rl.yaml", "--pretrain", folder)
    assert "--legacy-input" in refused(capsys, *command)
    options = ("--legacy-input", scale, "--max-grad-steps", "1")
    quick = ("--set", "transfer.calibration=off")
    assert main([*map(str, command), *options, *quick]) == 0
    report = json.loads((tmp_path / "rl" / "tiny" / "injection_report.json").read_text())
    assert report["legacy_input"] == scale


def test_resume_continues_with_the_runs_own_configuration(tmp_path: Path) -> None:
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    run = tmp_path / "rl" / "tiny"
    assert main(["rl", "--config", str(tmp_path / "rl.yaml"), "--max-grad-steps", "2"]) == 0
    (tmp_path / "rl.yaml").unlink()
    resumed = ["rl", "--resume", str(run), "--set", "batch_size=9", "--max-grad-steps", "3"]
    assert main(resumed) == 0
    snapshot = load_config(RLConfig, run / "config_snapshot.yaml")
    assert snapshot == tiny_config(tmp_path, batch_size=9)
    stats = json.loads((run / "accumulated_stats.json").read_text())
    assert stats["cumul_number_batches_done"] == 3


def test_the_demo_moves_only_demos_out_of_its_way(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    keep_earlier(mine)  # empty: it is used as it is
    assert list(tmp_path.iterdir()) == [mine]
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no earlier demo"):
        keep_earlier(mine)
    assert (mine / "thesis.txt").read_text() == "mine"
    (mine / "summary.json").write_text("{}")
    keep_earlier(mine)
    assert not mine.exists()
    (kept,) = tmp_path.glob("mine_*")
    assert (kept / "thesis.txt").read_text() == "mine"
