"""The three stages in a row through the command line, with a network of a few hundred weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from rl.transfer.artifacts import load_artifact
from tests.rl_samples import straight_line, tiny_config

SIDE = 36
NETWORK: dict[str, Any] = {
    "vis": {"cnn": {"channels": [2, 3, 4, 5]}},
    "floats": {"hidden_dimension": 9},
    "iqn": {"embedding_dimension": 7, "n": 4, "k": 5},
    "decoder": {"dense_hidden_dimension": 12},
}


def command(*arguments: str | Path) -> None:
    """A command that has to succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def pretraining(folder: Path, run_name: str) -> dict[str, Any]:
    return {
        "run_name": run_name,
        "output_dir": str(folder / "pretrain"),
        "dataset": str(folder / "data.h5"),
        "image_size": SIDE,
        "nn": NETWORK,
        "batch_size": 128,
        "micro_batch_size": 64,
        "epochs": 2,
        "val_fraction": 0.3,
        "lr": 0.01,
        "warmup_steps": 1,
        "accelerator": "cpu",
        "num_threads": 1,
        "precision": "32-true",
    }


def test_what_is_driven_is_seen_imitated_and_reinforced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = straight_line(tmp_path, 80.0)
    drive = ("data", "drive", "--tracks", line, "--replays", "4", "--image-size", str(SIDE))
    command(*drive, "--driver", "expert", "--out", tmp_path / "data.h5")
    command("data", "validate", tmp_path / "data.h5")

    eyes, clone = tmp_path / "pretrain" / "eyes", tmp_path / "pretrain" / "clone"
    command("vis", "--config", config(tmp_path / "vis.yaml", pretraining(tmp_path, "eyes")))
    assert load_artifact(eyes / "encoder.pt").meta is not None

    cloning = {
        **pretraining(tmp_path, "clone"),
        "epochs": 6,
        "encoder_init_path": str(eyes / "encoder.pt"),
        "bc_time_offsets_ms": [0, 10, 100],
        "bc_offset_weights": [3.0, 1.0, 0.5],
    }
    command("bc", "--config", config(tmp_path / "bc.yaml", cloning))
    for name in ("encoder.pt", "actions_head.pt", "float_head.pt", "iqn_bc.pt"):
        assert load_artifact(clone / name).meta is not None

    learning = tiny_config(
        tmp_path,
        nn={**NETWORK, "image_size": SIDE},
        transfer={"calibration_rollouts": 4, "calibration_grad_steps": 20},
    )
    reinforcing = config(tmp_path / "rl.yaml", learning.model_dump(mode="json"))
    command("rl", "--config", reinforcing, "--pretrain", clone, "--max-grad-steps", "4")
    run = tmp_path / "rl" / "tiny"
    report = json.loads((run / "injection_report.json").read_text())
    assert report["label"] == "whole policy"
    assert report["greedy_agreement_after"] == 1.0
    assert {part["module"] for part in report["parts"] if part["source"]} == {
        "img_head",
        "float_feature_extractor",
        "iqn_fc",
        "A_head",
        "V_head",
    }
    assert (run / "calibration_report.json").is_file()

    for policy in (clone, run / "best", run):
        capsys.readouterr()
        command("eval", policy, "--track", line, "--episodes", "3", "--json")
        result = json.loads(capsys.readouterr().out)
        assert result["policy"]["starts"] == 3
        assert 0.0 <= result["policy"]["finish_rate"] <= 1.0
        assert result["drivers"]["expert"]["finish_rate"] == 1.0
