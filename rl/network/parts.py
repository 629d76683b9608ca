"""Optimizer groups of the network's parts, their learning rates and weight decay.

The layout of the groups never depends on what is frozen, so that an optimizer's state fits a run
that is resumed with other flags.
"""

from typing import Any

import torch

from rl.config.network import NetworkConfig
from rl.network.iqn import IQN, PARTS


def parameter_groups(
    model: IQN, config: NetworkConfig, base_lr: float = 0.0
) -> list[dict[str, Any]]:
    """Optimizer groups, always these five in this order: vis, floats, iqn, advantage, value.

    A part that the network lacks has an empty group. Parameters are given by name, so that the
    optimizer's state carries the names.

    Returns: groups with `name`, `params` as (name, parameter) pairs, `param_names`, `lr` and
        `lr_scale`.
    """
    groups: list[dict[str, Any]] = []
    for part, module_name in PARTS.items():
        module = model.part(part)
        named = [] if module is None else list(module.named_parameters(prefix=module_name))
        scale = config.part(part).lr_scale
        groups.append(
            {
                "name": part,
                "params": named,
                # Given apart too: an empty group would otherwise count as one without names.
                "param_names": [name for name, _ in named],
                "lr": base_lr * scale,
                "lr_scale": scale,
            }
        )
    return groups


def set_learning_rate(
    optimizer: torch.optim.Optimizer, base_lr: float, config: NetworkConfig
) -> None:
    """Set each group's rate to `base_lr` times its part's `lr_scale`.

    The scale comes from `config`, not from the group: a resumed optimizer brings the old one.
    """
    for group in optimizer.param_groups:
        group["lr_scale"] = config.part(group["name"]).lr_scale
        group["lr"] = base_lr * group["lr_scale"]


@torch.no_grad()
def multiplicative_weight_decay(optimizer: torch.optim.Optimizer, ratio: float) -> None:
    """Shrink each trainable parameter by `1 - ratio * lr` of its group; frozen ones stay."""
    if ratio == 0.0:
        return
    for group in optimizer.param_groups:
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        if trained and group["lr"] != 0.0:
            torch._foreach_mul_(trained, 1.0 - ratio * group["lr"])
