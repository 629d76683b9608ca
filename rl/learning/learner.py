"""The learner: a batch in, better weights out. No processes, no environments."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rl.config.learning import BtrConfig, LearningConfig
from rl.config.network import NetworkConfig
from rl.learning.followers import average_rate, follow
from rl.learning.objective import LossTerms, Objective
from rl.learning.open_columns import (
    Spans,
    checked_columns,
    mask_gradients,
    open_columns,
    others_kept,
    padded_columns,
)
from rl.learning.optimizer import (
    LAYER_NORMS_EVERY_GRAD_STEPS,
    build_optimizer,
    clip,
    gradients,
    layer_norms,
    load_moments,
    moments,
)
from rl.learning.resets import partial_reset
from rl.network.freezing import frozen_parts, train_mode
from rl.network.iqn import IQN
from rl.network.layers import resample_noise, set_noise
from rl.network.losses import SelfLossAverages
from rl.network.parts import multiplicative_weight_decay, set_learning_rate
from rl.replay.transitions import Batch

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LearnerStats:
    """What one update did."""

    loss: float
    grad_norm_before_clip: float
    grad_norm_after_clip: float
    skipped: bool
    """The loss or its gradient was useless, and the weights were left alone."""
    mean_q: float
    """Mean value of the actions taken, in reward units."""
    mean_target: float
    mean_abs_reward: float
    mean_abs_munchausen: float
    td_errors: npt.NDArray[np.float32]
    """(B,) |mean online value - mean target|, for priorities."""
    quantile_std: npt.NDArray[np.float32]
    """(A,) mean spread of each action's quantiles."""
    layer_norms: Mapping[str, float]
    """Gradient norms before clipping by `<parameter>/L2` and `/Linf`; empty in most updates."""


@dataclass(slots=True)
class LearnerCounters:
    """Counts over the whole run."""

    grad_steps: int = 0
    memories_used: int = 0
    memories_since_target_update: int = 0
    target_updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0


