"""Stage 2: imitate the drivers, and write the parts of the network that learnt it."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.contract.errors import UserError
from datasets.contract.files import sha256_of
from datasets.labels import copy_previous_action_accuracy
from datasets.modules import ReplayModule
from pretrain.bc.config import BCConfig
from pretrain.bc.module import BCModule
from pretrain.bc.pictures import save_confusion
from pretrain.hardware import seed_everything
from pretrain.run_folder import OpenedRun, open_run
from pretrain.training import FitResult, fit, report_finished
from rl.transfer.artifacts import save_artifacts
from rl.transfer.injector import inject
from rl.transfer.sources import find_sources

logger = logging.getLogger(__name__)


def run(config: BCConfig, *, max_minutes: float | None = None) -> Path:
    """Train by imitation, or continue or find the run of this name.

    Args:
        config: of the stage.
        max_minutes: limit of this call; the run can be continued after it.

    Returns:
        The run's folder, with the artifacts that the configuration asks for.

    Raises:
        UserError: the data, the encoder or the run's folder do not fit the configuration.
    """
    seed_everything(config)
    data = _build_data(config)
    data.setup()
    with open_run(config, _inputs(config, data)) as opened:
        if opened.is_finished:
            report_finished(opened)
            return opened.folder.root
        module = BCModule(config)
        if opened.checkpoint is None:
            _load_encoder(config, module)
        result = fit(config, opened, module, data, max_minutes=max_minutes)
        if result is not None:
            _save(config, opened, module, data, result)
        return opened.folder.root


def _build_data(config: BCConfig) -> ReplayModule:
    return ReplayModule(
        config.dataset,
        batch_size=config.frames_per_pass,
        offsets_ms=config.bc_time_offsets_ms,
        use_floats=config.use_floats,
        use_returns=config.use_full_iqn and config.value_loss_weight > 0,
        previous_action_dropout=config.previous_action_dropout,
        previous_action_fill=config.previous_action_fill,
        image_size=config.image_size if config.nn.use_image_head else None,
        val_fraction=config.val_fraction,
        skip_bad_shards=config.skip_bad_shards,
        split_by=config.split_by,
        seed=config.seed,
    )


def _inputs(config: BCConfig, data: ReplayModule) -> dict[str, Any]:
    """Identities of what the run is made from."""
    inputs: dict[str, Any] = {"dataset": data.file.identity()}
    path = config.encoder_init_path
    if path is not None:
        if not path.is_file():
            raise UserError(
                f"{path}: no such encoder; train it first with rulka-pipeline vis, "
                f"or start from random weights with --set encoder_init_path=null"
            )
        inputs["encoder_init_path"] = sha256_of(path)
    return inputs


def _load_encoder(config: BCConfig, module: BCModule) -> None:
    if config.encoder_init_path is None:
        return
    sources = find_sources(
        encoder_path=config.encoder_init_path, legacy_input=config.encoder_legacy_input
    )
    assert sources is not None
    inject(module.policy.network, [], sources, parts={"vis"})
    logger.info("encoder loaded from %s", config.encoder_init_path)


def _save(
    config: BCConfig, opened: OpenedRun, module: BCModule, data: ReplayModule, result: FitResult
) -> None:
    root = opened.folder.root
    metrics: dict[str, Any] = dict(result.metrics)
    held_out = len(data.split.val) > 0
    if held_out:
        metrics |= _copy_baseline(config, data)
    files = module.policy.artifacts(config)
    save_artifacts(
        root,
        files,
        stage="bc",
        run_name=config.run_name,
        network=config.network,
        dataset=data.describe(),
        offsets_ms=config.bc_time_offsets_ms,
        metrics=metrics,
        seconds=result.seconds,
        extra=_notes(config, opened, module, result),
    )
    if held_out:
        _save_confusion(config, root, module, data)
    logger.info("%s: %s", root, result.summary("val_loss", "val_acc"))
    if held_out:
        _compare_with_copying(config, metrics)


def _notes(
    config: BCConfig, opened: OpenedRun, module: BCModule, result: FitResult
) -> dict[str, Any]:
    return {
        "bc_mode": config.bc_mode,
        "through_quantile_embedding": config.through_taus,
        "main_offset_ms": config.main_offset_ms,
        "value_head": "fitted to returns" if module.learns_values else "zero",
        "trained": sorted(module.policy.trained_modules(config)),
        "encoder_init_path": str(config.encoder_init_path) if config.encoder_init_path else None,
        **result.notes(),
    }


def _copy_baseline(config: BCConfig, data: ReplayModule) -> dict[str, float]:
    """Accuracy of repeating the action of 50 ms before, per offset."""
    offsets = config.bc_time_offsets_ms
    found = copy_previous_action_accuracy(data.file, data.frames_of("val"), offsets)
    return {
        f"val_copy_acc_{offset}ms": float(accuracy)
        for offset, accuracy in zip(offsets, found, strict=True)
    }


def _compare_with_copying(config: BCConfig, metrics: dict[str, Any]) -> None:
    name = f"{config.main_offset_ms}ms"
    accuracy, copied = metrics.get(f"val_acc_{name}"), metrics[f"val_copy_acc_{name}"]
    if accuracy is None:
        return
    logger.info(
        "accuracy at %s: %.3f, of copying the previous action: %.3f", name, accuracy, copied
    )
    if accuracy < copied:
        logger.warning("the policy predicts worse than holding the keys: it has learnt nothing yet")


def _save_confusion(config: BCConfig, root: Path, module: BCModule, data: ReplayModule) -> None:
    index = config.bc_time_offsets_ms.index(config.main_offset_ms)
    counts = count_held_out(module, data)[index]
    title = f"{config.run_name}: held-out frames, offset {config.main_offset_ms} ms"
    save_confusion(root / "confusion.png", counts.numpy(), title)


def count_held_out(module: BCModule, data: ReplayModule) -> Tensor:
    """Predictions of the kept weights on the held-out frames, as (K, A, A) counts."""
    counts = torch.zeros_like(module.confusion)
    module.eval()
    with torch.inference_mode():
        for batch in data.held_out():
            counts += module.count(batch)
    return counts
