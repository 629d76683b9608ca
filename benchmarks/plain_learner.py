"""The learner's step as a reader of the papers would write it: what the learner is compared with.

IQN (arXiv:1806.06923) with dueling heads, double DQN, n-step targets and soft target updates, in
plain PyTorch modules and float32. Module names equal the network's, so that weights fit both.
"""

import math

import torch
from torch import Tensor, nn

from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD
from rl.config.learning import LearningConfig
from rl.config.network import NetworkConfig
from rl.learning.objective import Taus
from rl.replay.transitions import Batch

TYPICAL = 0.01


class PlainIQN(nn.Module):
    """The default network, written in one page."""

    def __init__(self, config: NetworkConfig, image_features: int) -> None:
        super().__init__()
        c1, c2, c3, c4 = config.vis.cnn.resolved_channels
        hidden, half = config.floats.hidden_dimension, config.decoder.dense_hidden_dimension // 2
        dimension = image_features + hidden
        self.embedding = config.iqn.embedding_dimension
        self.img_head = nn.Sequential(
            nn.Conv2d(1, c1, 4, 2),
            nn.LeakyReLU(),
            nn.Conv2d(c1, c2, 4, 2),
            nn.LeakyReLU(),
            nn.Conv2d(c2, c3, 3, 2),
            nn.LeakyReLU(),
            nn.Conv2d(c3, c4, 3, 1),
            nn.LeakyReLU(),
            nn.Flatten(),
        )
        self.float_feature_extractor = nn.Sequential(
            nn.Linear(config.floats.n_floats, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(),
        )
        self.iqn_fc = nn.Sequential(nn.Linear(self.embedding, dimension), nn.LeakyReLU())
        self.A_head = nn.Sequential(
            nn.Linear(dimension, half), nn.LeakyReLU(), nn.Linear(half, N_ACTIONS)
        )
        self.V_head = nn.Sequential(nn.Linear(dimension, half), nn.LeakyReLU(), nn.Linear(half, 1))
        self.mean, self.std = torch.from_numpy(FLOAT_MEAN), torch.from_numpy(FLOAT_STD)

    def forward(self, frames: Tensor, floats: Tensor, taus: Tensor) -> Tensor:
        """Return (B, N, A) quantile values."""
        image = self.img_head((frames.float() - 128.0) / 128.0)
        mean, std = self.mean.to(floats.device), self.std.to(floats.device)
        state = torch.cat([image, self.float_feature_extractor((floats - mean) / std)], dim=1)
        orders = torch.arange(1, self.embedding + 1, device=taus.device)
        phi = self.iqn_fc(torch.cos(math.pi * orders * taus.unsqueeze(-1)))
        mixed = state.unsqueeze(1) * phi
        advantage, value = self.A_head(mixed), self.V_head(mixed)
        quantiles: Tensor = value + advantage - advantage.mean(dim=-1, keepdim=True)
        return quantiles


def quantile_huber(predicted: Tensor, taus: Tensor, target: Tensor, kappa: float) -> Tensor:
    """(B,) loss of (B, N) predictions at `taus` against (B, M) targets."""
    delta = target.unsqueeze(1) - predicted.unsqueeze(2)
    huber = torch.where(delta.abs() < kappa, 0.5 * delta**2 / kappa, delta.abs() - 0.5 * kappa)
    weight = torch.where(delta < 0, 1.0 - taus.unsqueeze(2), taus.unsqueeze(2))
    return (weight * huber).mean(dim=2).sum(dim=1)


class PlainLearner:
    """Online and target network and RAdam; sum over the batch, scaled by the target's spread."""

    def __init__(
        self, network: NetworkConfig, learning: LearningConfig, weights: dict[str, Tensor]
    ) -> None:
        self.kappa, self.learning = network.iqn.kappa, learning
        image_features = weights["iqn_fc.0.weight"].shape[0] - network.floats.hidden_dimension
        device = weights["iqn_fc.0.weight"].device
        self.online = PlainIQN(network, image_features).to(device)
        self.target = PlainIQN(network, image_features).to(device)
        self.online.load_state_dict(weights)
        self.target.load_state_dict(weights)
        self.optimizer = torch.optim.RAdam(self.online.parameters(), eps=learning.adam_epsilon)
        self.typical = self.typical_clamped = torch.tensor(TYPICAL, device=device)

    def loss(self, batch: Batch, taus: Taus) -> Tensor:
        """Return the scalar loss of a batch."""
        rows = len(batch)
        with torch.no_grad():
            helper = taus.helper.expand(rows, -1)
            best = self.online(batch.next_frames, batch.next_floats, helper).mean(1).argmax(1)
            following = self.target(batch.next_frames, batch.next_floats, taus.target)
            following = following[torch.arange(rows), :, best]
            aim = batch.rewards[:, None] + batch.discounts[:, None] * following
        quantiles = self.online(batch.frames, batch.floats, taus.online)
        predicted = quantiles[torch.arange(rows), :, batch.actions]
        per_sample = quantile_huber(predicted, taus.online, aim, self.kappa)
        with torch.no_grad():
            spread = quantile_huber(aim, taus.target, aim, self.kappa).sqrt()
            self.typical = 0.99 * self.typical + 0.01 * spread.mean()
            ratio = self.learning.target_self_loss_clamp_ratio or math.inf
            clamped = spread.clamp(min=self.typical / ratio)
            self.typical_clamped = 0.99 * self.typical_clamped + 0.01 * clamped.mean()
        return (per_sample * self.typical_clamped / clamped).sum()

    def step(self, batch: Batch, taus: Taus, learning_rate: float) -> float:
        """Train on a batch; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self.loss(batch, taus)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.online.parameters(), self.learning.clip_grad_norm)
        nn.utils.clip_grad_value_(self.online.parameters(), self.learning.clip_grad_value)
        self.optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(
                self.target.parameters(), self.online.parameters(), strict=True
            ):
                theirs.mul_(1.0 - self.learning.weight_decay_lr_ratio * learning_rate)
                ours.copy_(
                    (1.0 - self.learning.soft_update_tau) * ours
                    + self.learning.soft_update_tau * theirs
                )
        return loss.item()
