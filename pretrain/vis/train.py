"""Stage 1: train the visual encoder and write it for the stages that follow."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datasets.modules import FramesModule
from pretrain.hardware import seed_everything
from pretrain.run_folder import OpenedRun, open_run
from pretrain.training import FitResult, fit, report_finished
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule
from pretrain.vis.pictures import save_reconstructions
from rl.transfer.artifacts import ENCODER_FILE, save_artifacts

logger = logging.getLogger(__name__)

PICTURED_FRAMES = 16
BACKGROUND_FRAMES = 512


def run(config: VisConfig, *, max_minutes: float | None = None) -> Path:
    """Train an encoder, or continue or find the run of this name.

    Args:
        config: of the stage.
        max_minutes: limit of this call; the run can be continued after it.

    Returns:
        The run's folder, with `encoder.pt` and `pretrain_meta.json`.

    Raises:
        UserError: the data or the run's folder do not fit the configuration.
    """
    seed_everything(config)
    data = FramesModule(
        config.dataset,
        batch_size=config.frames_per_pass,
        image_size=config.image_size,
        val_fraction=config.val_fraction,
        skip_bad_shards=config.skip_bad_shards,
        split_by=config.split_by,
        seed=config.seed,
    )
    data.setup()
    inputs = {"dataset": data.file.identity()}
    with open_run(config, inputs) as opened:
        if opened.is_finished:
            report_finished(opened)
            return opened.folder.root
        module = VisModule(config)
        if opened.checkpoint is None:
            module.start_from(_some_frames(data, "train", BACKGROUND_FRAMES))
        result = fit(config, opened, module, data, max_minutes=max_minutes)
        if result is not None:
            _save(config, opened, module, data, result)
        return opened.folder.root


def _save(
    config: VisConfig,
    opened: OpenedRun,
    module: VisModule,
    data: FramesModule,
    result: FitResult,
) -> None:
    root = opened.folder.root
    save_artifacts(
        root,
        {ENCODER_FILE: module.encoder_tensors()},
        stage="vis",
        run_name=config.run_name,
        network=config.network,
        dataset=data.describe(),
        metrics=result.metrics,
        seconds=result.seconds,
        extra={"task": config.task, **result.notes()},
    )
    _save_picture(root / "reconstructions.png", module, data)
    logger.info("%s: %s", root / ENCODER_FILE, result.summary("val_mse"))


def _save_picture(path: Path, module: VisModule, data: FramesModule) -> None:
    originals = _some_frames(data, "val" if len(data.split.val) else "train", PICTURED_FRAMES)
    module.eval()
    with torch.no_grad():
        painted = module.reconstruct(originals)
    save_reconstructions(path, originals.squeeze(1).numpy(), painted.squeeze(1).numpy())


def _some_frames(data: FramesModule, part: Literal["train", "val"], count: int) -> Tensor:
    """Frames of a part, (count, 1, H, W) uint8, evenly spaced."""
    frames = data.frames_of(part)
    chosen = frames[np.linspace(0, len(frames) - 1, count).astype(np.int64)]
    found = np.concatenate([data.file.read("frames", int(index), 1) for index in chosen])
    return torch.from_numpy(found).unsqueeze(1)
