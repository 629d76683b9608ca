"""Tensor files as bytes: PyTorch state dicts, and safetensors with metadata in their header."""

import hashlib
import importlib.util
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from datasets.contract.errors import UserError
from datasets.contract.files import parse_json

SAFE_SUFFIX: Final = ".safetensors"
FILE_KEY: Final = "file"
"""Header key: the name of the artifact that the tensors are from, such as `iqn_bc.pt`."""
CONTENT_KEY: Final = "content_sha256"
"""Header key: hash over all other header strings and the tensors."""
_LENGTH_BYTES: Final = 8

_ZIP_START: Final = b"PK"


def check_export_extra(*packages: str) -> None:
    """Find out whether packages of the extra `export` are there, without loading them.

    Raises:
        UserError: one is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not installed; install with: uv sync --extra export"
        )


def serialise(path: Path, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a PyTorch state dict of float32 tensors.

    Raises:
        UserError: a tensor is not finite; `path` names it.
    """
    buffer = io.BytesIO()  # in memory first: a full disk then fails as a plain write
    torch.save(_plain(path, tensors), buffer)
    return buffer.getvalue()


def deserialise(path: Path, data: bytes) -> dict[str, Tensor]:
    """Float32 tensors of a file's bytes, by name; the suffix of `path` says which format it has.

    Raises:
        UserError: not such a file, no tensors in it, or numbers that are not finite.
    """
    safe = path.suffix == SAFE_SUFFIX
    if safe:
        check_export_extra("safetensors")
    try:
        content = _load_safe(data) if safe else _load_pickled(data)
    except Exception as error:  # whatever a damaged file makes the libraries raise
        kind = "safetensors file" if safe else "PyTorch state dict"
        raise UserError(
            f"{path}: not a readable {kind} (cut short, or another kind of file)"
        ) from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected a state dict, got {type(content).__name__}")
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: expected a plain state dict, but `{name}` is not a tensor")
        if not value.is_floating_point():
            raise UserError(f"{path}: `{name}` has type {value.dtype}, expected floating point")
        if not is_plain(value):
            raise UserError(
                f"{path}: `{name}` is not a dense tensor in main memory that the file holds whole"
            )
        tensors[name] = value.to(torch.float32)
    _check_finite(path, tensors)
    return tensors


def serialise_safe(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Return a safetensors file as bytes, with these header strings and a hash of it all.

    Raises:
        UserError: a tensor is not finite, or the package is missing.
    """
    check_export_extra("safetensors")
    from safetensors.torch import save

    plain = _plain(path, tensors)
    strings = {name: text for name, text in header.items() if name != CONTENT_KEY}
    data: bytes = save(plain, {**strings, CONTENT_KEY: content_hash(plain, strings)})
    return data


def safe_header(path: Path, data: bytes) -> dict[str, str]:
    """Return the header strings of a safetensors file; empty if it has none.

    Raises:
        UserError: not a safetensors file.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        if not 0 < length <= len(data) - _LENGTH_BYTES:
            raise ValueError("its header is cut")
        entries = parse_json(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        found = entries.get("__metadata__", {})
        return {str(name): str(text) for name, text in found.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file (cut short, or another kind of file)"
        ) from error


def read_safe_header(path: Path) -> dict[str, str]:
    """Return the header strings of a safetensors file on the disk, without its tensors.

    Raises:
        UserError: not a safetensors file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            size = min(int.from_bytes(start, "little"), path.stat().st_size)
            data = start + file.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return safe_header(path, data)


def content_hash(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 over the header strings and over names, shapes and numbers of the tensors."""
    strings = {name: text for name, text in header.items() if name != CONTENT_KEY}
    digest = hashlib.sha256(json.dumps(strings, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(json.dumps([name, list(tensors[name].shape)]).encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, on the CPU, and as large as the memory that it holds.

    Sparse and meta tensors hold fewer numbers than their shape says, and so do tensors that repeat
    a number along an axis.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _load_pickled(data: bytes) -> Any:
    if data.startswith(_ZIP_START):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.file_size > len(data) for entry in archive.infolist()):
                raise ValueError("compressed: larger than the file")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _load_safe(data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return tensors


def _plain(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {
        name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    _check_finite(path, plain)
    return plain


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: `{name}` holds NaN or infinite numbers: the run diverged")
