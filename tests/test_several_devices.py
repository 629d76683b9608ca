"""Stages 1 and 2 in several processes: shares of the data, options, and whole runs on two CPUs."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from pydantic import ValidationError

from datasets.batches import BatchSettings, FrameBatches
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.modules import FramesModule
from datasets.reader import ReplayFile
from pretrain.callbacks import Budget
from pretrain.config import StageConfig
from pretrain.ranks import SameOnAllRanks, process_rank
from pretrain.run_folder import OpenedRun, StageFolder, open_run
from pretrain.training import _build_trainer
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import ENCODER_FILE
from tests.pretrain_samples import bc_config, vis_config

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")


def test_batch_size_is_that_of_all_processes_together(tmp_path: Path) -> None:
    config = vis_config(tmp_path, tmp_path, batch_size=240, micro_batch_size=20, devices=2)
    assert (config.world_size, config.frames_per_pass, config.passes_per_step) == (2, 20, 6)
    config = vis_config(tmp_path, tmp_path, batch_size=240, devices=2, num_nodes=3)
    assert (config.world_size, config.frames_per_pass, config.passes_per_step) == (6, 40, 1)
    with pytest.raises(ValidationError, match="not a multiple of micro_batch_size 20 times 5 proc"):
        vis_config(tmp_path, tmp_path, batch_size=240, micro_batch_size=20, devices=5)
    with pytest.raises(ValidationError, match="not a multiple of micro_batch_size 16 times 2 proc"):
        vis_config(tmp_path, tmp_path, batch_size=240, micro_batch_size=16, devices=2)
    for options in ({}, {"micro_batch_size": 20}):
        with pytest.raises(
            ValidationError, match="batch_size 240 is not a multiple of 7 processes"
        ):
            vis_config(tmp_path, tmp_path, batch_size=240, devices=7, **options)
    with pytest.raises(ValidationError, match="not a multiple of micro_batch_size 7 "):
        vis_config(tmp_path, tmp_path, batch_size=240, micro_batch_size=7)


def test_trainer_gets_devices_nodes_and_strategy(tmp_path: Path) -> None:
    config = vis_config(tmp_path, tmp_path, devices=2, num_nodes=3, strategy="ddp", batch_size=768)
    run = OpenedRun(StageFolder(tmp_path), None, is_finished=False)
    trainer = _build_trainer(
        config,
        run,
        Budget(config, None, run.folder.last),
        [SameOnAllRanks({})],
        [EarlyStopping("val_loss")],
    )
    assert isinstance(trainer.strategy, DDPStrategy)
    assert (trainer.num_devices, trainer.num_nodes, trainer.world_size) == (2, 3, 6)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "2"}, 4),
        ({"NODE_RANK": "2", "LOCAL_RANK": "1"}, 5),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"SLURM_PROCID": "4"}, 4),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),  # started by Lightning in a SLURM shell
    ],
)
def test_rank_is_known_from_the_environment(
    environment: dict[str, str], rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = vis_config(tmp_path, tmp_path, devices=2, num_nodes=3, batch_size=768)
    assert process_rank(config) == rank
    assert process_rank(vis_config(tmp_path, tmp_path)) == 0


def test_other_ranks_neither_write_nor_lock_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = vis_config(tmp_path / "none.h5", tmp_path, devices=2)
    with open_run(config, {"dataset": "a"}) as first:
        before = {path: path.read_bytes() for path in first.folder.root.iterdir()}
        monkeypatch.setenv("LOCAL_RANK", "1")
        with open_run(config, {"dataset": "a"}) as other:
            assert (other.checkpoint, other.is_finished) == (None, False)
        assert {path: path.read_bytes() for path in first.folder.root.iterdir()} == before


def test_two_ranks_train_on_disjoint_frames_and_validate_on_all(dataset: Path) -> None:
    file = ReplayFile(dataset)
    settings = BatchSettings(batch_size=19, fields=("frames",))
    for shuffle in (True, False):
        ranks = [
            FrameBatches(file, replace(settings, shuffle=shuffle, share=(rank, 2)))
            for rank in range(2)
        ]
        seen = [torch.cat([batch["frame_index"] for batch in rank]).tolist() for rank in ranks]
        assert set(seen[0]).isdisjoint(seen[1])
        if shuffle:
            assert len(seen[0]) == len(seen[1]) > 0
        else:
            assert sorted(seen[0] + seen[1]) == list(range(file.n_frames))


def test_held_out_frames_are_all_there_after_a_run_in_shares(dataset: Path) -> None:
    data = FramesModule(dataset, batch_size=19, val_fraction=0.3)
    found = torch.cat([batch["frame_index"] for batch in data.held_out()])
    assert found.tolist() == data.frames_of("val").tolist()


def test_too_few_frames_for_a_batch_on_each_rank_are_refused(dataset: Path) -> None:
    class TwoRanks:
        """What a data module asks its trainer."""

        global_rank, world_size, current_epoch = 1, 2, 0

    data = FramesModule(dataset, batch_size=100_000)
    data.trainer = TwoRanks()  # type: ignore[assignment]
    with pytest.raises(UserError, match="training frames for one of 2 processes"):
        data.train_dataloader()


def command(stage: str, config: StageConfig, folder: Path, *more: str) -> str:
    """Run a stage on two CPU processes from the command line; what it says."""
    path = folder / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    options = ["devices=2", "strategy=ddp", "accelerator=cpu", "epochs=3"]
    overrides = [word for option in options for word in ("--set", option)]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", stage, "--config", str(path), *overrides, *more],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_visual_stage_on_two_processes(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path)
    said = command("vis", config, tmp_path)
    assert said.count("2 ranks hold equal weights") == 1
    artifact = load_artifact(config.run_folder / ENCODER_FILE)
    assert all(torch.isfinite(tensor).all() for tensor in artifact.tensors.values())
    rows = read_csv(config.run_folder / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    assert (config.run_folder / "reconstructions.png").exists()
    assert "finished" in command("vis", config, tmp_path)


@pytest.mark.slow
def test_cloning_stage_on_two_processes_is_cut_off_and_continued(
    dataset: Path, tmp_path: Path
) -> None:
    config = bc_config(dataset, tmp_path)
    command("bc", config, tmp_path, "--max-minutes", "0.00001")
    assert not (config.run_folder / "finished.json").exists()
    said = command("bc", config, tmp_path)
    assert said.count("continued after") == 1
    assert said.count("2 ranks hold equal weights") == 1
    rows = read_csv(config.run_folder / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for name in ("encoder.pt", "actions_head.pt", "float_head.pt", "iqn_bc.pt"):
        assert load_artifact(config.run_folder / name).tensors
