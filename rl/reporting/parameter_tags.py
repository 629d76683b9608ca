"""Scalars of each parameter: its weights, its optimizer state, its gradients."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl.reporting.tensorboard import quantiles

LAYER_QUANTILES: Final = ("median", "q3", "d9", "max")


def clean(name: str) -> str:
    """A parameter's name without what a compiled network puts before it."""
    return name.removeprefix("_orig_mod.")


@torch.no_grad()
def parameter_tags(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Root mean squares of each parameter and of its optimizer state, by tag.

    They are per element, so that layers of different sizes compare.

    Args:
        network: the one that is trained.
        optimizer: Adam or a relative of it; parameters never updated have no state yet.
    """
    values: dict[str, Tensor] = {}
    options = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        values[f"Network/weights/{clean(name)}/L2"] = _root_mean_square(parameter)
        state = optimizer.state.get(parameter)
        if not state:
            continue
        prefix = f"Network/optimizer/{clean(name)}"
        group = options[id(parameter)]
        values[f"{prefix}/adaptive_lr_L2"] = _root_mean_square(_adaptive_rate(state, group))
        values[f"{prefix}/exp_avg_L2"] = _root_mean_square(state["exp_avg"])
        values[f"{prefix}/exp_avg_sq_L2"] = _root_mean_square(state["exp_avg_sq"])
    if not values:
        return {}
    numbers = torch.stack(list(values.values())).tolist()  # one transfer from the device
    return dict(zip(values, numbers, strict=True))


def layer_tags(norms: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
    """Quantiles of gradient norms, by tag.

    Args:
        norms: `<parameter>/L2` and `<parameter>/Linf` to their values over some updates.
    """
    tags: dict[str, float] = {}
    for name, values in norms.items():
        tags |= quantiles(values, f"Gradients/by_layer/{clean(name)}", LAYER_QUANTILES)
    return tags


def _adaptive_rate(state: Mapping[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    """How far a unit of the averaged gradient moves each element (arXiv:1412.6980, algorithm 1)."""
    second = state["exp_avg_sq"] / (1.0 - group["betas"][1] ** float(state["step"]))
    rate: Tensor = group["lr"] / (second.sqrt() + group["eps"])
    return rate


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.float().square().mean().sqrt()
