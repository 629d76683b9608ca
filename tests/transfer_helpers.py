"""Artifacts of small networks, and runs that start from them."""

from pathlib import Path
from typing import Any

import torch

from rl.network.iqn import IQN, PARTS
from rl.transfer.artifacts import Tensors, module_tensors, save_artifacts
from rl.transfer.metadata import FILE_PARTS, IQN_FILE, ArtifactMeta
from tests.rl_samples import tiny_network

TRANSFER = {"calibration_rollouts": 5, "calibration_grad_steps": 30, "calibration_epsilon": 0.3}
"""A calibration of a second."""


def tensors_of(network: IQN, file: str) -> Tensors:
    """Tensors that a file holds, as far as the network has the parts."""
    tensors: Tensors = {}
    for part in FILE_PARTS[file]:
        module = network.part(part)
        if module is not None:
            tensors |= module_tensors(module, PARTS[part])
    return tensors


def save(folder: Path, network: IQN, *files: str, **meta: Any) -> ArtifactMeta:
    """Write artifacts of a network as an imitation run would."""
    content = {file: tensors_of(network, file) for file in files}
    options = {"stage": "bc", "run_name": "test", "network": network.config, **meta}
    return save_artifacts(folder, content, **options)


def pretrained(folder: Path) -> tuple[Path, IQN]:
    """Artifacts of a policy that mostly accelerates, with gaps of the size of logits."""
    torch.manual_seed(5)
    network = IQN(tiny_network(zero_init_last=False))
    with torch.no_grad():
        network.A_head.last.weight.mul_(0.2)
        network.A_head.last.bias[0] = 9.0
    path = folder / "bc"
    save_artifacts(
        path, {IQN_FILE: network.state_dict()}, stage="bc", run_name="bc", network=tiny_network()
    )
    return path, network.eval()
