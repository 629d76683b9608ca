"""Losses and counts of behavioural cloning, as pure functions."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.contract.actions import ACTION_NAMES, N_ACTIONS
from datasets.labels import CHANGED, HELD, MASKED
from rl.network.losses import quantile_huber_loss

EFFECTIVE_BETA: Final = 0.9999
"""Samples of an action overlap so much that 1 / (1 - beta) of them are all there is to learn."""


def class_weights(
    counts: npt.NDArray[np.int64], scheme: Literal["inverse", "effective"]
) -> npt.NDArray[np.float32]:
    """Weights of the actions, whose mean over the samples is 1.

    Args:
        counts: (A,) samples of each action.
        scheme: inverse: 1 / n; effective: 1 / (1 - beta^n) (arXiv:1901.05555, eq. 2), which does
            not raise rare actions without limit.

    Returns: (A,) float32; 1 for an action that never occurs.
    """
    n = np.maximum(counts, 1).astype(np.float64)
    raw = 1.0 / (n if scheme == "inverse" else -np.expm1(n * np.log(EFFECTIVE_BETA)))
    weights = raw * counts.sum() / max(float((raw * counts).sum()), 1e-12)
    return np.where(counts > 0, weights, 1.0).astype(np.float32)


def offset_losses(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each offset, the mean over its labelled samples.

    Args:
        logits: (B, K, A).
        labels: (B, K) int64 actions; `MASKED` ones do not count.
        label_smoothing: in [0, 1).
        weights: (A,) of the actions; 1 each when None.

    Returns: (K,) losses in nats, 0 for an offset without any label in the batch.
    """
    flat = F.cross_entropy(
        logits.flatten(0, 1),
        labels.flatten(),
        weight=weights,
        ignore_index=MASKED,
        reduction="none",
        label_smoothing=label_smoothing,
    ).view_as(labels)
    return flat.sum(dim=0) / (labels != MASKED).sum(dim=0).clamp(min=1)


def value_loss(predicted: Tensor, taus: Tensor, returns: Tensor, kappa: float) -> Tensor:
    """Quantile regression of returns, the mean over samples and fractions.

    Args:
        predicted: (B, N) quantiles of the return at `taus`.
        taus: (B, N) or (1, N) quantile fractions.
        returns: (B,) in reward units; NaN where the record ends too early, which does not count.
        kappa: reward units, width of the Huber parabola.

    Returns: the loss in reward units, a scalar; 0 if no sample has a return.
    """
    known = torch.isfinite(returns)
    target = torch.where(known, returns, 0.0).unsqueeze(1)
    loss = quantile_huber_loss(predicted, taus.expand_as(predicted), target, kappa)
    return (loss * known).sum() / known.sum().clamp(min=1) / predicted.shape[1]


def count_predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """Confusion counts.

    Args:
        logits: (B, K, A).
        labels: (B, K) int64 actions or `MASKED`.

    Returns: (K, A, A) int64, true action by predicted action.
    """
    k, a = logits.shape[1:]
    predicted = logits.argmax(dim=2)
    offset = torch.arange(k, device=labels.device).expand_as(labels)
    cell = (offset * a + labels) * a + predicted
    counted = torch.bincount(cell[labels != MASKED], minlength=k * a * a)
    return counted.view(k, a, a)


def count_at_decisions(logits: Tensor, labels: Tensor, decisions: Tensor) -> Tensor:
    """Confusion counts where the driver decides.

    Args:
        logits: (B, K, A).
        labels: (B, K) int64 actions or `MASKED`.
        decisions: (B,) uint8, see `datasets.labels.frame_decisions`.

    Returns: (2, K, A, A) int64: at all decisions, and at those that change the keys; each true
        action by predicted action.
    """
    chosen = (decisions != HELD, decisions == CHANGED)
    return torch.stack([count_predictions(logits[rows], labels[rows]) for rows in chosen])


def decision_accuracies(counts: Tensor) -> dict[str, float]:
    """Accuracy where the driver decides and where it changes keys; left out without such frames.

    Args:
        counts: (2, A, A) of one offset, see `count_at_decisions`.
    """
    names = ("val_acc_decision", "val_acc_change")
    return {
        name: float(matrix.diagonal().sum()) / total
        for name, matrix in zip(names, counts, strict=True)
        if (total := int(matrix.sum()))
    }


def accuracies(counts: Tensor, offsets_ms: Sequence[int]) -> dict[str, float]:
    """Accuracy of each offset from (K, A, A) counts; offsets without labels are left out."""
    found = {}
    for offset, matrix in zip(offsets_ms, counts, strict=True):
        if total := int(matrix.sum()):
            found[f"val_acc_{offset}ms"] = float(matrix.diagonal().sum()) / total
    return found


def recalls(matrix: Tensor) -> dict[str, float]:
    """Share of each action's samples that are predicted right; actions never taken are left out.

    Args:
        matrix: (A, A) counts of one offset, true by predicted.
    """
    found = {}
    for action in range(N_ACTIONS):
        if total := int(matrix[action].sum()):
            found[f"val_recall_{ACTION_NAMES[action]}"] = float(matrix[action, action]) / total
    return found
