"""Checkpoints that are whole or absent, with the previous one kept.

A checkpoint is a folder `checkpoints/<number>/` of tensor files with a manifest of their sizes and
hashes. It is written under a temporary name, flushed and renamed. Reading starts with the newest and
falls back, with a warning, to the one before it if a file is damaged.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from datasets.contract.errors import UserError
from datasets.contract.files import read_json, sha256_of, write_json

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
KEPT: Final = 2
_ARRAY: Final = "__ndarray__"


def save_checkpoint(folder: Path, number: int, parts: Mapping[str, Any]) -> Path:
    """Write a checkpoint and remove all but the last `KEPT`.

    Args:
        folder: the run's `checkpoints` folder.
        number: orders checkpoints; saving a number again replaces that one.
        parts: file stem -> state of tensors, arrays, numbers, strings, lists and dicts.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there stays.
    """
    target, temporary = folder / f"{number:012d}", folder / f".{number:012d}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {}
        for name, state in parts.items():
            path = temporary / f"{name}.pt"
            torch.save(_encode(state), path)
            _flush(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        write_json(temporary / MANIFEST, {"format_version": FORMAT_VERSION, "files": files})
        _replace_folder(temporary, target)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{target}: the checkpoint could not be saved ({error}); earlier ones are kept"
        ) from error
    for old in _numbered(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Read the newest checkpoint that is whole.

    Returns:
        Its folder, and its parts as they were given to `save_checkpoint`.

    Raises:
        UserError: there is none.
    """
    found = _numbered(folder)
    for path in reversed(found):
        problem = check_checkpoint(path)
        if problem is None:
            return path, _read(path)
        logger.warning("%s is damaged (%s); trying the checkpoint before it", path, problem)
    raise UserError(
        f"{folder}: no usable checkpoint"
        + (f" ({len(found)} damaged)" if found else "; the run stopped before its first save")
    )


def check_checkpoint(path: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are as they were written."""
    try:
        manifest = read_json(path / MANIFEST)
    except UserError as error:
        return str(error)
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        return f"its format is not version {FORMAT_VERSION}"
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} of {expected['bytes']} bytes"
        if sha256_of(file) != expected["sha256"]:
            return f"{name} has another hash than when it was saved"
    return None


def _read(path: Path) -> dict[str, Any]:
    names = [Path(name).stem for name in read_json(path / MANIFEST)["files"]]
    return {
        name: _decode(torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True))
        for name in names
    }


def _numbered(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _replace_folder(temporary: Path, target: Path) -> None:
    """Put `temporary` at `target`; a folder cannot be replaced in one step, so the old steps aside."""
    if target.exists():
        aside = target.with_name(f".{target.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
        temporary.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        temporary.rename(target)


def _encode(state: Any) -> Any:
    """Arrays as marked tensors, so that files load with `weights_only=True`."""
    if isinstance(state, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(state)), "shape": list(state.shape)}
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, Mapping):
        return {key: _encode(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_encode(value) for value in state]
    return state


def _decode(state: Any) -> Any:
    if isinstance(state, dict):
        if _ARRAY in state:
            return state[_ARRAY].numpy().reshape(state["shape"])
        return {key: _decode(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_decode(value) for value in state]
    return state
