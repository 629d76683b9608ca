"""Stage 1: train the visual encoder and write it for the stages that follow."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from datasets.modules import FramesModule
from pretrain.hardware import check_devices, seed_everything, stage_device
from pretrain.memory_need import check_stage_memory
from pretrain.run_folder import OpenedRun, mark_finished, open_run
from pretrain.training import FitResult, fit, report_finished
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule
from pretrain.vis.probe import ProbeFrames, Scores, encoder_of, probe_encoders
from pretrain.vis.showing import observations, save_pictures, some_frames
from rl.transfer.artifacts import Tensors, save_artifacts
from rl.transfer.metadata import ENCODER_FILE

logger = logging.getLogger(__name__)

BACKGROUND_FRAMES = 512
OWN = "this encoder"


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
    check_devices(config)
    check_stage_memory(config)
    seed_everything(config)
    data = FramesModule(
        config.dataset,
        batch_size=config.frames_per_pass,
        image_size=config.image_size,
        val_fraction=config.val_fraction,
        skip_bad_shards=config.skip_bad_shards,
        split_by=config.split_by,
        seed=config.seed,
        n_stack=config.n_stack,
    )
    data.setup()
    inputs = {"dataset": data.file.identity()}
    with open_run(config, inputs) as opened:
        if opened.is_finished:
            report_finished(opened)
            return opened.folder.root
        module = VisModule(config)
        if opened.checkpoint is None:
            chosen = some_frames(data, BACKGROUND_FRAMES, held_out=False)
            module.start_from(observations(data, chosen))
        result = fit(config, opened, module, data, max_minutes=max_minutes)
        if result is not None:
            _save(config, opened, module, data, result)
            if result.is_finished:  # not before the artifacts are there
                mark_finished(opened.folder, result.reason)
        return opened.folder.root


def _save(
    config: VisConfig,
    opened: OpenedRun,
    module: VisModule,
    data: FramesModule,
    result: FitResult,
) -> None:
    root = opened.folder.root
    notes: dict[str, Any] = {"task": config.task, **result.notes()}
    if config.n_stack > 1:
        notes |= {"n_stack": config.n_stack, "stack_mode": config.stack_mode}
    tensors = module.encoder_tensors()
    metrics = dict(result.metrics)
    if config.probe:
        scores = _probe(config, tensors, data)
        metrics |= {f"val_probe_{name}_r2": r2 for name, r2 in scores.pop(OWN, {}).items()}
        notes["probe_baselines"] = scores
    save_artifacts(
        root,
        {ENCODER_FILE: tensors},
        stage="vis",
        run_name=config.run_name,
        network=config.network,
        dataset=data.describe(),
        metrics=metrics,
        seconds=result.seconds,
        extra=notes,
    )
    save_pictures(root, module, data)
    shown = ("val_mse", "val_partner_acc", *(name for name in metrics if "probe" in name))
    result = dataclasses.replace(result, metrics=metrics)
    logger.info("%s: %s", root / ENCODER_FILE, result.summary(*shown))


def _probe(config: VisConfig, tensors: Tensors, data: FramesModule) -> dict[str, Scores]:
    """Scores of the written encoder and of what it is compared with.

    None without held-out data, and without floats, which are what the probe looks for.
    """
    too_few = len(data.split.val) == 0 or len(data.split.train) < 2
    if too_few or not data.file.spec.has_floats:
        return {}
    head = encoder_of(config.network, tensors)
    frames = ProbeFrames.of(data.file, data.split)
    return probe_encoders({OWN: (config.network, head)}, frames, stage_device(config))