class Learner:
    """Online, target and averaged network, their optimizer and their random state.

    Attributes:
        online: the network that is trained.
        target: follows it softly.
        averaged: running average of its weights, None if `averaging_decay` is 0.
        optimizer: five named groups whose layout never changes.
        counters: counts over the whole run.
        frozen: parts that are frozen now.
        padded: columns of the heads for features that they were trained without.
    """

    def __init__(
        self,
        network: NetworkConfig,
        learning: LearningConfig,
        btr: BtrConfig | None = None,
        *,
        averaging_decay: float = 0.0,
        seed: int = 0,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """Build the networks.

        Args:
            network: the architecture and the options of its parts.
            learning: the update rule.
            btr: Munchausen options; None for none.
            averaging_decay: share of the averaged weights kept per update, 0 for no average.
            seed: of the initial weights, the quantile fractions and the noise.
            device: where the networks live.
            dtype: number format of the products.
            compiled: compile the loss with torch.compile.
        """
        self.network, self.learning = network, learning
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.online = self._new_network()
        self.target = self._copy_of_online()
        self.averaged = self._copy_of_online() if averaging_decay > 0.0 else None
        self._averaging_decay = averaging_decay
        set_noise(self.target, True)
        self.optimizer = build_optimizer(self.online, network, learning)
        self.counters = LearnerCounters()
        self._averages = SelfLossAverages.initial(device)
        self.objective = Objective(learning, btr or BtrConfig(), network.iqn, dtype)
        self._loss = torch.compile(self.objective.__call__) if compiled else self.objective
        self.frozen = train_mode(self.online, network, 0)
        self.padded: Spans = {}
        self._open: Spans = {}

    @property
    def followers(self) -> list[IQN]:
        """The networks that follow the online one: target, and averaged if there is one."""
        return [self.target] if self.averaged is None else [self.target, self.averaged]

    def network_to_evaluate(self, *, use_averaged: bool) -> tuple[IQN, str]:
        """Return the network to evaluate and its name in logs, `averaged` or `raw`.

        Args:
            use_averaged: take the averaged weights, if there are any.
        """
        if self.averaged is not None and use_averaged:
            return self.averaged, "averaged"
        return self.online, "raw"

    def _new_network(self) -> IQN:
        """Build a network whose initial weights depend on the learner's random state alone."""
        seed = int(torch.randint(2**62, (1,), generator=self.generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return IQN(self.network).to(self.device)

    def _copy_of_online(self) -> IQN:
        copy = self._new_network()
        copy.load_state_dict(self.online.state_dict())
        return copy.eval().requires_grad_(False)

    # -- one update -----------------------------------------------------------------------------

    def step(
        self, batch: Batch, *, learning_rate: float, frames: int = 0, prior_weight: float = 0.0
    ) -> LearnerStats:
        """Train on a batch.

        Args:
            batch: B transitions.
            learning_rate: base rate; each part has its own factor on it.
            frames: observations driven so far, which decide what is still frozen.
            prior_weight: present weight w of the prior, if the batch has its preferences.

        Returns:
            What was done. A loss or gradient that is not finite, or explodes, changes no weight.
        """
        self.update_freeze(frames)
        set_learning_rate(self.optimizer, learning_rate, self.network)
        terms = self._terms(batch, prior_weight)
        self.optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        mask_gradients(self.online, self._open)
        norm = torch.nn.utils.get_total_norm(gradients(self.online))
        loss, before = torch.stack((terms.loss.detach(), norm)).tolist()
        measured = self.counters.grad_steps % LAYER_NORMS_EVERY_GRAD_STEPS == 0
        layers = layer_norms(self.online) if measured else {}
        usable = np.isfinite(loss) and before <= self.learning.exploding_gradient_norm
        after = self._apply(terms, norm, len(batch)) if usable else 0.0
        self._count(len(batch), skipped=not usable)
        self.optimizer.zero_grad(set_to_none=True)
        return _stats(terms, loss, before, after, skipped=not usable, layers=layers)

    @torch.no_grad()
    def evaluate(self, batch: Batch, *, prior_weight: float = 0.0) -> LearnerStats:
        """Return the loss of a batch without learning from it, as for the test transitions.

        The network stays in training mode, so that noise acts as it does in an update. Its buffers
        are restored afterwards: spectral norm improves its singular vectors in each forward pass.
        """
        before = [buffer.clone() for buffer in self.online.buffers()]
        terms = self._terms(batch, prior_weight)
        for buffer, value in zip(self.online.buffers(), before, strict=True):
            buffer.copy_(value)
        return _stats(terms, float(terms.loss), 0.0, 0.0, skipped=False)

    def _terms(self, batch: Batch, prior_weight: float) -> LossTerms:
        if "vis" not in self.frozen:
            batch = batch.without_images()
        batch = batch.to(self.device)
        weight = None
        if batch.next_preferences is not None:  # a tensor, which compiled code takes as it comes
            weight = torch.tensor(prior_weight, device=self.device)
        if self.network.decoder.noisy:
            resample_noise(self.online, self.generator)
            resample_noise(self.target, self.generator)
        taus = self.objective.draw_taus(len(batch), self.generator, self.device)
        terms: LossTerms = self._loss(self.online, self.target, batch, taus, self._averages, weight)
        return terms

    def _apply(self, terms: LossTerms, norm: torch.Tensor, batch_size: int) -> float:
        """Clip, update, and let the other networks follow. Returns the norm after clipping."""
        after = clip(self.online, norm, self.learning)
        with others_kept(self.online, self._open):
            self.optimizer.step()
            multiplicative_weight_decay(self.optimizer, self.learning.weight_decay_lr_ratio)
        self._averages = terms.averages
        counters, learning = self.counters, self.learning
        if self.averaged is not None:
            rate = average_rate(self._averaging_decay, counters.grad_steps)
            follow(self.averaged, self.online, rate)
        counters.memories_since_target_update += batch_size
        interval = learning.number_memories_trained_on_between_target_network_updates
        if counters.memories_since_target_update >= interval:
            counters.memories_since_target_update %= interval
            counters.target_updates += 1
            follow(self.target, self.online, learning.soft_update_tau)
        counters.grad_steps += 1
        return float(after)

    def _count(self, batch_size: int, *, skipped: bool) -> None:
        self.counters.memories_used += batch_size
        self.counters.skipped += skipped
        self.counters.skipped_in_a_row = self.counters.skipped_in_a_row + 1 if skipped else 0

    @property
    def is_lost(self) -> bool:
        """Whether so many batches in a row were skipped that good weights should be restored."""
        limit = self.learning.skipped_batches_before_rollback
        return self.counters.skipped_in_a_row >= limit

    @property
    def is_sound(self) -> bool:
        """Whether the weights may be kept: they are finite, and the last batch could be used."""
        if self.counters.skipped_in_a_row > 0:
            return False
        norm = torch.nn.utils.get_total_norm(list(self.online.parameters()))
        return bool(torch.isfinite(norm))

    @property
    def has_settled_encoder(self) -> bool:
        """Whether the image encoder is frozen, and that of the target network is the same."""
        return "vis" in self.frozen and self.online.has_encoder_of(self.target)

    def settle_encoder(self) -> None:
        """Copy a frozen image encoder to the target network, which would only come to it slowly."""
        own, target = self.online.img_head, self.target.img_head
        if "vis" in self.frozen and own is not None and target is not None:
            target.load_state_dict(own.state_dict())

    def use_options(self, network: NetworkConfig) -> None:
        """Freeze parts and scale their rates as `network` says, which is of the same architecture.

        What is frozen is that of a run's start; `update_freeze` follows.
        """
        self.network = network
        for model in (self.online, *self.followers):
            model.config = network
        self.update_freeze(0)

    def update_freeze(self, frames: int) -> None:
        """Freeze and unfreeze the parts for `frames` driven observations."""
        if frozen_parts(self.network, frames) != self.frozen:
            self.frozen = train_mode(self.online, self.network, frames)
        self._open = open_columns(self.online, self.padded, self.frozen)

    # -- other changes of the weights -----------------------------------------------------------

    def synchronise(self) -> None:
        """Copy the online weights to the followers, as after loading pretrained parts."""
        for follower in self.followers:
            follow(follower, self.online, 1.0)

    def find_padded_columns(self) -> None:
        """Note which columns of the heads are padding, as after loading pretrained parts.

        They are trained even while their head is frozen.
        """
        self.padded = padded_columns(self.online)

    def reset(self) -> None:
        """Mix fresh weights into the online network."""
        with others_kept(self.online, self._open):
            partial_reset(self.online, self._new_network(), self.learning)

    # -- saving ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that the next update depends on."""
        counters = self.counters
        return {
            "online": _weights(self.online),
            "target": _weights(self.target),
            "averaged": _weights(self.averaged) if self.averaged is not None else {},
            "optimizer": moments(self.online, self.optimizer),
            "padded": dict(self.padded),
            "self_loss": torch.stack(list(self._averages)),
            "generator": self.generator.get_state(),
            "counters": {name: getattr(counters, name) for name in counters.__slots__},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; freezing and learning rates may differ.

        Raises:
            RuntimeError, ValueError: weights or moments of another network.
        """
        self.load_weights(state)
        load_moments(self.online, self.optimizer, state["optimizer"])
        typical, clamped = state["self_loss"].to(self.device).unbind()
        self._averages = SelfLossAverages(typical.clone(), clamped.clone())
        self.generator.set_state(state["generator"])
        self.counters = LearnerCounters(**state["counters"])

    def load_weights(self, state: Mapping[str, Any], *, keep_optimizer: bool = False) -> None:
        """Take the networks alone from a saved state, and its moments if `keep_optimizer`.

        Raises:
            RuntimeError, ValueError: weights or moments of another network.
        """
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"] or state["online"])
        self.find_padded_columns()  # all that states of before can say
        self.padded = checked_columns(self.online, state.get("padded", self.padded))
        if keep_optimizer:
            load_moments(self.online, self.optimizer, state["optimizer"])


def _weights(network: IQN) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _stats(
    terms: LossTerms,
    loss: float,
    before: float,
    after: float,
    *,
    skipped: bool,
    layers: Mapping[str, float] | None = None,
) -> LearnerStats:
    value, aimed, reward, bonus = terms.means.tolist()
    return LearnerStats(
        loss=loss,
        grad_norm_before_clip=before,
        grad_norm_after_clip=after,
        skipped=skipped,
        mean_q=value,
        mean_target=aimed,
        mean_abs_reward=reward,
        mean_abs_munchausen=bonus,
        td_errors=terms.td_errors.float().cpu().numpy(),
        quantile_std=terms.quantile_std.detach().float().cpu().numpy(),
        layer_norms=layers or {},
    )
