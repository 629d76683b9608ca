"""Freezing of the network's parts: no gradients, evaluation mode, the same optimizer layout."""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from rl.config.network import NetworkConfig
from rl.network.iqn import IQN, PARTS

_FRAMES_AT_ONCE: Final = 256


def frozen_parts(config: NetworkConfig, frames: int) -> set[str]:
    """Parts that are frozen after `frames` driven observations."""
    frozen = set()
    for part in PARTS:
        options = config.part(part)
        over = options.unfreeze_at_frames is not None and frames >= options.unfreeze_at_frames
        if options.freeze and not over:
            frozen.add(part)
    return frozen


def apply_freeze(model: IQN, config: NetworkConfig, frames: int) -> set[str]:
    """Freeze and unfreeze the parts as `config` says for `frames` driven observations.

    A frozen part gets no gradients (None, not 0: an optimizer then leaves it and its moments
    alone) and is in evaluation mode, so that its normalisation buffers and noise rest. The others
    follow the model's own mode. Call it again after `model.train()`, or use `train_mode`.

    Returns: the frozen parts.
    """
    frozen = frozen_parts(config, frames)
    for part in PARTS:
        module = model.part(part)
        if module is None:
            continue
        module.train(model.training and part not in frozen)
        for parameter in module.parameters():
            parameter.requires_grad_(part not in frozen)
            if part in frozen:
                parameter.grad = None
    return frozen


def train_mode(model: IQN, config: NetworkConfig, frames: int) -> set[str]:
    """Put the model into training mode, its frozen parts excepted; returns those."""
    model.train()
    return apply_freeze(model, config, frames)


class FrozenEncoder:
    """The frozen image encoder of a network, for observations that are encoded once.

    Attributes:
        features: D.
    """

    def __init__(self, network: IQN) -> None:
        """Take the encoder of `network`, which must have one."""
        assert network.img_head is not None
        self._encoder = network.img_head
        self.features = network.image_features

    @torch.no_grad()
    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return (N, D) features of (N, H, W) frames."""
        device = next(self._encoder.parameters()).device
        parts = torch.split(torch.from_numpy(frames).unsqueeze(1), _FRAMES_AT_ONCE)
        encoded = [self._encoder(part.to(device)).float().cpu() for part in parts]
        features: npt.NDArray[np.float32] = torch.cat(encoded).numpy()
        return features
