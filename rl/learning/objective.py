"""The loss of a batch: targets by plain, double or Munchausen Q-learning, quantile regression."""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from rl.config.learning import BtrConfig, LearningConfig
from rl.config.network import IqnConfig
from rl.network import losses
from rl.network.encoders import normalise_frames
from rl.network.iqn import IQN, stratified_taus
from rl.network.losses import SelfLossAverages
from rl.replay.batch import Batch


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
        """Fractions for one update of B = `batch`."""

        def draw(rows: int, n: int) -> Tensor:
            return stratified_taus(rows, n, generator=generator, device=device)

        n, m = self._iqn.n, self._iqn.num_taus_target
        return Taus(draw(batch, n), draw(batch, m), draw(1, n))

    def __call__(
        self, online: IQN, target: IQN, batch: Batch, taus: Taus, averages: SelfLossAverages
    ) -> LossTerms:
        """The loss of `online` on a batch."""
        kappa = self._iqn.kappa
        with self._products_in_low_precision(batch):
            aim, bonus = self._target(online, target, batch, taus)
            features = online.features(batch.frames, batch.floats)
            quantiles = online.quantiles(features, taus.online)
        predicted = losses.select_actions(quantiles, batch.actions)
        per_sample = losses.quantile_huber_loss(predicted, taus.online, aim, kappa)
        ratio = self._learning.target_self_loss_clamp_ratio
        if ratio is not None:
            spread = losses.target_self_loss(aim, taus.target, kappa)
            scale, averages = losses.self_loss_scale(spread, averages, ratio)
            per_sample = per_sample * scale
        weighted = per_sample * batch.weights
        loss = weighted.sum() if self._learning.loss_reduction == "sum" else weighted.mean()
        with torch.no_grad():
            value, aimed = predicted.mean(dim=1), aim.mean(dim=1)
            logged = (value, aimed, batch.rewards.abs(), bonus.abs())
            means = torch.stack([part.mean() for part in logged])
            std = quantiles.std(dim=1, correction=0).mean(dim=0)
            return LossTerms(loss, averages, (value - aimed).abs(), means, std)

    @torch.no_grad()
    def _target(self, online: IQN, target: IQN, batch: Batch, taus: Taus) -> tuple[Tensor, Tensor]:
        """(B, M) target and (B,) Munchausen bonus, 0 without it."""
        next_frames = normalise_frames(batch.next_frames)
        features = target.features(next_frames, batch.next_floats)
        quantiles = target.quantiles(features, taus.target)
        if self._btr.use_munchausen:
            found = losses.munchausen_target(
                batch.rewards,
                batch.discounts,
                quantiles,
                target.q_values(batch.frames, batch.floats, taus.helper),
                batch.actions,
                alpha=self._btr.munchausen_alpha,
                temperature=self._btr.munchausen_tau,
                clip_min=self._btr.munchausen_l0,
            )
            return found.target, found.bonus
        selector = quantiles.mean(dim=1)
        if self._learning.use_ddqn:
            features = online.features(next_frames, batch.next_floats)
            selector = online.advantages(features, taus.helper)
        aim = losses.greedy_target(batch.rewards, batch.discounts, quantiles, selector)
        return aim, torch.zeros_like(batch.rewards)

    def _products_in_low_precision(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(batch.frames.device.type, dtype=self._dtype)
