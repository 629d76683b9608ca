"""Set-up and course of a pretraining run, the same for both stages: build, fit, save."""

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.contract.memory import is_out_of_memory
from datasets.modules import FramesModule
from pretrain.callbacks import (
    AtomicCheckpointIO,
    Budget,
    EpochCheckpoint,
    MetricsFile,
    Patience,
    RandomState,
)
from pretrain.config import StageConfig
from pretrain.hardware import StageModule, choose_threads, resolve_precision
from pretrain.ranks import SameOnAllRanks
from pretrain.run_folder import (
    BUDGET_KEYS,
    START_AGAIN,
    OpenedRun,
    finished_reason,
    load_state,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """How a call to `fit` ended.

    Attributes:
        reason: epochs | early stopping | max_minutes of the run, or "cut off" by the call's limit.
        is_finished: False when a later call would train on.
        epochs: that were trained in all.
        steps: optimiser steps in all.
        seconds: of training in all.
        metrics: of the epoch that the kept weights come from.
    """

    reason: str
    is_finished: bool
    epochs: int
    steps: int
    seconds: float
    metrics: dict[str, float]

    def notes(self) -> dict[str, Any]:
        """Return what the artifacts' metadata says about the training."""
        return {
            "finished": self.is_finished,
            "ended_by": self.reason,
            "epochs": self.epochs,
            "optimiser_steps": self.steps,
        }

    def summary(self, *metrics: str) -> str:
        """One line for people."""
        shown = [f"{name} {self.metrics[name]:.4f}" for name in metrics if name in self.metrics]
        state = f"{self.epochs} epochs, {self.seconds:.0f} s, ended by {self.reason}"
        return ", ".join([*shown, state])


def fit(
    config: StageConfig,
    run: OpenedRun,
    module: StageModule,
    data: FramesModule,
    *,
    max_minutes: float | None,
    callbacks: Sequence[L.Callback] = (),
) -> FitResult | None:
    """Train until the budget is used up, and load the best weights into `module`.

    The run is not marked as finished: that is for the caller, once the artifacts are written.

    Args:
        config: of the stage.
        run: where to write, and what to continue.
        module: on the CPU; logs `train_loss`, and `val_loss` when there is validation data.
        data: of the stage.
        max_minutes: limit of this call; the run can be continued after it.
        callbacks: of the stage; they may log the metric that selects the weights.

    Returns:
        None in all processes but the first of a distributed run: nothing is left to do there.

    Raises:
        UserError: the checkpoint to continue from is damaged, the loss is not finite, or the disk
            refuses.
        KeyboardInterrupt: the user stopped it; the last whole epoch is saved.
    """
    data.setup("fit")
    budget = Budget(config, max_minutes, run.folder.last)
    early = Patience(
        config.stopping_metric,
        budget=config.model_dump(mode="json", include=set(BUDGET_KEYS)),
        mode=_mode(config.stopping_metric),
        patience=config.patience_epochs,
        min_delta=config.min_delta,
        # Known before the epoch ends: then other callbacks see that it is the last one.
        check_on_train_epoch_end=not config.stopping_metric.startswith("val_"),
    )
    stops: list[EarlyStopping] = [early] if config.early_stopping else []
    if not stops or "loss" not in config.stopping_metric:
        stops.append(EarlyStopping("train_loss", patience=sys.maxsize))  # only if it is not finite
    threads = choose_threads(config, module, data)
    logger.info("%s: %d threads, %s", run.folder.root, threads, resolve_precision(config))
    same = SameOnAllRanks(
        {
            "dataset": data.file.identity(),
            "checkpoint to continue": run.checkpoint is not None,
            "precision": resolve_precision(config),
        }
    )
    with _quiet_lightning():
        trainer = _build_trainer(config, run, budget, [same, *callbacks], stops)
        _run_trainer(trainer, module, data, run, budget)
    if any("not finite" in (stop.stopping_reason_message or "") for stop in stops):
        raise UserError(f"{run.folder.root}: the loss is no longer finite; lower lr and try again")
    if not trainer.is_global_zero:
        return None
    return _result(trainer, budget, early, run, module)


def report_finished(run: OpenedRun) -> None:
    """Say that there is nothing left to train."""
    logger.info(
        "%s is finished (%s); to train it anew: --set overwrite=true",
        run.folder.root,
        finished_reason(run.folder),
    )


def _build_trainer(
    config: StageConfig,
    run: OpenedRun,
    budget: Budget,
    first: Sequence[L.Callback],
    stops: Sequence[L.Callback],
) -> L.Trainer:
    folder = run.folder
    bar = sys.stderr.isatty() and sys.stdout.isatty()
    metric = config.selecting_metric
    callbacks: list[L.Callback] = [
        *first,
        budget,
        RandomState(config.seed),
        MetricsFile(folder.metrics, budget),
        *stops,
        EpochCheckpoint(folder.checkpoints, "best", budget, monitor=metric, mode=_mode(metric)),
        EpochCheckpoint(folder.checkpoints, "last", budget),
        *([RichProgressBar(leave=False, console_kwargs={"stderr": True})] if bar else []),
    ]
    return L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision=resolve_precision(config),
        max_epochs=config.epochs,
        accumulate_grad_batches=config.passes_per_step,
        gradient_clip_val=config.gradient_clip or None,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder.root, name="tensorboard", version=""),
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _mode(metric: str) -> Literal["min", "max"]:
    return "max" if "acc" in metric else "min"


