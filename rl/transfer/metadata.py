"""Metadata of the files between the stages: which network they belong to and what it was fed.

It lies beside them as `pretrain_meta.json`, or in the header of a safetensors file.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from datasets.contract.actions import ACTION_MS, ACTION_NAMES
from datasets.contract.config import StrictModel
from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD
from datasets.validation import validating
from rl.config.network import NetworkConfig

FORMAT_VERSION: Final = 1
META_FILE: Final = "pretrain_meta.json"
ENCODER_FILE: Final = "encoder.pt"
ACTIONS_HEAD_FILE: Final = "actions_head.pt"
FLOAT_HEAD_FILE: Final = "float_head.pt"
IQN_FILE: Final = "iqn_bc.pt"
PRIOR_FILE: Final = "prior.pt"
"""The frozen policy that a policy with a prior needs beside its network."""

FILE_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    ENCODER_FILE: ("vis",),
    ACTIONS_HEAD_FILE: ("advantage", "iqn"),
    FLOAT_HEAD_FILE: ("floats",),
    IQN_FILE: ("vis", "floats", "iqn", "advantage", "value"),
}
"""Parts of the network that each file carries."""

IMAGE_NORMALISATION: Final = "(x - 128) / 128"


class PriorMeta(StrictModel):
    """How `prior.pt` belongs to the network beside it: scores are Q + weight l."""

    weight: float = Field(gt=0.0, description="reward units per unit of log probability")
    floor: float = Field(lt=0.0, description="lowest log probability relative to the best")
    network: NetworkConfig = Field(description="the network that the tensors of the prior fit")


class ArtifactMeta(StrictModel):
    """Content of `pretrain_meta.json`."""

    format_version: int = Field(description="of this file's layout")
    stage: str = Field(description="vis | bc | rl")
    run_name: str = Field(description="of the run that trained the tensors")
    network: NetworkConfig = Field(description="the network that the tensors belong to")
    image_size: tuple[int, int] = Field(description="pixels: height, width")
    use_floats: bool = Field(description="true | false: trained with float features")
    shapes: dict[str, dict[str, tuple[int, ...]]] = Field(description="file -> tensor -> shape")
    sha256: dict[str, str] = Field(description="file -> hash of its bytes")
    normalisation: dict[str, str] = Field(description="what the network does to its inputs")
    actions: dict[str, Any] = Field(description="names of the actions and their length in ms")
    offsets_ms: tuple[int, ...] = Field((), description="ms: offsets that were imitated")
    dataset: dict[str, Any] | None = Field(None, description="identity of the training data")
    metrics: dict[str, Any] = Field(default_factory=dict, description="of the run, by name")
    seconds: float = Field(0.0, ge=0.0, description="s: duration of the stage")
    extra: dict[str, Any] = Field(default_factory=dict, description="what else the stage notes")
    prior: PriorMeta | None = Field(None, description="of a policy that is driven with a prior")

    def to_text(self) -> str:
        """Return the content of the metadata file."""
        # Without a prior the key is absent, so that the file is the one of versions before it.
        left_out = {"prior"} if self.prior is None else None
        return self.model_dump_json(indent=2, exclude=left_out) + "\n"


def input_contract() -> tuple[dict[str, str], dict[str, Any]]:
    """Return how the network scales frames and floats, and the actions of its outputs."""
    floats = hashlib.sha256(FLOAT_MEAN.tobytes() + FLOAT_STD.tobytes()).hexdigest()
    normalisation = {"frames": IMAGE_NORMALISATION, "floats_mean_std_sha256": floats}
    return normalisation, {"names": list(ACTION_NAMES), "action_ms": ACTION_MS}


def read_meta(path: Path) -> ArtifactMeta:
    """Read and check `pretrain_meta.json`.

    Raises:
        UserError: not readable, of another format version, or of another action or input contract.
    """
    return parse_meta(path, read_json(path))


def parse_meta(path: Path, values: Any) -> ArtifactMeta:
    """Check metadata that were read as plain JSON types.

    Args:
        path: of the file that holds them, for messages.
        values: what was read.

    Raises:
        UserError: of another format version, or of another action or input contract.
    """
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format_version {version!r}, expected {FORMAT_VERSION}; write the artifacts "
            "again with this version of rulka"
        )
    with validating(path):
        meta = ArtifactMeta.model_validate(values)
    normalisation, actions = input_contract()
    for name, got, expected in (
        ("normalisation", meta.normalisation, normalisation),
        ("actions", meta.actions, actions),
    ):
        if got != expected:
            raise UserError(f"{path}: `{name}` differs from this version's: {got} != {expected}")
    return meta
