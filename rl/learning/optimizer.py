"""The optimizer: how it is built, clipped, and saved by parameter name."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from rl.config.learning import LearningConfig
from rl.config.network import NetworkConfig
from rl.network.iqn import IQN
from rl.network.parts import parameter_groups

Moments = dict[str, dict[str, Tensor]]

LAYER_NORMS_EVERY_GRAD_STEPS: Final = 16
"""Updates between two that measure each parameter's gradient: a sample that costs next to nothing
(see docs/metrics.md)."""


def build_optimizer(
    network: IQN, config: NetworkConfig, learning: LearningConfig
) -> torch.optim.Optimizer:
    """Adam or RAdam over the five named groups; rates are set before each update."""
    groups = parameter_groups(network, config)
    betas = (learning.adam_beta1, learning.adam_beta2)
    if learning.optimizer == "adam":
        return torch.optim.Adam(groups, lr=0.0, betas=betas, eps=learning.adam_epsilon, fused=True)
    return torch.optim.RAdam(groups, lr=0.0, betas=betas, eps=learning.adam_epsilon, foreach=True)


def gradients(network: IQN) -> list[Tensor]:
    """Gradients of the parameters that have one."""
    return [p.grad for p in network.parameters() if p.grad is not None]


@torch.no_grad()
def layer_norms(network: IQN) -> dict[str, float]:
    """Norms of each parameter's gradient, as `<parameter>/L2` and `<parameter>/Linf`."""
    named = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if not named:
        return {}
    grads = list(named.values())
    norms = {
        kind: torch.stack(list(torch._foreach_norm(grads, order)))
        for kind, order in (("L2", 2.0), ("Linf", float("inf")))
    }
    values = torch.stack(list(norms.values())).tolist()  # one transfer from the device
    return {
        f"{name}/{kind}": value
        for kind, row in zip(norms, values, strict=True)
        for name, value in zip(named, row, strict=True)
    }


@torch.no_grad()
def clip(network: IQN, norm: Tensor, learning: LearningConfig) -> Tensor:
    """Clip the gradients by norm, then by value.

    Args:
        network: its gradients are changed in place.
        norm: scalar, their norm now.
        learning: the limits.

    Returns:
        Scalar norm after clipping.
    """
    grads = gradients(network)
    factor = (learning.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, factor)
    if learning.clip_grad_value >= learning.clip_grad_norm:  # no element can be that large
        return norm * factor
    torch._foreach_clamp_max_(grads, learning.clip_grad_value)
    torch._foreach_clamp_min_(grads, -learning.clip_grad_value)
    return torch.nn.utils.get_total_norm(grads)


def moments(network: IQN, optimizer: torch.optim.Optimizer) -> Moments:
    """Copy the optimizer's state by parameter name; parameters never updated have none."""
    return {
        name: {key: value.clone() for key, value in optimizer.state[parameter].items()}
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
    }


def load_moments(
    network: IQN, optimizer: torch.optim.Optimizer, saved: Mapping[str, Mapping[str, Any]]
) -> None:
    """Restore what `moments` returned, whatever was frozen then or is now.

    Raises:
        ValueError: a parameter that the network does not have, or of another shape.
    """
    parameters = dict(network.named_parameters())
    unknown = sorted(set(saved) - set(parameters))
    if unknown:
        raise ValueError(f"optimizer state of unknown parameters: {', '.join(unknown)}")
    # Fused updates count their steps on the device, the others on the CPU.
    fused = any(group.get("fused") for group in optimizer.param_groups)
    optimizer.state.clear()
    for name, state in saved.items():
        parameter = parameters[name]
        counted_on = parameter.device if fused else torch.device("cpu")
        for key, value in state.items():
            if key != "step" and value.shape != parameter.shape:
                raise ValueError(
                    f"optimizer state of {name}: expected {tuple(parameter.shape)}, "
                    f"got {tuple(value.shape)}"
                )
        optimizer.state[parameter] = {
            key: value.clone().to(counted_on if key == "step" else parameter.device)
            for key, value in state.items()
        }
