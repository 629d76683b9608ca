"""Stage 2: imitate the drivers, and write the parts of the network that learnt it."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.contract.errors import UserError
from datasets.contract.files import sha256_of
from datasets.labels import copy_previous_action_accuracy, count_labels, same_label_offsets
from datasets.modules import ReplayModule
from pretrain.bc.config import BCConfig
from pretrain.bc.driven import DrivenValidation, driven_tracks
from pretrain.bc.held_out import predict_held_out, save_held_out
from pretrain.bc.losses import class_weights
from pretrain.bc.module import BCModule
from pretrain.hardware import check_devices, seed_everything, stage_device
from pretrain.memory_need import check_stage_memory
from pretrain.run_folder import OpenedRun, load_state, mark_finished, open_run
from pretrain.training import FitResult, fit, report_finished
from rl.transfer.artifacts import save_artifacts
from rl.transfer.injector import inject
from rl.transfer.sources import Sources, find_sources

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
    check_devices(config)
    check_stage_memory(config)
    seed_everything(config)
    data = _build_data(config)
    data.setup()
    with open_run(config, _inputs(config, data)) as opened:
        if opened.is_finished:
            report_finished(opened)
            return opened.folder.root
        same_as = _offsets_of_heads(config, data, opened.checkpoint)
        module = BCModule(config, _class_weights(config, data), same_as)
        if opened.checkpoint is None:
            _load_start(config, module)
        driven = _driven_validation(config, data)
        callbacks = [] if driven is None else [driven]
        result = fit(config, opened, module, data, max_minutes=max_minutes, callbacks=callbacks)
        if result is not None:
            _save(config, opened, module, data, result, driven)
            if result.is_finished:  # not before the artifacts are there
                mark_finished(opened.folder, result.reason)
        return opened.folder.root


def _build_data(config: BCConfig) -> ReplayModule:
    return ReplayModule(
        config.dataset,
        batch_size=config.frames_per_pass,
        offsets_ms=config.label_offsets_ms,
        decided_only=config.decision_labels,
        use_floats=config.use_floats,
        use_returns=config.learns_values,
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
    if config.init_from is not None:
        sources = _start_of(config.init_from)
        sources.check_wheel_order(data.file.spec.wheel_order, f"{config.dataset}")
        files = sorted({artifact.path for artifact in sources.parts.values()})
        inputs["init_from"] = [sha256_of(file) for file in files]
    return inputs


def _offsets_of_heads(
    config: BCConfig, data: ReplayModule, checkpoint: Path | None
) -> tuple[int, ...] | None:
    """For each offset the one whose head it shares; None: a head for each.

    Offsets whose labels never differ share a head: a quarter of the work, with the default data.
    """
    names = config.bc_time_offsets_ms
    if checkpoint is not None and _has_all_heads(config, load_state(checkpoint)):
        return None  # of a run from before heads were shared
    same = same_label_offsets(data.file, config.label_offsets_ms)
    by_label = dict(zip(config.label_offsets_ms, names, strict=True))
    shared = tuple(by_label[offset] for offset in same)
    if len(set(shared)) < len(names):
        logger.info("%d offsets have %d different labels here", len(names), len(set(shared)))
    return shared


def _has_all_heads(config: BCConfig, state: dict[str, Any]) -> bool:
    others = [offset for offset in config.bc_time_offsets_ms if offset != config.main_offset_ms]
    return all(f"policy.offset_heads.{o}.0.weight" in state["state_dict"] for o in others)


def _class_weights(config: BCConfig, data: ReplayModule) -> Tensor | None:
    """Return the (A,) weights of the actions in the training loss."""
    scheme = config.class_weights
    if scheme == "none":
        return None
    if isinstance(scheme, tuple):
        return torch.tensor(scheme)
    main = config.bc_time_offsets_ms.index(config.main_offset_ms)
    counts = count_labels(
        data.file,
        data.frames_of("train"),
        config.label_offsets_ms[main],
        decided_only=config.decision_labels,
    )
    return torch.from_numpy(class_weights(counts, scheme))


def _driven_validation(config: BCConfig, data: ReplayModule) -> DrivenValidation | None:
    if not config.driven_validation_every_epochs:
        return None
    return DrivenValidation(config, driven_tracks(config, data.file))


def _start_of(path: Path) -> Sources:
    """Return the weights of an earlier run.

    Raises:
        UserError: none there, or an encoder alone.
    """
    sources = find_sources(path)
    assert sources is not None
    if "advantage" not in sources.parts:
        raise UserError(f"init_from: {path} holds no action head; name it in encoder_init_path")
    return sources


def _load_start(config: BCConfig, module: BCModule) -> None:
    """Start from the weights of another run, if the configuration names one."""
    if config.init_from is not None:
        start = _start_of(config.init_from)
        # A value head that this run does not train stays zero, as the metadata say.
        parts = set(start.parts) - (set() if config.learns_values else {"value"})
        inject(module.policy.network, [], start, parts=parts)
        module.policy.start_from_main_head()
        logger.info("weights loaded from %s", config.init_from)
    if config.encoder_init_path is None:
        return
    sources = find_sources(
        encoder_path=config.encoder_init_path, legacy_input=config.encoder_legacy_input
    )
    assert sources is not None
    inject(module.policy.network, [], sources, parts={"vis"})
    logger.info("encoder loaded from %s", config.encoder_init_path)


def _save(
    config: BCConfig,
    opened: OpenedRun,
    module: BCModule,
    data: ReplayModule,
    result: FitResult,
    driven: DrivenValidation | None,
) -> None:
    root = opened.folder.root
    metrics: dict[str, Any] = dict(result.metrics)
    held_out = None
    if len(data.split.val):
        held_out = predict_held_out(module, data, stage_device(config))
    if held_out is not None:
        metrics |= _copy_baseline(config, data) | held_out.metrics()
        if config.export_temperature:
            module.policy.divide_logits(held_out.temperature)
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
        extra=_notes(config, module, result, driven),
    )
    if held_out is not None:
        save_held_out(config, root, held_out)
    logger.info("%s: %s", root, result.summary("val_loss", "val_acc"))
    if held_out is not None:
        _compare_with_copying(config, metrics)


def _notes(
    config: BCConfig, module: BCModule, result: FitResult, driven: DrivenValidation | None
) -> dict[str, Any]:
    return {
        "bc_mode": config.bc_mode,
        "through_quantile_embedding": config.through_taus,
        "main_offset_ms": config.main_offset_ms,
        "value_head": "fitted to returns" if config.learns_values else "zero",
        "trained": sorted(module.policy.trained_modules(config)),
        "encoder_init_path": str(config.encoder_init_path) if config.encoder_init_path else None,
        "init_from": str(config.init_from) if config.init_from else None,
        "next_tick": config.next_tick,
        "temperature_in_head": config.export_temperature,
        "driven_validation_seconds": 0.0 if driven is None else driven.seconds,
        **result.notes(),
    }


def _copy_baseline(config: BCConfig, data: ReplayModule) -> dict[str, float]:
    """Accuracy of repeating the action of 50 ms before, per offset."""
    offsets = config.label_offsets_ms
    found = copy_previous_action_accuracy(
        data.file, data.frames_of("val"), offsets, decided_only=config.decision_labels
    )
    return {
        f"val_copy_acc_{offset}ms": float(accuracy)
        for offset, accuracy in zip(config.bc_time_offsets_ms, found, strict=True)
    }


def _compare_with_copying(config: BCConfig, metrics: dict[str, Any]) -> None:
    name = f"{config.main_offset_ms}ms"
    accuracy, copied = metrics.get(f"val_acc_{name}"), metrics[f"val_copy_acc_{name}"]
    if accuracy is None:
        return
    logger.info(
        "accuracy at %s: %.3f, of copying the previous action: %.3f; where the keys change: %.3f",
        *(name, accuracy, copied, metrics.get("val_acc_change", float("nan"))),
    )
    if accuracy < copied:
        logger.warning("the policy predicts worse than holding the keys: it has learnt nothing yet")
