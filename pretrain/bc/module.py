"""The Lightning module of behavioural cloning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datasets.batches import Batch
from pretrain.bc.config import BCConfig
from pretrain.bc.heads import OffsetPolicy
from pretrain.bc.losses import (
    accuracies,
    count_at_decisions,
    count_predictions,
    decision_accuracies,
    offset_losses,
    recalls,
    value_loss,
)
from pretrain.hardware import StageModule
from rl.network.iqn import midpoint_taus, stratified_taus


class BCModule(StageModule):
    """Trains the offset heads by cross-entropy, and the value head by quantile regression.

    Args:
        config: of the stage.
        class_weights: (A,) float32 of the actions in the training loss; 1 each when None.
        same_as: for each offset the one whose head it shares, see `OffsetPolicy`.

    Attributes:
        policy: the network with its heads.
        confusion: (K, A, A) counts of the last validation, true action by predicted action.
        decision_confusion: (2, K, A, A) the same where the driver decides, and where it changes its
            keys.
    """

    confusion: Tensor
    decision_confusion: Tensor
    weights: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        config: BCConfig,
        class_weights: Tensor | None = None,
        same_as: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            {"config": config.model_dump(mode="json"), "same_as": same_as and list(same_as)}
        )
        self.config = config
        self.policy = OffsetPolicy(config, same_as)
        for parameter in self.policy.parameters():
            parameter.requires_grad_(False)
        for module in self.policy.trained_modules(config).values():
            module.requires_grad_(True)
        offsets, actions = len(config.bc_time_offsets_ms), config.n_actions
        counts = torch.zeros(offsets, actions, actions, dtype=torch.int64)
        self.register_buffer("confusion", counts, persistent=False)
        both = torch.zeros(2, *counts.shape, dtype=torch.int64)
        self.register_buffer("decision_confusion", both, persistent=False)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("weights", torch.tensor(config.offset_weights), persistent=False)

    def train(self, mode: bool = True) -> "BCModule":
        """Set the mode; a frozen encoder stays as in evaluation."""
        super().train(mode)
        if self.config.freeze_encoder and self.policy.network.img_head is not None:
            self.policy.network.img_head.eval()
        return self

    def losses(self, batch: Batch, taus: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and its parts with the logits.

        Args:
            batch: frames (B, 1, H, W) uint8, labels (B, K) int64; floats (B, 184) and returns (B,)
                float32 where the run uses them.
            taus: (B, N) or (1, N) quantile fractions.

        Returns: the scalar to minimise, and {bc_loss, value_loss} scalars, {offset_losses} (K,),
            {logits} (B, K, A).
        """
        inputs = self._head_inputs(batch, taus)
        logits = self.policy.logits(inputs)
        smoothing = self.config.label_smoothing if self.training else 0.0
        weights = self.class_weights if self.training else None
        each = offset_losses(logits, batch["labels"], smoothing, weights)
        loss = bc_loss = (self.weights * each).sum()
        parts = {"bc_loss": bc_loss, "offset_losses": each, "logits": logits}
        if self.config.learns_values:
            predicted = self.policy.values(inputs)
            kappa = self.config.nn.iqn.kappa
            parts["value_loss"] = value_loss(predicted, taus, batch["returns"], kappa)
            loss = loss + self.config.value_loss_weight * parts["value_loss"]
        return loss, parts

    def batch_loss(self, batch: Batch) -> Tensor:
        """Return the training loss of a batch, without logging: a scalar."""
        return self.losses(batch, self._training_taus(len(batch["frames"])))[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch at the quantile fractions of training."""
        size = len(batch["frames"])
        loss, parts = self.losses(batch, self._training_taus(size))
        self._log("train", loss, parts, size)
        return loss

    @torch.inference_mode()
    def predict(self, batch: Batch) -> Tensor:
        """Logits of a batch's frames and floats at the fixed fractions of validation, (B, K, A)."""
        return self.policy.logits(
            self._head_inputs(batch, self._fixed_taus(self.config.num_taus_val))
        )

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self.confusion.zero_()
        self.decision_confusion.zero_()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the predictions of one held-out batch at fixed quantile fractions."""
        loss, parts = self.losses(batch, self._fixed_taus(self.config.num_taus_val))
        size = len(batch["frames"])
        self._log("val", loss, parts, size)
        names = [f"val_loss_{offset}ms" for offset in self.config.bc_time_offsets_ms]
        self._log_values(dict(zip(names, parts["offset_losses"], strict=True)), size)
        self.confusion += count_predictions(parts["logits"], batch["labels"])
        self.decision_confusion += count_at_decisions(
            parts["logits"], batch["labels"], batch["decisions"]
        )

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies."""
        if self.trainer.world_size > 1:
            for counts in (self.confusion, self.decision_confusion):
                gathered = self.all_gather(counts)
                assert isinstance(gathered, Tensor)
                counts.copy_(gathered.sum(dim=0))
        self.log_dict(self.validation_metrics(), sync_dist=False)

    def validation_metrics(self) -> dict[str, float]:
        """Accuracies from the counts.

        `val_acc`, those at decisions and the recalls are of the main offset.
        """
        offsets = self.config.bc_time_offsets_ms
        found = accuracies(self.confusion, offsets)
        main = self.config.main_offset_ms
        if f"val_acc_{main}ms" in found:
            found["val_acc"] = found[f"val_acc_{main}ms"]
        place = offsets.index(main)
        found |= decision_accuracies(self.decision_confusion[:, place])
        return found | recalls(self.confusion[place])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the parts that this run trains; the rate is set by the run's budget."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters, lr=self.config.lr, weight_decay=self.config.weight_decay
        )

    def _head_inputs(self, batch: Batch, taus: Tensor) -> Tensor:
        """Return the input of the heads, (B, N, D), see `OffsetPolicy.head_inputs`."""
        frames = batch["frames"]
        floats = batch["floats"] if "floats" in batch else frames.new_zeros(len(frames), 0)
        return self.policy.head_inputs(frames, floats, taus)

    def _training_taus(self, size: int) -> Tensor:
        """Fractions to train at: (B, N) random ones, or the median alone, (1, 1)."""
        if self.config.full_iqn_random_tau:
            return stratified_taus(size, self.config.num_taus, device=self.device)
        return self._fixed_taus(1)

    def _fixed_taus(self, n: int) -> Tensor:
        return midpoint_taus(1, n, device=self.device)

    def _log(self, part: str, loss: Tensor, parts: dict[str, Tensor], size: int) -> None:
        values = {f"{part}_loss": loss.detach(), f"{part}_bc_loss": parts["bc_loss"].detach()}
        if "value_loss" in parts:
            values[f"{part}_value_loss"] = parts["value_loss"].detach()
        self._log_values(values, size)

    def _log_values(self, values: dict[str, Any], size: int) -> None:
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
