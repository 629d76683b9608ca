"""What a pretraining run does beside the updates: budget, learning rate, metrics, saving."""

import io
import logging
import math
import time
from pathlib import Path, PureWindowsPath
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from datasets.contract.csv_log import CsvLog
from datasets.contract.files import atomic_path
from pretrain.config import StageConfig

logger = logging.getLogger(__name__)

SECONDS_PER_MINUTE = 60.0


class Budget(L.Callback):
    """Counts the seconds of a run over all calls, sets the learning rate, stops when time is up.

    The learning rate falls over whichever part of the budget, steps or minutes, is used up faster,
    so that a run that the clock ends has annealed as far as one that its epochs end.

    Attributes:
        elapsed_s: seconds of training, earlier calls included.
        out_of_time: the run's own minutes are used up.
        cut_off: this call's minutes are used up; the run can be continued.
        has_begun: a batch of this call was trained.
        cut_inside: the call's minutes ended inside an epoch, and `last` was saved there: a
            continued run goes on with the batches that were next.

    Args:
        config: of the stage.
        max_minutes: limit of this call.
        last: the checkpoint to continue from.
    """

    def __init__(self, config: StageConfig, max_minutes: float | None, last: Path) -> None:
        self.elapsed_s = 0.0
        self.out_of_time = self.cut_off = self.cut_inside = self.has_begun = False
        self._last_checkpoint = last
        self._config = config
        self._limit_s = _seconds(config.max_minutes)
        self._call_limit_s = _seconds(max_minutes)
        self._call_s = self._last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of this call."""
        self._call_s, self._last = 0.0, time.monotonic()
        self.out_of_time = self.elapsed_s >= self._limit_s
        if self.out_of_time:
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of all parameter groups."""
        self.has_begun = True
        rate = self._config.lr * self._factor(trainer)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop the training if its time is over."""
        ends_epoch = batch_idx + 1 == trainer.num_training_batches  # and with it a step
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not ends_epoch:
            return  # in the middle of a step, whose gradients would be lost
        self._tick(trainer)
        self.out_of_time = self.elapsed_s >= self._limit_s
        self.cut_off = self._call_s >= self._call_limit_s
        if self.out_of_time or self.cut_off:
            trainer.should_stop = True
        if self.cut_off and not self.out_of_time and not ends_epoch:
            # Lightning counts the epoch that it leaves as whole, so its state is kept from before.
            trainer.save_checkpoint(self._last_checkpoint)
            self.cut_inside = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the time of the validation."""
        self._tick(trainer)

    def leave_out(self, seconds: float) -> None:
        """Take the last `seconds` out of the run's training time; they still count for the call."""
        self._last += seconds
        self._call_s += seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the run's training time."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.elapsed_s = float(state_dict["elapsed_s"])

    def _tick(self, trainer: L.Trainer) -> None:
        """Count the time since the last tick, the same on all ranks.

        They have to leave an epoch together and to learn at the same rate, and their clocks differ.
        """
        now = time.monotonic()
        passed, self._last = now - self._last, now
        if trainer.world_size > 1:
            longest = torch.tensor(passed, device=trainer.strategy.root_device)
            passed = float(trainer.strategy.reduce(longest, reduce_op="max"))
        self.elapsed_s += passed
        self._call_s += passed

    def _factor(self, trainer: L.Trainer) -> float:
        """Learning rate over its highest value."""
        steps = trainer.global_step
        warmup = min(1.0, (steps + 1) / (self._config.warmup_steps + 1))
        if self._config.lr_schedule == "constant":
            return warmup
        progress = max(steps / trainer.estimated_stepping_batches, self.elapsed_s / self._limit_s)
        return warmup * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class EpochCheckpoint(ModelCheckpoint):
    """Saves after each whole epoch; with a metric, after those in which it was measured.

    An epoch that is cut in two leaves no trace in what a continued run starts from: its first part
    is saved only where the run has no weights yet that could be exported.

    Args:
        folder: of the checkpoints.
        name: of the file, without `.ckpt`.
        budget: knows whether an epoch was cut.
        **options: those of Lightning's class.
    """

    def __init__(self, folder: Path, name: str, budget: Budget, **options: Any) -> None:
        super().__init__(
            folder,
            filename=name,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
            **options,
        )
        self._budget = budget

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless the epoch was cut or its metric was not measured."""
        if self._budget.cut_inside and (self.monitor is None or self.best_model_path):
            return
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`, wherever the run's folder lies now.

        Lightning forgets the best score of a folder that was moved.
        """
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {key: self._here(state_dict[key]) for key in paths}
        scores = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        best = {path: score for path, score in scores.items() if Path(path).exists()}
        here = {"dirpath": self.dirpath, "best_k_models": best, **moved}
        super().load_state_dict(state_dict | here)

    def _here(self, path: str) -> str:
        """Return the path of a checkpoint in this run's folder; of none, an empty one."""
        assert self.dirpath is not None
        # A path of Windows: it may have been written there, and both kinds of slashes end a folder.
        return str(Path(self.dirpath, PureWindowsPath(path).name)) if path else ""


