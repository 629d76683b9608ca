"""A small recording of the simulator and small networks, for the tests of pretraining."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from pretrain.bc.config import BCConfig
from pretrain.vis.config import VisConfig

SIDE = 36
NETWORK = {
    "vis": {"cnn": {"channels": (3, 4, 5, 6)}},
    "floats": {"hidden_dimension": 7},
    "iqn": {"embedding_dimension": 9},
    "decoder": {"dense_hidden_dimension": 22},
}
SMALL: dict[str, Any] = {
    "image_size": SIDE,
    "nn": NETWORK,
    "batch_size": 256,
    "micro_batch_size": 128,
    "epochs": 2,
    "val_fraction": 0.3,
    "accelerator": "cpu",
    "num_threads": 1,
    "precision": "32-true",
    "warmup_steps": 2,
    "lr": 0.003,
    "max_minutes": None,
}


def recorded(folders: pytest.TempPathFactory) -> Path:
    """Three races on the short track, driven once per test session."""
    path = folders.getbasetemp() / "pretraining.h5"
    if not path.exists():
        request = DriveRequest(("short",), replays=3, driver="good", image_size=(SIDE, SIDE))
        drive_dataset(path, request)
    return path


def vis_config(dataset: Path, output: Path, **changes: Any) -> VisConfig:
    """A visual stage that takes a second."""
    values = {**SMALL, "dataset": dataset, "output_dir": output, "run_name": "eyes"}
    return VisConfig.model_validate({**values, **changes})


def bc_config(dataset: Path, output: Path, **changes: Any) -> BCConfig:
    """A cloning stage that takes a second: the whole network, three offsets."""
    values = {
        **SMALL,
        "dataset": dataset,
        "output_dir": output,
        "run_name": "clone",
        "bc_time_offsets_ms": (0, 10, 100),
        "bc_offset_weights": (3.0, 1.0, 0.5),
    }
    return BCConfig.model_validate({**values, **changes})
