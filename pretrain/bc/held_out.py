"""What the exported weights predict on the held-out frames: tables, pictures, calibration."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from datasets.batches import Batch
from datasets.contract.actions import ACTION_NAMES
from datasets.contract.files import atomic_path
from datasets.labels import MASKED
from datasets.modules import ReplayModule
from pretrain.bc.config import BCConfig
from pretrain.bc.losses import count_at_decisions, count_predictions, decision_accuracies
from pretrain.bc.module import BCModule
from pretrain.bc.pictures import save_confusion, save_reliability
from pretrain.bc.temperature import fit_temperature, reliability

MAX_FRAMES: Final = 2**18
"""Frames whose logits are held to fit the temperature: evenly spread, about 12 MB."""


@dataclass(frozen=True)
class HeldOut:
    """Predictions on the held-out frames.

    Attributes:
        counts: (K, A, A) true action by predicted action, of each offset.
        decision_counts: (2, K, A, A) the same where the driver decides and where it changes keys.
        main: place of the main offset among the K.
        logits: (n, A) of the main offset, of some of the frames.
        labels: (n,) its actions.
        temperature: fitted to these; 1 if there are none.
    """

    counts: Tensor
    decision_counts: Tensor
    main: int
    logits: Tensor
    labels: Tensor
    temperature: float

    def metrics(self) -> dict[str, float]:
        """Accuracy of the main offset at decisions; calibration with and without temperature."""
        found = decision_accuracies(self.decision_counts[:, self.main])
        if not len(self.labels):
            return found
        before = reliability(self.logits, self.labels)
        after = reliability(self.logits, self.labels, self.temperature)
        return found | {
            "val_ece": before.error,
            "val_ece_at_temperature": after.error,
            "val_temperature": self.temperature,
        }


def predict_held_out(module: BCModule, data: ReplayModule, device: torch.device) -> HeldOut:
    """Let the kept weights predict all held-out frames.

    Args:
        module: on the CPU; it is there again afterwards.
        data: of the stage.
        device: to predict on.

    Returns: the predictions, on the CPU.
    """
    counts, logits, labels = torch.zeros_like(module.confusion), [], []
    decision_counts = torch.zeros_like(module.decision_confusion)
    main = module.config.bc_time_offsets_ms.index(module.config.main_offset_ms)
    stride = -(-len(data.frames_of("val")) // MAX_FRAMES)
    module.to(device).eval()
    for batch in data.held_out():
        inputs = (name for name in ("frames", "floats") if name in batch)
        seen: Batch = {name: batch[name].to(device) for name in inputs}
        predicted, wanted = module.predict(seen).cpu(), batch["labels"]
        counts += count_predictions(predicted, wanted)
        decision_counts += count_at_decisions(predicted, wanted, batch["decisions"])
        # Indices copy the rows that are held; a slice would keep all of them in memory.
        rows = torch.nonzero(wanted[:, main] != MASKED).flatten()[::stride]
        logits.append(predicted[rows, main].float())
        labels.append(wanted[rows, main])
    module.cpu()
    held, true = torch.cat(logits), torch.cat(labels)
    temperature = fit_temperature(held, true) if len(true) else 1.0
    return HeldOut(counts, decision_counts, main, held, true, temperature)


def save_held_out(config: BCConfig, root: Path, held_out: HeldOut) -> None:
    """Write `held_out.csv`, `confusion.png` and `reliability.png` into a run folder."""
    title = f"{config.run_name}: held-out frames, offset {config.main_offset_ms} ms"
    save_confusion(root / "confusion.png", held_out.counts[held_out.main].numpy(), title)
    if len(held_out.labels):
        both = {
            "as trained": reliability(held_out.logits, held_out.labels),
            f"temperature {held_out.temperature:.2f}": reliability(
                held_out.logits, held_out.labels, held_out.temperature
            ),
        }
        save_reliability(root / "reliability.png", both, title)
    with atomic_path(root / "held_out.csv") as temporary:
        temporary.write_text(_table(config, held_out), encoding="utf-8")


def _table(config: BCConfig, held_out: HeldOut) -> str:
    """Recall and precision of each offset and action; blank where there is nothing to divide by.

    The recalls at the frames where the driver decides, and where it changes its keys, follow.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("offset_ms", "action", "frames", "predicted", "recall", "precision"),
            *("decision_frames", "decision_recall", "change_frames", "change_recall"),
        ]
    )
    for place, offset in enumerate(config.bc_time_offsets_ms):
        matrix = held_out.counts[place]
        for action, name in enumerate(ACTION_NAMES):
            frames, guesses = int(matrix[action].sum()), int(matrix[:, action].sum())
            shares = [_share(matrix[action, action], n) for n in (frames, guesses)]
            row = [offset, name, frames, guesses, *shares]
            for counts in held_out.decision_counts[:, place, action]:
                row += [int(counts.sum()), _share(counts[action], int(counts.sum()))]
            writer.writerow(row)
    return text.getvalue()


def _share(hits: Tensor, of: int) -> str:
    return f"{int(hits) / of:.4f}" if of else ""
