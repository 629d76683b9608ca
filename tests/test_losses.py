"""Losses against plain loops, in value and in gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rl.network.losses import (
    SelfLossAverages,
    greedy_target,
    munchausen_target,
    quantile_huber_loss,
    select_actions,
    self_loss_scale,
    target_self_loss,
)

B, N, M, A = 3, 5, 7, 4


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def fractions(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def assert_same_with_gradient(
    loss: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], at: Tensor
) -> None:
    value, expected = loss(at), reference(at)
    assert value.shape == expected.shape
    torch.testing.assert_close(value, expected)
    weights = torch.arange(1.0, len(value) + 1, dtype=value.dtype)
    (gradient,) = torch.autograd.grad((value * weights).sum(), at)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), at)
    assert expected_gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("kappa", [0.005, 0.4, 3.0])
def test_quantile_huber_loss_equals_a_triple_loop(kappa: float) -> None:
    taus, target = fractions(B, N), rand(B, M, seed=1).detach()

    def reference(predicted: Tensor) -> Tensor:
        losses = []
        for b in range(B):
            total = torch.zeros((), dtype=torch.float64)
            for i in range(N):
                for j in range(M):
                    d = target[b, j] - predicted[b, i]
                    size = d.abs()
                    huber = d**2 / (2 * kappa) if size < kappa else size - kappa / 2
                    weight = taus[b, i] if d >= 0 else 1 - taus[b, i]
                    total = total + weight * huber / M
            losses.append(total)
        return torch.stack(losses)

    assert_same_with_gradient(
        lambda p: quantile_huber_loss(p, taus, target, kappa), reference, rand(B, N)
    )


def test_quantile_huber_loss_has_its_minimum_at_the_quantiles() -> None:
    samples = torch.linspace(0.0, 1.0, 401, dtype=torch.float64).view(1, -1)
    taus = torch.tensor([[0.1, 0.5, 0.8]], dtype=torch.float64)
    at_quantiles = quantile_huber_loss(taus.clone(), taus, samples, 1e-3)
    for shift in (-0.02, 0.02):
        assert quantile_huber_loss(taus + shift, taus, samples, 1e-3) > at_quantiles


def test_no_gradient_flows_into_the_target() -> None:
    target = rand(B, M)
    loss = quantile_huber_loss(rand(B, N, seed=2), fractions(B, N), target, 1.0)
    torch.autograd.backward(loss.sum())
    assert target.grad is None


@pytest.mark.parametrize(
    ("predicted", "taus", "target"),
    [
        ((B, N), (N, B), (B, M)),
        ((B, N), (B, M), (B, M)),
        ((B, N), (B, N), (M, B)),
        ((B, N, A),) * 3,
    ],
)
def test_quantile_huber_loss_refuses_wrong_shapes(
    predicted: tuple[int, ...], taus: tuple[int, ...], target: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expected shape"):
        quantile_huber_loss(torch.zeros(predicted), torch.zeros(taus), torch.zeros(target), 1.0)


def test_select_actions_picks_each_rows_action() -> None:
    quantiles, actions = rand(B, N, A), torch.tensor([2, 0, 3])
    expected = torch.stack([quantiles[b, :, int(actions[b])] for b in range(B)])
    torch.testing.assert_close(select_actions(quantiles, actions), expected)


def test_target_self_loss_is_the_root_of_the_loss_against_itself() -> None:
    target, taus = rand(B, M).detach(), fractions(B, M)
    expected = quantile_huber_loss(target, taus, target, 0.5).sqrt()
    torch.testing.assert_close(target_self_loss(target, taus, 0.5), expected)


def test_self_loss_scale_follows_its_recurrence() -> None:
    averages = SelfLossAverages.initial()
    typical = typical_clamped = 0.01
    for seed in range(3):
        losses = rand(B, seed=seed).detach().abs().float()
        scale, averages = self_loss_scale(losses, averages, clamp_ratio=4.0)
        typical = 0.99 * typical + 0.01 * float(losses.mean())
        clamped = [max(float(loss), typical / 4.0) for loss in losses]
        typical_clamped = 0.99 * typical_clamped + 0.01 * sum(clamped) / B
        expected = torch.tensor([typical_clamped / c for c in clamped])
        torch.testing.assert_close(scale, expected)


def test_self_loss_scale_bounds_the_factor_of_a_certain_target() -> None:
    averages = SelfLossAverages(torch.tensor(1.0), torch.tensor(1.0))
    scale, _ = self_loss_scale(torch.tensor([0.0, 1.0]), averages, clamp_ratio=4.0)
    assert 3.9 < scale[0] < 4.1


def test_greedy_target_takes_the_selectors_action_from_the_target_network() -> None:
    rewards, discounts = rand(B).detach(), torch.tensor([0.9, 0.0, 0.5], dtype=torch.float64)
    quantiles, selector = rand(B, M, A, seed=1).detach(), rand(B, A, seed=2).detach()
    target = greedy_target(rewards, discounts, quantiles, selector)
    assert target.shape == (B, M)
    for b in range(B):
        best = max(range(A), key=lambda a: float(selector[b, a]))
        for j in range(M):
            expected = rewards[b] + discounts[b] * quantiles[b, j, best]
            torch.testing.assert_close(target[b, j], expected)
    torch.testing.assert_close(target[1], rewards[1].expand(M))


def test_munchausen_target_equals_a_loop() -> None:
    alpha, temperature, clip_min = 0.9, 0.3, -1.0
    rewards, discounts = rand(B).detach(), torch.tensor([0.9, 0.0, 0.5], dtype=torch.float64)
    quantiles, q = rand(B, M, A, seed=1).detach(), rand(B, A, seed=2).detach()
    actions = torch.tensor([2, 0, 3])
    result = munchausen_target(
        rewards,
        discounts,
        quantiles,
        q,
        actions,
        alpha=alpha,
        temperature=temperature,
        clip_min=clip_min,
    )

    def softmax(values: list[float]) -> list[float]:
        weights = [math.exp(v / temperature) for v in values]
        return [w / sum(weights) for w in weights]

    for b in range(B):
        taken = softmax(q[b].tolist())[int(actions[b])]
        bonus = alpha * max(temperature * math.log(taken), clip_min)
        assert float(result.bonus[b]) == pytest.approx(bonus)
        policy = softmax(quantiles[b].mean(dim=0).tolist())
        for j in range(M):
            soft = sum(
                p * (float(quantiles[b, j, a]) - temperature * math.log(p))
                for a, p in enumerate(policy)
            )
            expected = float(rewards[b]) + bonus + float(discounts[b]) * soft
            assert float(result.target[b, j]) == pytest.approx(expected)


def test_munchausen_bonus_is_clipped() -> None:
    q = torch.tensor([[100.0, 0.0]])
    result = munchausen_target(
        torch.zeros(1), torch.zeros(1), torch.zeros(1, M, 2), q, torch.tensor([1])
    )
    assert float(result.bonus[0]) == pytest.approx(-0.9)
