"""Exact changes of a network's heads between imitation and reinforcement learning."""

import torch

from rl.network.iqn import IQN
from rl.network.layers import Head, NoisyLinear


@torch.no_grad()
def scale_head(head: Head, factor: float) -> None:
    """Multiply a head's output by `factor`, noise included."""
    last = head.last
    scaled = [last.weight, last.bias]
    if isinstance(last, NoisyLinear):
        scaled += [last.weight_sigma, last.bias_sigma]
    for parameter in scaled:
        parameter.mul_(factor)


def logits_to_soft_values(network: IQN, temperature: float) -> None:
    """Turn a cloned policy's logits z into the advantages of the same soft policy.

    Munchausen targets are those of the policy softmax(Q / temperature) (arXiv:2007.14430, eq. 1).
    With A := temperature (z - mean z) that is softmax(z), the cloned policy itself, whatever V is:
    a softmax ignores what all actions share. The dueling form takes the mean off, so multiplying
    the last layer of `A_head` is all that is needed. Quantile fractions do not matter either, since
    their mean is taken of linear outputs.

    Args:
        network: holds a cloned policy; its `A_head` is changed.
        temperature: tau of the Munchausen targets, in reward units, above 0.

    Raises:
        ValueError: a temperature of 0 or below.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    scale_head(network.A_head, temperature)


@torch.no_grad()
def zero_last_layers(network: IQN) -> None:
    """Make both heads' outputs exactly 0, noise included; their first layers stay."""
    for head in (network.A_head, network.V_head):
        scale_head(head, 0.0)
