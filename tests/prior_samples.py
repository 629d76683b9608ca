"""A cloned policy, a network without an opinion, and observations for both."""

import numpy as np
import torch

from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD
from rl.network.iqn import IQN
from rl.transfer.heads import zero_last_layers
from tests.rl_samples import tiny_network


def clone(seed: int = 3) -> IQN:
    """A random policy whose logits have gaps of the size that cross-entropy leaves."""
    torch.manual_seed(seed)
    network = IQN(tiny_network(zero_init_last=False))
    with torch.no_grad():
        network.A_head.last.weight.mul_(3.0)
    return network.eval()


def zero_network(seed: int = 4) -> IQN:
    """A random network whose values are 0 everywhere."""
    torch.manual_seed(seed)
    network = IQN(tiny_network(zero_init_last=False))
    zero_last_layers(network)
    return network.eval()


def observations(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(count, 34, 34) frames and (count, F) raw floats, as `tiny_network` takes them."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 34, 34), dtype=np.uint8)
    floats = FLOAT_MEAN + FLOAT_STD * rng.standard_normal((count, len(FLOAT_MEAN)))
    return frames, floats.astype(np.float32)
