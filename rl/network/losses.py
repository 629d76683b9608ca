"""Losses and targets as pure functions, with shapes checked.

Letters: B batch, N quantile fractions of the online network, M of the target network, A actions.
`discounts` are (B,) and include gamma to the n; 0 stands for a terminal next state.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `tensor` has `shape`; None stands for any length."""
    fits = tensor.ndim == len(shape) and all(
        expected in (None, got) for expected, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: expected shape ({wanted}), got {tuple(tensor.shape)}")


def select_actions(quantiles: Tensor, actions: Tensor) -> Tensor:
    """Pick from (B, N, A) quantile values those of the (B,) integer actions: (B, N)."""
    _check("quantiles", quantiles, (None, None, None))
    _check("actions", actions, (quantiles.shape[0],))
    batch, num_taus, _ = quantiles.shape
    index = actions.long().view(batch, 1, 1).expand(batch, num_taus, 1)
    return quantiles.gather(2, index).squeeze(2)


def quantile_huber_loss(predicted: Tensor, taus: Tensor, target: Tensor, kappa: float) -> Tensor:
    """Quantile regression with a Huber kernel, per sample.

    Args:
        predicted: (B, N) quantile values at `taus`, in reward units.
        taus: (B, N) quantile fractions in [0, 1].
        target: (B, M) samples of the target distribution; no gradient flows into it.
        kappa: reward units > 0. The kernel is d^2 / (2 kappa) within it, |d| - kappa / 2 beyond.

    Returns: (B,) loss, sum over N, mean over M (arXiv:1806.06923, eq. 3, in the |d| scale).

    Raises: ValueError if the shapes do not fit.
    """
    _check("predicted", predicted, (None, None))
    _check("taus", taus, (predicted.shape[0], predicted.shape[1]))
    _check("target", target, (predicted.shape[0], None))
    delta = target.detach().unsqueeze(1) - predicted.unsqueeze(2)  # (B, N, M)
    size = delta.abs()
    huber = torch.where(size < kappa, delta.square() * (0.5 / kappa), size - 0.5 * kappa)
    weight = torch.where(delta < 0, 1.0 - taus.unsqueeze(2), taus.unsqueeze(2))
    return (weight * huber).mean(dim=2).sum(dim=1)


def target_self_loss(target: Tensor, taus: Tensor, kappa: float) -> Tensor:
    """Square root of the loss of the target's quantiles against themselves: their own spread.

    Args:
        target: (B, M) quantile values at `taus`.
        taus: (B, M) quantile fractions in [0, 1].
        kappa: as in `quantile_huber_loss`.

    Returns: (B,) without gradient.
    """
    with torch.no_grad():
        return quantile_huber_loss(target, taus, target, kappa).sqrt()


class SelfLossAverages(NamedTuple):
    """Running means that scale the loss: of the self-loss, and of its clamped value. Scalars."""

    typical: Tensor
    typical_clamped: Tensor

    @classmethod
    def initial(cls, device: torch.device | str | None = None) -> "SelfLossAverages":
        """Both averages at their start, 0.01."""
        return cls(torch.tensor(0.01, device=device), torch.tensor(0.01, device=device))


def self_loss_scale(
    self_loss: Tensor, averages: SelfLossAverages, clamp_ratio: float, decay: float = 0.99
) -> tuple[Tensor, SelfLossAverages]:
    """Factor on each sample's loss that makes samples of different spread count alike.

    Args:
        self_loss: (B,) from `target_self_loss`.
        averages: running means before this batch.
        clamp_ratio: > 0; a self-loss counts as at least the running mean over this ratio.
        decay: of the running means, in [0, 1).

    Returns: (B,) factors without gradient, and the running means after this batch.
    """
    _check("self_loss", self_loss, (None,))
    with torch.no_grad():
        typical = decay * averages.typical + (1.0 - decay) * self_loss.mean()
        clamped = torch.maximum(self_loss, typical / clamp_ratio)
        typical_clamped = decay * averages.typical_clamped + (1.0 - decay) * clamped.mean()
        return typical_clamped / clamped, SelfLossAverages(typical, typical_clamped)


def greedy_target(
    rewards: Tensor, discounts: Tensor, next_quantiles: Tensor, selector: Tensor
) -> Tensor:
    """Bootstrapped target of the action that `selector` likes best.

    Double DQN (arXiv:1509.06461) is `selector` from the online network; plain Q-learning is the
    mean of `next_quantiles` itself.

    Args:
        rewards: (B,) n-step sums.
        discounts: (B,).
        next_quantiles: (B, M, A) of the target network in the next state.
        selector: (B, A) action values in the next state.

    Returns: (B, M) without gradient.
    """
    batch, _, num_actions = next_quantiles.shape
    _check("rewards", rewards, (batch,))
    _check("discounts", discounts, (batch,))
    _check("selector", selector, (batch, num_actions))
    with torch.no_grad():
        following = select_actions(next_quantiles, selector.argmax(dim=1))
        return rewards.unsqueeze(1) + discounts.unsqueeze(1) * following


class MunchausenTarget(NamedTuple):
    """Target (B, M), and the bonus (B,) within it, to be compared with the rewards."""

    target: Tensor
    bonus: Tensor


def munchausen_target(
    rewards: Tensor,
    discounts: Tensor,
    next_quantiles: Tensor,
    q: Tensor,
    actions: Tensor,
    *,
    alpha: float = 0.9,
    temperature: float = 0.03,
    clip_min: float = -1.0,
) -> MunchausenTarget:
    """Soft target with the scaled log-policy as a bonus (arXiv:2007.14430, eq. 2 and section 3).

    Args:
        rewards: (B,) n-step sums.
        discounts: (B,).
        next_quantiles: (B, M, A) of the target network in the next state.
        q: (B, A) action values of the target network in the current state.
        actions: (B,) integer actions taken in the current state.
        alpha: weight of the bonus, in [0, 1].
        temperature: of the softmax policy, reward units > 0.
        clip_min: lower bound of temperature * log-policy, reward units < 0.

    Returns: target and bonus, without gradient.
    """
    batch, _, num_actions = next_quantiles.shape
    _check("rewards", rewards, (batch,))
    _check("discounts", discounts, (batch,))
    _check("q", q, (batch, num_actions))
    _check("actions", actions, (batch,))
    with torch.no_grad():
        log_policy = F.log_softmax(q / temperature, dim=1)
        taken = log_policy.gather(1, actions.long().unsqueeze(1)).squeeze(1)
        bonus = alpha * (temperature * taken).clamp(clip_min, 0.0)
        next_log_policy = F.log_softmax(next_quantiles.mean(dim=1) / temperature, dim=1)
        soft = next_quantiles - temperature * next_log_policy.unsqueeze(1)
        following = (next_log_policy.exp().unsqueeze(1) * soft).sum(dim=2)
        target = (rewards + bonus).unsqueeze(1) + discounts.unsqueeze(1) * following
        return MunchausenTarget(target, bonus)
