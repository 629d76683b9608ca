"""Columns of a frozen head that are trained all the same: those of features that it never had.

A head that was cloned without floats, or without pictures, gets zero columns for them when it is
loaded. Frozen with the rest, they would keep the choice of actions independent of these features
for the whole run. So these columns are trained, and everything else of the head stays as it is.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rl.network.iqn import IQN, PARTS

Spans = dict[str, tuple[int, int]]
"""Parameter name -> first column, and the one after the last."""


def padded_columns(network: IQN) -> Spans:
    """Return the columns of the heads' first layers that are 0 for all image or all float features.

    Fresh weights are never exactly 0, so these columns were padded.
    """
    image, features = network.image_features, network.feature_dimension
    found: Spans = {}
    for part in ("advantage", "value"):
        name = f"{PARTS[part]}.0.weight"
        weight = network.get_parameter(name)
        for start, stop in ((0, image), (image, features)):
            if 0 < stop - start < features and not weight[:, start:stop].any():
                found[name] = (start, stop)
    return found


def checked_columns(network: IQN, saved: Mapping[str, Any]) -> Spans:
    """Return the padded columns of a saved state.

    Raises:
        ValueError: they are no columns of the network's weights.
    """
    found: Spans = {}
    weights = dict(network.named_parameters())
    for name, (start, stop) in saved.items():
        width = weights[name].shape[-1] if name in weights else 0
        if not (type(start) is type(stop) is int and 0 <= start < stop <= width):
            raise ValueError(f"padded columns {start} to {stop} of {name}, which has {width}")
        found[name] = (start, stop)
    return found


def open_columns(network: IQN, columns: Mapping[str, tuple[int, int]], frozen: set[str]) -> Spans:
    """Give the weights of frozen heads with padded columns a gradient again.

    Args:
        network: its `requires_grad` flags are changed.
        columns: padded columns by parameter.
        frozen: parts that are frozen now.

    Returns:
        The columns that are open: those of frozen heads.
    """
    found = {
        name: span
        for name, span in columns.items()
        if any(name.startswith(f"{PARTS[part]}.") for part in frozen)
    }
    for name in found:
        network.get_parameter(name).requires_grad_(True)
    return found


@torch.no_grad()
def mask_gradients(network: IQN, columns: Mapping[str, tuple[int, int]]) -> None:
    """Set the gradients outside of the open columns to 0."""
    for name, (start, stop) in columns.items():
        gradient = network.get_parameter(name).grad
        if gradient is not None:
            gradient[:, :start] = 0.0
            gradient[:, stop:] = 0.0


@contextmanager
def others_kept(network: IQN, columns: Mapping[str, tuple[int, int]]) -> Iterator[None]:
    """Restore everything outside of the open columns afterwards, bit for bit.

    A gradient of 0 is not enough: moments and weight decay would still change it.
    """
    before: dict[str, Tensor] = {
        name: network.get_parameter(name).detach().clone() for name in columns
    }
    yield
    with torch.no_grad():
        for name, (start, stop) in columns.items():
            weight = network.get_parameter(name)
            weight[:, :start] = before[name][:, :start]
            weight[:, stop:] = before[name][:, stop:]
