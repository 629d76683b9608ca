"""A policy that was trained, as artifact files: one network, or two and the weight of a prior."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rl.config.network import NetworkConfig
from rl.transfer.artifacts import save_artifacts
from rl.transfer.metadata import IQN_FILE, PRIOR_FILE, PriorMeta

_NETWORK, _PRIOR, _WEIGHT = "network.", "prior.network.", "weight"
"""Prefixes and name of what `rl.network.prior.PriorPolicy` holds, in its state dict."""


def network_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the network that gives Q, of a policy with a prior or without."""
    if _WEIGHT not in state:
        return dict(state)
    return _strip(state, _NETWORK)


def prior_weight(state: Mapping[str, Tensor]) -> float:
    """Return the weight w in a policy's state dict, 0 without a prior."""
    return float(state[_WEIGHT]) if _WEIGHT in state else 0.0


def save_policy(
    folder: Path,
    description: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    run_name: str,
    metrics: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
) -> None:
    """Write a policy of stage 3 as an artifact that any stage can load.

    With a weight above 0 it is two tensor files, otherwise one.

    Args:
        folder: to write into.
        description: of the policy, from `rl.network.prior.describe`.
        state: its state dict.
        run_name: of the training run.
        metrics: results, plain JSON types.
        seconds: of training so far.

    Raises:
        UserError: a tensor is not finite, or the disk is full; earlier files are kept.
    """
    files = {IQN_FILE: network_weights(state)}
    prior = None
    if prior_weight(state) > 0.0:
        files[PRIOR_FILE] = _strip(state, _PRIOR)
        prior = PriorMeta(
            weight=prior_weight(state),
            floor=description["floor"],
            network=NetworkConfig.model_validate(description["prior"]),
        )
    save_artifacts(
        folder,
        files,
        stage="rl",
        run_name=run_name,
        network=NetworkConfig.model_validate(description["network"]),
        metrics=metrics,
        seconds=seconds,
        prior=prior,
    )
    if prior is None:
        (folder / PRIOR_FILE).unlink(missing_ok=True)


def _strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = state.items()
    return {name.removeprefix(prefix): t for name, t in found if name.startswith(prefix)}
