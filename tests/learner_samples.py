"""A tiny network to learn with, and batches for it."""

from typing import Any

import numpy as np
import torch

from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD, N_FLOATS
from rl.config.network import NetworkConfig
from rl.learning.learner import Learner
from rl.replay.transitions import Batch

B, SIDE = 3, 36
NETWORK: dict[str, Any] = {
    "image_size": SIDE,
    "vis": {"cnn": {"channels": [2, 3, 4, 5]}},
    "floats": {"hidden_dimension": 6},
    "iqn": {"embedding_dimension": 11, "n": 5, "n_target": 7},
    "decoder": {"dense_hidden_dimension": 18},
}


def network(**parts: Any) -> NetworkConfig:
    """The tiny network with some sections extended."""
    sections = dict(NETWORK)
    for name, options in parts.items():
        sections[name] = {**sections.get(name, {}), **options}
    return NetworkConfig.model_validate(sections)


def make_batch(seed: int = 0, size: int = B) -> Batch:
    """A batch of random observations, of the size that `network` takes."""
    rng = np.random.default_rng(seed)

    def floats() -> torch.Tensor:
        values = FLOAT_MEAN + FLOAT_STD * rng.standard_normal((size, N_FLOATS))
        return torch.from_numpy(values.astype(np.float32))

    def frames() -> torch.Tensor:
        return torch.from_numpy(rng.integers(0, 256, (size, 1, SIDE, SIDE), dtype=np.uint8))

    return Batch(
        frames=frames(),
        floats=floats(),
        actions=torch.from_numpy(rng.integers(0, N_ACTIONS, size)),
        rewards=torch.from_numpy(rng.normal(size=size).astype(np.float32)),
        discounts=torch.from_numpy(rng.choice([0.0, 0.9], size).astype(np.float32)),
        next_frames=frames(),
        next_floats=floats(),
        weights=torch.ones(size),
        slots=torch.arange(size),
        clock=torch.zeros(size, dtype=torch.int64),
    )


def weights_of(learner: Learner, which: str = "online") -> dict[str, torch.Tensor]:
    """Copies of the weights of one of its networks."""
    state = getattr(learner, which).state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}
