"""Losses and counts of behavioural cloning, and which parameters they train."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datasets.labels import CHANGED, HELD, KEPT
from pretrain.bc.losses import (
    accuracies,
    count_at_decisions,
    count_predictions,
    decision_accuracies,
    offset_losses,
    recalls,
    value_loss,
)
from pretrain.bc.module import BCModule
from tests.pretrain_samples import SIDE, bc_config

B, K, A = 5, 3, 12


def _batch(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "frames": torch.randint(0, 256, (B, 1, SIDE, SIDE), dtype=torch.uint8, generator=draw),
        "floats": torch.randn(B, 184, generator=draw),
        "labels": torch.randint(0, A, (B, K), generator=draw),
        "returns": torch.randn(B, generator=draw),
    }


def _module(**changes: Any) -> BCModule:
    torch.manual_seed(3)
    return BCModule(bc_config(Path("x.h5"), Path("y"), **changes))


def test_offset_losses_against_a_loop() -> None:
    logits = torch.randn(B, K, A, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, 3, -1], [1, -1, -1], [2, 11, -1], [-1, 0, -1], [4, 4, -1]])
    for k in range(K):
        terms = [
            -logits[b, k].log_softmax(0)[labels[b, k]].item() for b in range(B) if labels[b, k] >= 0
        ]
        expected = sum(terms) / len(terms) if terms else 0.0
        assert offset_losses(logits, labels)[k].item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_against_a_loop() -> None:
    smoothing = 0.3
    logits = torch.randn(B, 1, A, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0], [3], [11], [-1], [4]])
    terms = []
    for b in (0, 1, 2, 4):
        log_p = logits[b, 0].log_softmax(0)
        truth = log_p[labels[b, 0]]
        terms.append(-float((1 - smoothing) * truth + smoothing * log_p.mean()))
    got = offset_losses(logits, labels, smoothing)
    assert got.item() == pytest.approx(sum(terms) / 4, rel=1e-5)


def test_loss_is_the_weighted_sum_of_its_parts() -> None:
    weights, smoothing = (3.0, 0.25, 7.0), 0.2
    module = _module(
        bc_offset_weights=weights, value_loss_weight=0.6, label_smoothing=smoothing, dropout=0.0
    )
    batch, taus = _batch(), torch.rand(B, 4)
    for training in (True, False):
        module.train(training)
        loss, parts = module.losses(batch, taus)
        smoothed = offset_losses(parts["logits"], batch["labels"], smoothing if training else 0.0)
        torch.testing.assert_close(parts["offset_losses"], smoothed)
        expected = sum(w * each for w, each in zip(weights, smoothed, strict=True))
        torch.testing.assert_close(parts["bc_loss"], expected)
        assert parts["value_loss"] > 0.0
        torch.testing.assert_close(loss, expected + 0.6 * parts["value_loss"])


def test_masked_labels_do_not_contribute() -> None:
    module = _module()
    batch = _batch()
    batch["labels"][2:] = -1
    taus = torch.rand(1, 4)
    module.eval()
    whole = module.losses(batch, taus)[1]["offset_losses"]
    part = {name: tensor[:2] for name, tensor in batch.items()}
    torch.testing.assert_close(whole, module.losses(part, taus)[1]["offset_losses"])
    batch["labels"][:] = -1
    loss = module.losses(batch, taus)[1]["bc_loss"]
    assert loss.item() == 0.0


def test_value_loss_against_a_loop_and_without_unknown_returns() -> None:
    taus = torch.tensor([[0.2, 0.7]])
    predicted = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 3.0]])
    returns = torch.tensor([1.5, 0.0, math.nan])
    kappa, total = 0.1, 0.0
    for b in range(2):
        for n in range(2):
            delta = float(returns[b] - predicted[b, n])
            size = abs(delta)
            huber = size**2 / (2 * kappa) if size < kappa else size - kappa / 2
            total += huber * (1 - float(taus[0, n]) if delta < 0 else float(taus[0, n]))
    got = value_loss(predicted, taus, returns, kappa)
    assert got.item() == pytest.approx(total / 4, rel=1e-5)


def test_cross_entropy_gives_the_value_head_no_gradient() -> None:
    module = _module()
    _, parts = module.losses(_batch(), torch.rand(B, 4))
    parts["bc_loss"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in module.policy.network.V_head.parameters())
    network = module.policy.network
    frames, floats = _batch()["frames"], _batch()["floats"]
    q_values = network.q_values(frames, floats, torch.rand(B, 4))
    torch.nn.functional.cross_entropy(q_values, _batch()["labels"][:, 0]).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in network.V_head.parameters() if p.grad is not None]
    assert gradients
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-6


def test_every_trained_parameter_moves_and_no_other() -> None:
    module = _module(freeze_encoder=True)
    before = {name: p.detach().clone() for name, p in module.policy.named_parameters()}
    optimizer = module.configure_optimizers()
    module.losses(_batch(), torch.rand(B, 4))[0].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {n for n, p in module.policy.named_parameters() if not torch.equal(p, before[n])}
    frozen = {name for name in before if name.startswith("network.img_head.")}
    assert moved == before.keys() - frozen


def test_dropout_is_only_active_in_training() -> None:
    module = _module(dropout=0.5, action_head_dropout=0.5)
    batch, taus = _batch(), torch.rand(1, 4)
    module.eval()
    first, second = (module.losses(batch, taus)[1]["logits"] for _ in range(2))
    assert torch.equal(first, second)
    module.train()
    first, second = (module.losses(batch, taus)[1]["logits"] for _ in range(2))
    assert not torch.equal(first, second)


def test_counts_and_accuracies() -> None:
    labels = torch.tensor([[0, -1, 5], [0, -1, 5], [1, -1, 2], [0, -1, 2], [1, -1, 2]])
    predicted = torch.tensor([[0, 0, 5], [1, 0, 2], [1, 0, 2], [0, 0, 2], [1, 0, 2]])
    logits = torch.nn.functional.one_hot(predicted, A).float()
    counts = count_predictions(logits, labels)
    assert counts.sum(dim=(1, 2)).tolist() == [5, 0, 5]
    assert counts[2, 5, 2] == 1
    found = accuracies(counts, (0, 10, 100))
    assert found == {"val_acc_0ms": 4 / 5, "val_acc_100ms": 4 / 5}
    recalled = recalls(counts[0])
    assert recalled == {
        "val_recall_accelerate": 2 / 3,
        "val_recall_accelerate+left": 1.0,
    }


def test_predictions_at_decisions_are_counted_apart() -> None:
    decisions = torch.tensor([HELD, KEPT, CHANGED, CHANGED, KEPT], dtype=torch.uint8)
    labels = torch.tensor([[1, 2], [3, 3], [4, -1], [5, 6], [-1, 7]])
    predicted = torch.tensor([[1, 2], [3, 0], [4, 4], [0, 6], [0, 7]])
    logits = torch.nn.functional.one_hot(predicted, A).float()
    counts = count_at_decisions(logits, labels, decisions)
    assert counts.shape == (2, 2, A, A)
    assert counts.sum(dim=(2, 3)).tolist() == [[3, 3], [2, 1]]
    assert counts[0, 0, 5, 0] == counts[1, 0, 5, 0] == 1  # true 5, predicted 0
    assert counts[0, 0, 1, 1] == 0  # nobody decides there
    assert decision_accuracies(counts[:, 0]) == {"val_acc_decision": 2 / 3, "val_acc_change": 1 / 2}
    assert decision_accuracies(counts[:, 1]) == {"val_acc_decision": 2 / 3, "val_acc_change": 1.0}
    assert decision_accuracies(torch.zeros_like(counts[:, 1])) == {}
