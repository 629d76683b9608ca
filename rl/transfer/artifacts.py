"""The files between the stages: plain state dicts, and `pretrain_meta.json` beside them.

A tensor file holds parameters under their full names in the network (`img_head.0.weight`). The
metadata says which network they belong to, and carries a hash of each file, so that a file that
was swapped, cut or edited is refused.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path, parse_json
from rl.config.network import LegacyInput, NetworkConfig
from rl.transfer.metadata import (
    FILE_PARTS,
    FORMAT_VERSION,
    META_FILE,
    PRIOR_FILE,
    ArtifactMeta,
    PriorMeta,
    input_contract,
    parse_meta,
    read_meta,
)
from rl.transfer.model_card import CARD_FILE, model_card
from rl.transfer.tensor_files import (
    CONTENT_KEY,
    FILE_KEY,
    SAFE_SUFFIX,
    content_hash,
    deserialise,
    safe_header,
    serialise,
    serialise_safe,
)

Tensors = dict[str, Tensor]

_CHANGED: Final = "the file was changed, cut or swapped; write the artifacts again"


@dataclass(frozen=True)
class Artifact:
    """One tensor file, read and checked.

    Attributes:
        path: of the file.
        tensors: float32 on the CPU, by full parameter name, scaled for (x - 128) / 128 frames.
        sha256: of the file's bytes.
        meta: its metadata, None for a legacy file.
        legacy_input: how a legacy file's frames were scaled, None for a file with metadata.
    """

    path: Path
    tensors: Tensors
    sha256: str
    meta: ArtifactMeta | None
    legacy_input: LegacyInput | None = None

    @property
    def network(self) -> NetworkConfig | None:
        """The network that the tensors belong to, where it is known."""
        return None if self.meta is None else self.meta.network


def module_tensors(module: nn.Module, prefix: str) -> Tensors:
    """Copy a module's parameters and persistent buffers as CPU float32, named `prefix.name`."""
    state = module.state_dict(prefix=f"{prefix}.")
    return {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in state.items()
    }


def fold_unit_range(tensors: Mapping[str, Tensor], convolution: str = "img_head.0") -> Tensors:
    """Make an encoder that was trained on frames in [0, 1] equal on (x - 128) / 128 frames.

    With u = x / 255 and z = (x - 128) / 128, u = (128 / 255) (z + 1). The first convolution has no
    padding, so each output sees its whole kernel and the offset folds into the bias exactly.

    Args:
        tensors: of the encoder, by full name.
        convolution: name of the first convolution.

    Raises:
        UserError: there is no such convolution (an encoder with padding cannot be folded).
    """
    weight = tensors.get(f"{convolution}.weight")
    bias = tensors.get(f"{convolution}.bias")
    if weight is None or bias is None:
        raise UserError(
            f"no {convolution}.weight and bias: frames in [0, 1] can only be folded into arch "
            "default; train with image_normalization: iqn"
        )
    scaled = weight.double() * (128.0 / 255.0)
    folded = dict(tensors)
    folded[f"{convolution}.weight"] = scaled.float()
    folded[f"{convolution}.bias"] = (bias.double() + scaled.sum(dim=(1, 2, 3))).float()
    return folded


def save_artifacts(
    folder: Path,
    files: Mapping[str, Mapping[str, Tensor]],
    *,
    stage: str,
    run_name: str,
    network: NetworkConfig,
    dataset: Mapping[str, Any] | None = None,
    offsets_ms: tuple[int, ...] = (),
    metrics: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
    extra: Mapping[str, Any] | None = None,
    prior: PriorMeta | None = None,
) -> ArtifactMeta:
    """Write tensor files, a model card, and their metadata last.

    Nothing is replaced before everything is on the disk. A crash between two replacements leaves
    files whose hashes differ from the metadata's, which `load_artifact` refuses.

    Args:
        folder: to write into.
        files: file name (a key of `FILE_PARTS`) -> tensors by full name.
        stage: vis, bc or rl.
        run_name: of the training run.
        network: that the tensors belong to.
        dataset: identity of the training data, plain JSON types.
        offsets_ms: that were imitated.
        metrics: by name, numbers or plain JSON types; a NaN is written as null.
        seconds: that the stage took.
        extra: what else is worth noting.
        prior: of a policy that is driven with one; the files then hold `PRIOR_FILE`.

    Raises:
        UserError: a tensor is not finite, or the disk refuses; what was there stays.
    """
    _check_names(files, prior)
    contents = {name: serialise(folder / name, tensors) for name, tensors in files.items()}
    normalisation, actions = input_contract()
    meta = ArtifactMeta(
        format_version=FORMAT_VERSION,
        stage=stage,
        run_name=run_name,
        network=network,
        image_size=network.image_hw,
        use_floats=network.floats.enabled,
        shapes={file: _shapes(tensors) for file, tensors in files.items()},
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        normalisation=normalisation,
        actions=actions,
        offsets_ms=offsets_ms,
        dataset=None if dataset is None else dict(dataset),
        metrics=_finite(dict(metrics or {})),
        seconds=seconds,
        extra=_finite(dict(extra or {})),
        prior=prior,
    )
    texts = {META_FILE: meta.to_text(), CARD_FILE: model_card(meta, folder)}
    _replace(folder, {**{name: text.encode() for name, text in texts.items()}, **contents})
    return meta


