"""Artifacts of small networks."""

from pathlib import Path
from typing import Any

from rl.network.iqn import IQN, PARTS
from rl.transfer.artifacts import Tensors, module_tensors, save_artifacts
from rl.transfer.metadata import FILE_PARTS, ArtifactMeta


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
