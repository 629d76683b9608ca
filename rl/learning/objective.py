"""The loss of a batch: targets by plain, double or Munchausen Q-learning, quantile regression."""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from rl.config.learning import BtrConfig, LearningConfig
from rl.config.network import IqnConfig
from rl.network import losses
from rl.network.iqn import IQN, stratified_taus
from rl.network.losses import SelfLossAverages
from rl.replay.transitions import Batch


class Taus(NamedTuple):
    """Quantile fractions of one update; `helper` is shared by the batch."""

    online: Tensor
    """(B, N)."""
    target: Tensor
    """(B, M)."""
    helper: Tensor
    """(1, N) for action values: the selector's, or the current state's of Munchausen."""


class LossTerms(NamedTuple):
    """What an update needs and what is worth logging; only `loss` carries a gradient."""

    loss: Tensor
    """Scalar, reduced over the batch."""
    averages: SelfLossAverages
    td_errors: Tensor
    """(B,) |mean online value - mean target|, in reward units."""
    means: Tensor
    """(4,) batch means: value of the action taken, target, |reward|, |Munchausen bonus|."""
    quantile_std: Tensor
    """(A,) mean standard deviation over an action's quantiles."""


class Objective:
    """Turns a batch into a loss."""

    def __init__(
        self, learning: LearningConfig, btr: BtrConfig, iqn: IqnConfig, dtype: torch.dtype
    ) -> None:
        self._learning, self._btr, self._iqn = learning, btr, iqn
        self._dtype = dtype

    def draw_taus(self, batch: int, generator: torch.Generator, device: torch.device) -> Taus:
        """Draw the fractions for one update of B = `batch`."""

        def draw(rows: int, n: int) -> Tensor:
            return stratified_taus(rows, n, generator=generator, device=device)

        n, m = self._iqn.n, self._iqn.num_taus_target
        return Taus(draw(batch, n), draw(batch, m), draw(1, n))

    def __call__(
        self,
        online: IQN,
        target: IQN,
        batch: Batch,
        taus: Taus,
        averages: SelfLossAverages,
        prior_weight: Tensor | None = None,
    ) -> LossTerms:
        """Compute the loss of `online` on a batch (arXiv:1806.06923, section 3, algorithm 1).

        Args:
            online: the network that is trained.
            target: the network that targets are bootstrapped from; it gets no gradient.
            batch: B transitions.
            taus: quantile fractions of this update.
            averages: running means of the self-loss before this update.
            prior_weight: scalar weight w of the batch's preferences, in reward units; None without
                them.
        """
        with self._products_in_low_precision(batch):
            # Targets: samples r + gamma^n Z_tau'(s', a'), (B, M).
            aim, bonus = self._target(online, target, batch, taus, prior_weight)
            # Online quantiles: Z_tau(s, .), (B, N, A), and those of the actions taken, (B, N).
            features = online.features(batch.frames, batch.floats, batch.images)
            quantiles = online.quantiles(features, taus.online)
        predicted = losses.select_actions(quantiles, batch.actions)
        # Loss: quantile regression of each of the N on each of the M, (B,).
        per_sample = losses.quantile_huber_loss(predicted, taus.online, aim, self._iqn.kappa)
        # Weighting: by the target's own spread, by the importance of the sample; then reduced.
        scale, averages = self._scale(aim, taus, averages)
        weighted = per_sample * scale * batch.weights
        loss = weighted.sum() if self._learning.loss_reduction == "sum" else weighted.mean()
        return _terms(loss, averages, quantiles, predicted, aim, batch.rewards, bonus)

    def _target(
        self,
        online: IQN,
        target: IQN,
        batch: Batch,
        taus: Taus,
        prior_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the (B, M) targets and the (B,) Munchausen bonus in them, 0 without it."""
        if self._btr.use_munchausen:
            return self._munchausen_target(target, batch, taus)
        aim = self._greedy_target(online, target, batch, taus, prior_weight)
        return aim, torch.zeros_like(batch.rewards)

    @torch.no_grad()
    def _greedy_target(
        self,
        online: IQN,
        target: IQN,
        batch: Batch,
        taus: Taus,
        prior_weight: Tensor | None,
    ) -> Tensor:
        """Return (B, M) targets r + gamma^n Z_tau'(s', a*), a* greedy in s'.

        The online network chooses a* in double Q-learning (arXiv:1509.06461), else the target
        network does. With a prior a* maximises Q + w l, as it does in driving: the values that are
        learnt are those of the policy that drives.
        """
        features = target.features(batch.next_frames, batch.next_floats, batch.next_images)
        quantiles = target.quantiles(features, taus.target)
        selector = quantiles.mean(dim=1)
        if self._learning.use_ddqn:
            features = online.features(batch.next_frames, batch.next_floats, batch.next_images)
            selector = online.advantages(features, taus.helper)
        if prior_weight is not None and batch.next_preferences is not None:
            selector = selector.float() + prior_weight * batch.next_preferences.float()
        return losses.greedy_target(batch.rewards, batch.discounts, quantiles, selector)

    @torch.no_grad()
    def _munchausen_target(self, target: IQN, batch: Batch, taus: Taus) -> tuple[Tensor, Tensor]:
        """Return (B, M) soft targets with the scaled log-policy in them, and that (B,) bonus."""
        features = target.features(batch.frames, batch.floats, batch.images)
        next_features = target.features(batch.next_frames, batch.next_floats, batch.next_images)
        return losses.munchausen_target(
            batch.rewards,
            batch.discounts,
            target.quantiles(next_features, taus.target),
            target.q_from_features(features, taus.helper),
            batch.actions,
            alpha=self._btr.munchausen_alpha,
            temperature=self._btr.munchausen_tau,
            clip_min=self._btr.munchausen_l0,
        )

    def _scale(
        self, aim: Tensor, taus: Taus, averages: SelfLossAverages
    ) -> tuple[Tensor | float, SelfLossAverages]:
        """Return (B,) factors by the spread of each target, 1 without them, and new averages."""
        ratio = self._learning.target_self_loss_clamp_ratio
        if ratio is None:
            return 1.0, averages
        spread = losses.target_self_loss(aim, taus.target, self._iqn.kappa)
        return losses.self_loss_scale(spread, averages, ratio)

    def _products_in_low_precision(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(batch.frames.device.type, dtype=self._dtype)


@torch.no_grad()
def _terms(
    loss: Tensor,
    averages: SelfLossAverages,
    quantiles: Tensor,
    predicted: Tensor,
    aim: Tensor,
    rewards: Tensor,
    bonus: Tensor,
) -> LossTerms:
    """Add to the loss what priorities and logs are made of; only the loss carries a gradient."""
    value, aimed = predicted.mean(dim=1), aim.mean(dim=1)
    logged = (value, aimed, rewards.abs(), bonus.abs())
    means = torch.stack([part.mean() for part in logged])
    std = quantiles.std(dim=1, correction=0).mean(dim=0)
    return LossTerms(loss, averages, (value - aimed).abs(), means, std)
