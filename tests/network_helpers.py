"""A network that runs in no time, and observations for it."""

from typing import Any

import torch
from torch import Tensor, nn

from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD, N_FLOATS
from rl.config.network import NetworkConfig

SIDE = 36


def small_config(**sections: Any) -> NetworkConfig:
    """A network that runs in no time, with all dimensions different."""
    values: dict[str, Any] = {
        "image_size": [SIDE, SIDE + 2],
        "vis": {"cnn": {"channels": [2, 3, 4, 5]}},
        "floats": {"hidden_dimension": 7},
        "iqn": {"embedding_dimension": 6},
        "decoder": {"dense_hidden_dimension": 22},
    }
    for name, section in sections.items():
        both = isinstance(section, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **section} if both else section
    return NetworkConfig.model_validate(values)


def observations(batch: int = 3, config: NetworkConfig | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    height, width = (config or small_config()).image_hw
    stack = (config or small_config()).n_stack
    shape = (batch, stack, height, width)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    draw = torch.randn(batch, N_FLOATS, generator=generator)
    return frames, torch.from_numpy(FLOAT_MEAN) + torch.from_numpy(FLOAT_STD) * draw


def count_parameters(module: nn.Module, *, noise_scales: bool = True) -> int:
    """Number of parameters, without the noisy layers' scales if `noise_scales` is false."""
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if noise_scales or not name.endswith("_sigma"))