def _run_trainer(
    trainer: L.Trainer,
    module: L.LightningModule,
    data: L.LightningDataModule,
    run: OpenedRun,
    budget: Budget,
) -> None:
    if run.checkpoint is not None:
        steps = load_state(run.checkpoint)["global_step"]
        logger.info("%s: continued after %d steps", run.folder.root, steps)
    handler = signal.getsignal(signal.SIGINT) if _in_main_thread() else None
    try:
        trainer.fit(module, data, ckpt_path=run.checkpoint, weights_only=True)
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit and mutes further ones
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        logger.info("%s: stopped; the same command continues it", run.folder.root)
        raise KeyboardInterrupt from stop
    except Exception as error:
        is_foreign = isinstance(error, UserError | OSError) or is_out_of_memory(error)
        if run.checkpoint is None or budget.has_begun or is_foreign:
            raise
        raise UserError(
            f"{run.checkpoint}: damaged checkpoint ({type(error).__name__}); {START_AGAIN}"
        ) from error


def _result(
    trainer: L.Trainer,
    budget: Budget,
    early: EarlyStopping,
    run: OpenedRun,
    module: L.LightningModule,
) -> FitResult:
    if budget.cut_inside:
        reason = "cut off"
    elif trainer.current_epoch >= (trainer.max_epochs or 0):
        reason = "epochs"
    elif early.stopped_epoch:
        reason = "early stopping"
    else:
        reason = "max_minutes" if budget.out_of_time else "cut off"
    best = load_state(run.folder.best)
    try:
        module.load_state_dict(best["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{run.folder.best}: weights of another network; {START_AGAIN}") from error
    rows = {row.get("epoch"): row for row in read_csv(run.folder.metrics)}
    metrics = _numbers(rows.get(str(best["epoch"]), {}))
    return FitResult(
        reason=reason,
        is_finished=reason != "cut off",
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        seconds=budget.elapsed_s,
        metrics=metrics,
    )


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Return the cells of a row that hold numbers."""
    found = {}
    for name, text in row.items():
        with suppress(ValueError):
            found[name] = float(text)
    return found


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's tips and its notes about choices that are made here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                ".*LeafSpec.*",
                ".*num_workers.*",
                ".*does not have many workers.*",
                ".*Checkpoint dir.*",
            ):
                warnings.filterwarnings("ignore", text)
            yield
    finally:
        for log, level in zip(loggers, before, strict=True):
            log.setLevel(level)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
