"""Runs, checkpoints and artifacts that an earlier version wrote still load and continue."""

import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from datasets.contract.csv_log import read_csv
from pretrain.bc.train import run as run_bc
from rl.config.experiment import load_rl_config
from rl.run.checkpoint import load_checkpoint
from rl.training.train import train
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import ENCODER_FILE, IQN_FILE
from tests.pretrain_samples import bc_config, recorded

DATA = Path(__file__).parent / "data" / "before_rooms"
RUN = Path("rl/tiny")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the earlier run; paths in its configuration are relative to it."""
    with tarfile.open(DATA / "rl.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_an_earlier_version_is_resumed(workplace: Path) -> None:
    cfg = load_rl_config(RUN / "config_snapshot.yaml")
    _, before, segments = load_checkpoint(RUN / "checkpoints")
    assert segments
    result = train(cfg, resume=RUN, max_grad_steps=8)
    assert result.grad_steps == 8 == before["learner"]["counters"]["grad_steps"] + 2
    _, after, _ = load_checkpoint(RUN / "checkpoints")
    assert set(after) == set(before)
    assert set(after["state"]) >= set(before["state"])
    steps = {int(state["step"]) for state in after["learner"]["optimizer"].values()}
    assert steps == {8}  # the moments went on
    assert after["state"]["memory"]["total"] >= before["state"]["memory"]["total"]
    assert (workplace / RUN / "evaluations.csv").read_text().count("\n") > 3


def test_a_run_starts_from_the_best_of_an_earlier_version(workplace: Path) -> None:
    best = load_artifact(RUN / "best" / IQN_FILE).tensors
    overrides = ["run_name=new", f"init_from={RUN}@best"]
    cfg = load_rl_config(RUN / "config_snapshot.yaml", overrides)
    result = train(cfg, max_grad_steps=0)
    _, parts, _ = load_checkpoint(workplace / result.folder.checkpoints)
    online = parts["learner"]["online"]
    assert all(torch.equal(online[name], tensor) for name, tensor in best.items())


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """The folder of earlier runs of vis and bc."""
    with tarfile.open(DATA / "pretrain.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_artifacts_of_an_earlier_version_load(pretrained: Path) -> None:
    encoder = load_artifact(pretrained / "vis" / "eyes" / ENCODER_FILE)
    policy = load_artifact(pretrained / "bc" / "clone" / IQN_FILE)
    assert encoder.meta is not None
    assert policy.meta is not None
    assert (encoder.meta.stage, policy.meta.stage) == ("vis", "bc")


def test_a_run_of_bc_of_an_earlier_version_continues(
    pretrained: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(recorded(tmp_path_factory), pretrained / "recorded.h5")
    monkeypatch.chdir(pretrained)
    folder = run_bc(bc_config(Path("recorded.h5"), Path("bc"), epochs=2))
    assert [row["epoch"] for row in read_csv(folder / "metrics.csv")] == ["0", "1"]
