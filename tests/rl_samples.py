"""A tiny run for tests: a straight track of a few seconds, a network of a few hundred weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.network.iqn import IQN

NETWORK = {
    "image_size": 34,
    "vis": {"cnn": {"channels": [2, 3, 4, 5]}},
    "floats": {"hidden_dimension": 9},
    "iqn": {"embedding_dimension": 7, "n": 4, "n_target": 5, "k": 3},
    "decoder": {"dense_hidden_dimension": 12, "zero_init_last": True},
}
SHORT_EVALUATION = {"every_s": None, "starts": 1, "final_starts": 1}
"""No evaluation before the last one, and that of one run each."""


def tiny_network(**decoder: Any) -> NetworkConfig:
    """The network of `tiny_config`, with other options of its decoder."""
    values = {**NETWORK, "decoder": {**NETWORK["decoder"], **decoder}}  # type: ignore[dict-item]
    return NetworkConfig.model_validate(values)


def make_network(seed: int = 0, *, action: int | None = 0, **decoder: Any) -> IQN:
    """A tiny network; `action` is the one that it prefers everywhere, None for a random one."""
    torch.manual_seed(seed)
    network = IQN(tiny_network(zero_init_last=action is not None, **decoder))
    if action is not None:
        with torch.no_grad():
            network.A_head.last.bias[action] = 1.0
    return network


def changed_nn(**parts: dict[str, Any]) -> dict[str, Any]:
    """The nn section of `tiny_config` with other options of some parts."""
    nn = tiny_network().model_dump()
    for part, options in parts.items():
        section = nn["decoder"] if part in ("advantage", "value") else nn
        section[part] |= options
    return nn


def straight_line(folder: Path, length_m: float = 40.0) -> Path:
    """A straight, level reference line as a file."""
    z = np.arange(0.0, length_m + 0.25, 0.5)
    path = folder / "straight.npy"
    np.save(path, np.stack([np.zeros_like(z), np.zeros_like(z), z], axis=1))
    return path


def tiny_config(folder: Path, **changes: Any) -> RLConfig:
    """A serial run of three cars on a straight track, with everything optional switched on."""
    line = straight_line(folder)
    entry = {"short_name": "straight", "map_path": str(line)}
    values: dict[str, Any] = {
        "run_name": "tiny",
        "output_dir": str(folder / "rl"),
        "tensorboard_dir": str(folder / "tensorboard"),
        "map_cycle": {
            "entries": [
                {**entry, "is_exploration": True, "repeat": 2},
                {**entry, "is_exploration": False},
            ]
        },
        "nn": NETWORK,
        "prior": {"enabled": "off"},
        "batch_size": 8,
        "n_steps": 2,
        "number_times_single_memory_is_used_before_discard": 1,
        "prio_alpha": 0.5,
        "memory_size_schedule": [[0, [300, 60]]],
        "epsilon_schedule": [[0, 0.5]],
        "lr_schedule": [[0, 0.01]],
        "environment": {
            "cutoff_rollout_if_race_not_finished_within_duration_ms": 5000,
            "start_noise": 0.5,
        },
        "averaging": {"decay": 0.9, "collector_share": 0.34},
        "evaluation": {
            "every_s": None,
            "every_frames": 150,
            "starts": 2,
            "final_starts": 3,
            "champion": True,
        },
        "performance": {
            "serial": True,
            "cars_per_collector": 3,
            "send_shared_network_every_n_batches": 3,
            "device": "cpu",
        },
        "frames_before_save_best_runs": 0,
    }
    return RLConfig.model_validate({**values, **changes})
