"""The data modules under a real Lightning trainer."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from benchmarks import data as benchmark
from datasets.modules import ReplayModule
from tests.dataset_samples import sample_records, write_dataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # one folder for several fits
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


class Recorder(L.LightningModule):
    """Learns nothing of interest and notes which frames it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        self.seen.append([*batch["frame_index"].tolist(), *batch["floats"][:, 0].int().tolist()])
        loss: Tensor = self.layer(batch["floats"][:, 5:8]).mean()
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated += batch["frame_index"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("module") / "data.h5", sample_records())


def fit(
    path: Path, folder: Path, resume: Path | None = None, every: int = 1, **limits: Any
) -> Recorder:
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[
            ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **limits,
    )
    data = ReplayModule(path, batch_size=29, val_fraction=0.3, seed=2)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module


@pytest.mark.parametrize("steps", [5, 7, 10])
def test_a_stopped_training_continues_with_the_batches_that_were_next(
    path: Path, tmp_path: Path, steps: int
) -> None:
    """7 batches are an epoch: stopped inside the first, at its end, and inside the second."""
    whole = fit(path, tmp_path, max_steps=18).seen
    assert len(whole) == 18
    assert len(whole[6]) < len(whole[5]) == 2 * 29
    before = fit(path, tmp_path, max_steps=steps).seen
    after = fit(path, tmp_path, tmp_path / "last.ckpt", max_steps=18).seen
    assert [*before, *after] == whole


@pytest.mark.parametrize("step", [5, 7, 10])
def test_a_killed_training_continues_from_a_checkpoint_with_the_batches_that_were_next(
    path: Path, tmp_path: Path, step: int
) -> None:
    whole = fit(path, tmp_path, max_steps=18).seen
    after = fit(path, tmp_path, tmp_path / f"step={step}.ckpt", max_steps=18).seen
    assert after == whole[step:]


def test_a_training_continues_with_the_next_epoch(path: Path, tmp_path: Path) -> None:
    whole = fit(path, tmp_path, max_epochs=3).seen
    before = fit(path, tmp_path, max_epochs=1).seen
    after = fit(path, tmp_path, tmp_path / "last.ckpt", max_epochs=3).seen
    assert [*before, *after] == whole
    assert whole[:7] != whole[7:14]


def test_a_trainer_validates_on_all_held_out_frames(path: Path, tmp_path: Path) -> None:
    module = fit(path, tmp_path, max_epochs=1)
    held_out = ReplayModule(path, batch_size=29, val_fraction=0.3, seed=2).frames_of("val")
    assert module.validated == held_out.tolist()


def test_the_benchmark_measures_every_way_of_reading(tmp_path: Path) -> None:
    benchmark.write_noise(tmp_path / "noise.h5", 1000, 16)
    rates = benchmark.measure(tmp_path / "noise.h5", batch_size=128, seconds=0.05)
    assert len(rates) == 5
    assert all(rate > 0 for rate in rates.values())


def test_the_benchmark_tells_the_loaders_share_of_both_stages(tmp_path: Path) -> None:
    benchmark.write_noise(tmp_path / "noise.h5", 500, 36)
    shares = benchmark.loader_shares(tmp_path / "noise.h5", frames=32, seconds=0.05)
    assert set(shares) == {"vis", "bc"}
    assert all(0 < share < 1 for share in shares.values())
