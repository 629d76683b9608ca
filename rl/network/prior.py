"""A prior on the choice of actions: a frozen policy's log probabilities beside action values.

A cloned policy is a distribution over actions, not a value function. So its logits are no values
here: actions maximise Q(s, a) + w l(a | s) with

    l(a | s) = max(log p(a | s) - max over b of log p(b | s), floor)

(behaviour priors, arXiv:2010.14274). With Q = 0 and any w > 0 that is the cloned policy's own
greedy action; with w = 0 the values alone decide.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl.config.network import NetworkConfig
from rl.network.iqn import IQN, midpoint_taus

SMALLEST: Final = 2.0**-24
"""Smallest positive float16: a smaller gap would round to a tie with the best action."""


def log_preferences(logits: Tensor, floor: float) -> Tensor:
    """Return l, (B, A) float16 in [floor, 0]: 0 for the best action alone, ties excepted.

    Args:
        logits: (B, A) log probabilities up to a shift for each row.
        floor: lowest value, below 0.
    """
    gaps = logits.float() - logits.float().max(dim=1, keepdim=True).values
    rounded = gaps.clamp(min=floor).half()
    return torch.where(gaps < 0.0, rounded.clamp(max=-SMALLEST), rounded)


class ActionPrior(nn.Module):
    """A frozen policy that is asked for its log preferences.

    Attributes:
        network: the policy's network; the mean of its advantages over K midpoint fractions are the
            logits.
        floor: lowest preference.
    """

    taus: Tensor

    def __init__(self, network: IQN, floor: float) -> None:
        """Freeze `network`."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.floor = floor
        device = next(network.parameters()).device
        taus = midpoint_taus(1, network.config.iqn.k, device=device)
        self.register_buffer("taus", taus, persistent=False)

    @torch.no_grad()
    def forward(self, frames: Tensor, floats: Tensor, image: Tensor | None = None) -> Tensor:
        """Return (B, A) float16 preferences of observations; see `IQN.features`."""
        network = self.network
        logits = network.advantages(network.features(frames, floats, image), self.taus)
        return log_preferences(logits, self.floor)

    @torch.inference_mode()
    def preferences(
        self,
        frames: npt.NDArray[np.uint8],
        floats: npt.NDArray[np.float32],
        image: Tensor | None = None,
    ) -> npt.NDArray[np.float16]:
        """Return (B, A) float16 preferences of (B, H, W) frames and (B, F) raw floats.

        Args:
            frames, floats: as a `Policy` takes them.
            image: (B, image_features) of the frames, if they are known; see `IQN.features`.
        """
        device = self.taus.device
        images = torch.from_numpy(frames).unsqueeze(1).to(device)
        found = self(images, torch.from_numpy(floats).to(device), image)
        result: npt.NDArray[np.float16] = found.cpu().numpy()
        return result


class PriorPolicy(nn.Module):
    """Two networks and a number that drive together: scores are Q + w l.

    It has what acting needs of an `IQN`: `config`, `num_actions` and `q_values`.

    Attributes:
        network: gives Q.
        prior: gives l.
        weight: w, a float32 scalar in reward units; a buffer, so that it travels with the weights.
    """

    weight: Tensor

    def __init__(self, network: IQN, prior: IQN, *, weight: float, floor: float) -> None:
        """Put the parts together; both networks are used as they are at each call."""
        super().__init__()
        self.network = network
        self.prior = ActionPrior(prior, floor)
        device = next(network.parameters()).device
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32, device=device))

    @property
    def config(self) -> NetworkConfig:
        """Description of the network that gives Q."""
        return self.network.config

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.network.num_actions

    def encode_frames(self, frames: Tensor) -> Tensor | None:
        """Return (B, image_features) of frames, of the network that gives Q; see `IQN`."""
        return self.network.encode_frames(frames)

    @property
    def w(self) -> float:
        """The weight as a plain number."""
        return float(self.weight)

    def q_values(
        self, frames: Tensor, floats: Tensor, taus: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Return (B, A) scores Q + w l in reward units; see `IQN.q_values`."""
        network = self.network
        image = network.encode_frames(frames) if image is None else image
        values = network.q_values(frames, floats, taus, image)
        is_shared = network.has_encoder_of(self.prior.network)
        preferences: Tensor = self.prior(frames, floats, image if is_shared else None)
        return values + self.weight * preferences.float()


Driver = IQN | PriorPolicy
"""What drives: a network alone, or one with a prior."""
SomeDriver = TypeVar("SomeDriver", bound=Driver)


def copy_of(driver: SomeDriver) -> SomeDriver:
    """Return a frozen copy in evaluation mode, on the same device."""
    copy = build_driver(describe(driver))
    assert isinstance(copy, type(driver))
    copy.load_state_dict(driver.state_dict())
    return copy.to(next(driver.parameters()).device).eval().requires_grad_(False)


def describe(driver: Driver) -> dict[str, Any]:
    """Return what `build_driver` needs, as plain types; the weights and w are in its state."""
    if isinstance(driver, IQN):
        return {"network": driver.config.model_dump(mode="json")}
    prior = driver.prior
    return {
        "network": driver.config.model_dump(mode="json"),
        "prior": prior.network.config.model_dump(mode="json"),
        "floor": prior.floor,
    }


def build_driver(description: Mapping[str, Any]) -> Driver:
    """Return a fresh driver of this description; its state is to be loaded into it."""
    network = IQN(NetworkConfig.model_validate(description["network"]))
    if "prior" not in description:
        return network
    prior = IQN(NetworkConfig.model_validate(description["prior"]))
    return PriorPolicy(network, prior, weight=0.0, floor=float(description["floor"]))