def _check_names(names: Iterable[str], prior: PriorMeta | None) -> None:
    """Raise ValueError for a name that no artifact has."""
    for name in names:
        if name not in FILE_PARTS and (name != PRIOR_FILE or prior is None):
            raise ValueError(f"{name} is not an artifact's name: {', '.join(FILE_PARTS)}")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _replace(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files; when all are on the disk they replace the old ones, the first of them last."""
    with contextlib.ExitStack() as stack:  # left in reverse order
        for name, data in contents.items():
            stack.enter_context(atomic_path(folder / name)).write_bytes(data)


def load_artifact(path: Path, *, legacy_input: LegacyInput | None = None) -> Artifact:
    """Read one tensor file and check it against its metadata.

    Args:
        path: of the file; one that ends in `.safetensors` has its metadata in itself.
        legacy_input: for a file without metadata: `iqn` if it was trained on (x - 128) / 128
            frames, `01` if on [0, 1] ones, which is folded into the first convolution.

    Raises:
        UserError: missing, corrupt, foreign, changed since it was written, or without metadata.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an artifact of rulka-pipeline vis or bc")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    header = safe_header(path, data) if path.suffix == SAFE_SUFFIX else None
    meta, where, file = _find_meta(path, header)
    if meta is None and legacy_input is None:
        raise UserError(
            f"{path}: no {where}, so its input scale is unknown; say "
            "--legacy-input iqn (frames as (x - 128) / 128) or 01 (frames in [0, 1])"
        )
    if meta is not None and header is None:
        _check_hash(path, sha256, meta)
    tensors = deserialise(path, data)
    if meta is not None:
        if header is not None and content_hash(tensors, header) != header[CONTENT_KEY]:
            raise UserError(f"{path}: {CONTENT_KEY} is not that of its content: {_CHANGED}")
        if _shapes(tensors) != meta.shapes.get(file):
            raise UserError(f"{path}: its tensors are not those that {where} lists")
        return Artifact(path, tensors, sha256, meta)
    if legacy_input == "01" and any(name.startswith("img_head.") for name in tensors):
        tensors = fold_unit_range(tensors)
    return Artifact(path, tensors, sha256, None, legacy_input)


def _find_meta(
    path: Path, header: Mapping[str, str] | None
) -> tuple[ArtifactMeta | None, str, str]:
    """Metadata of a tensor file, where it was looked for, and what the file is called there."""
    if header is None:
        beside = path.with_name(META_FILE)
        meta = read_meta(beside) if beside.exists() else None
        return meta, f"{META_FILE} beside it", path.name
    where = "metadata of rulka in its header"
    if CONTENT_KEY not in header:
        return None, where, path.name
    try:
        known = [key for key in ArtifactMeta.model_fields if key != "prior" or key in header]
        values = {key: parse_json(header[key]) for key in known}
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its header has no readable {error}: {_CHANGED}") from error
    return parse_meta(path, values), where, header.get(FILE_KEY, path.name)


def safe_bytes(artifact: Artifact) -> bytes:
    """Return an artifact as a safetensors file, its metadata as JSON texts in the header.

    Raises:
        UserError: an artifact without metadata, or the package is missing.
    """
    if artifact.meta is None:
        raise UserError(
            f"{artifact.path}: no {META_FILE} beside it, so there is no network description to "
            "write; load it into a run and export that"
        )
    if artifact.meta.prior is not None:
        raise UserError(
            f"{artifact.path}: half of a policy with a prior, which safetensors cannot hold "
            "together; use --format onnx"
        )
    file = artifact.path.name
    if file not in artifact.meta.shapes:
        (file,) = artifact.meta.shapes  # a safetensors file, which holds one under any name
    own = {
        "shapes": {file: artifact.meta.shapes[file]},
        "sha256": {file: artifact.meta.sha256[file]},
    }
    values = artifact.meta.model_copy(update=own).model_dump(mode="json", exclude={"prior"})
    header = {key: json.dumps(value) for key, value in values.items()}
    return serialise_safe(artifact.path, artifact.tensors, {**header, FILE_KEY: file})


def _check_hash(path: Path, sha256: str, meta: ArtifactMeta) -> None:
    expected = meta.sha256.get(path.name)
    if expected is None:
        raise UserError(
            f"{path}: {META_FILE} beside it does not list this file (it lists "
            f"{', '.join(sorted(meta.sha256)) or 'none'}); move it to a folder of its own"
        )
    if sha256 != expected:
        raise UserError(
            f"{path}: its hash {sha256[:12]} is not {expected[:12]} as in {META_FILE}: {_CHANGED}"
        )


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by None, in nested plain types."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