class Patience(EarlyStopping):
    """Early stopping that takes its patience from the configuration, in a continued run too.

    A run that stopped early does not train on before its budget is changed, so that a call that
    was ended before it wrote the artifacts can be repeated.

    Args:
        monitor: the metric to look at.
        budget: of the run, plain values: what has to change before a stopped run goes on.
        **options: those of Lightning's class.
    """

    def __init__(self, monitor: str, *, budget: dict[str, Any], **options: Any) -> None:
        super().__init__(monitor, **options)
        self._budget = budget
        self._has_stopped = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the run had stopped."""
        if self._has_stopped:
            self.stopped_epoch = trainer.current_epoch
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state and the budget that it belongs to."""
        return super().state_dict() | {"budget": self._budget}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`, but with the configured patience."""
        self._has_stopped = (
            state_dict["stopped_epoch"] > 0 and state_dict.get("budget") == self._budget
        )
        # A stop of an earlier call is not how this one ends.
        changes = {"patience": self.patience, "stopped_epoch": 0}
        super().load_state_dict(state_dict | changes)


class RandomState(L.Callback):
    """Continues torch's random numbers, so that a continued run draws what one call would have.

    The checkpoint has those of the first rank, of the CPU and of the GPUs that it sees; with
    another number of GPUs theirs start anew. The other ranks draw their own, from seeds by epoch.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._loaded: torch.Tensor | None = None
        self._loaded_gpus: list[torch.Tensor] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed the random numbers of all ranks but the first."""
        if trainer.global_rank > 0:
            parts = [self._seed, trainer.global_rank, trainer.current_epoch]
            torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the random state that the checkpoint held."""
        if self._loaded is not None:
            torch.set_rng_state(self._loaded)
        if self._loaded_gpus and len(self._loaded_gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self._loaded_gpus)

    def state_dict(self) -> dict[str, Any]:
        """Return torch's random state."""
        state: dict[str, Any] = {"torch": torch.get_rng_state()}
        # Not in a run on the CPU of a machine with GPUs.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state until training starts."""
        self._loaded = state_dict["torch"].cpu()
        self._loaded_gpus = [state.cpu() for state in state_dict.get("cuda", [])]


class MetricsFile(L.Callback):
    """Appends a row to `metrics.csv` after each epoch, and says it in the log.

    Lightning's own CSV logger deletes the file of the run that it continues.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget
        self._csv: CsvLog | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the file and drop the rows of epochs that are trained again."""
        if trainer.is_global_zero:
            self._csv = CsvLog(self._path)
            self._csv.drop_after("epoch", trainer.current_epoch - 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the row of the epoch."""
        if self._csv is None:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._csv.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "seconds": self._budget.elapsed_s,
                "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
                **dict(sorted(values.items())),
            }
        )
        shown = (name for name in ("train_loss", "val_loss", "val_acc") if name in values)
        logger.info(
            "epoch %d: %s (%.0f s)",
            trainer.current_epoch,
            ", ".join(f"{name} {values[name]:.4f}" for name in shown),
            self._budget.elapsed_s,
        )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, with a full disk reported as the user's matter."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write one checkpoint."""
        buffer = io.BytesIO()  # in memory first: a full disk then fails as a plain write
        torch.save(checkpoint, buffer)
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def _seconds(minutes: float | None) -> float:
    return math.inf if minutes is None else minutes * SECONDS_PER_MINUTE
