"""Checkpoints that are whole or absent, with the previous one kept.

A checkpoint is a folder `checkpoints/<number>/` of tensor files with a manifest of their sizes and
hashes. It is written under a temporary name, flushed and renamed, and the rename flushed, too.
Reading starts with the newest and falls back, with a warning, to the one before it if a file is
damaged. What is too large to be written each time, the replay memory, lies in segments beside them
(`rl.replay.segments`), which the manifest lists with their hashes.
"""

import itertools
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from datasets.contract.errors import UserError
from datasets.contract.files import fsync_folder, read_json, sha256_of, write_json
from rl.replay.segments import Segment, SegmentStore

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
KEPT: Final = 2
_ARRAY: Final = "__ndarray__"


def save_checkpoint(
    folder: Path,
    parts: Mapping[str, Any],
    segments: Sequence[Segment] = (),
    *,
    kept: int = KEPT,
) -> Path:
    """Write a checkpoint and remove all but the last `kept`, with the segments only they need.

    Args:
        folder: the run's `checkpoints` folder.
        parts: file stem -> state of tensors, arrays, numbers, strings, lists and dicts.
        segments: of the replay memory that belong to it, written before.
        kept: how many there are afterwards; earlier ones go once this one is whole.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there stays.
    """
    found = _numbered(folder)
    number = int(found[-1].name) + 1 if found else 1
    target, temporary = folder / f"{number:06d}", folder / f".{number:06d}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {}
        for name, state in parts.items():
            path = temporary / f"{name}.pt"
            torch.save(encode(state), path)
            _flush(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        manifest = {
            "format_version": FORMAT_VERSION,
            "files": files,
            "segments": [asdict(segment) for segment in segments],
        }
        write_json(temporary / MANIFEST, manifest)
        temporary.rename(target)
        fsync_folder(folder)
    except (OSError, RuntimeError, UserError) as error:  # torch reports a full disk its own way
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"{target}: the checkpoint could not be saved ({error}); earlier ones are kept"
        ) from error
    _prune(folder, kept)
    return target


def load_checkpoint(folder: Path) -> tuple[Path, dict[str, Any], list[Segment]]:
    """Read the newest checkpoint that is whole; damaged ones are renamed and reported.

    Returns:
        Its folder, its parts as they were given to `save_checkpoint`, and its segments.

    Raises:
        UserError: there is none.
    """
    found = _numbered(folder)
    for path in reversed(found):
        problem = check_checkpoint(path)
        if problem is None:
            return path, _read(path), _segments(path)
        then = "using the checkpoint before it" if path != found[0] else "there is none before it"
        logger.warning("%s is damaged (%s); %s", path, problem, then)
        _set_aside(path)
    raise UserError(
        f"{folder}: no usable checkpoint"
        + (
            f" ({len(found)} damaged)"
            if found
            else "; the run stopped before its first save: start it again"
        )
    )


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that its number is free and nothing is lost."""
    names = (f"{path.name}.damaged{'' if n == 1 else n}" for n in itertools.count(1))
    path.rename(next(free for name in names if not (free := path.with_name(name)).exists()))


def peek_checkpoint(
    folder: Path, names: Sequence[str]
) -> tuple[Path, dict[str, Any], dict[str, str]]:
    """Read some parts of another run's newest usable checkpoint; the disk is left as it is.

    The replay memory is not looked at. The other run may go on meanwhile and remove what is being
    read, so a look that finds nothing is repeated while checkpoints come and go.

    Args:
        folder: the other run's `checkpoints` folder.
        names: of the parts.

    Returns:
        The checkpoint's folder, its parts, and the SHA-256 of each.

    Raises:
        UserError: there is none.
    """
    before: list[Path] | None = None
    while (found := _numbered(folder)) != before:
        for path in reversed(found):
            try:
                problem = _check_parts(path, names)
                if problem is None:
                    return path, _read(path, names), _hashes(path, names)
            except (OSError, UserError) as error:
                problem = str(error)
            logger.warning("%s cannot be used (%s)", path, problem)
        before = found
    raise UserError(
        f"{folder}: no usable checkpoint"
        + (f" ({len(found)} damaged)" if found else "; the run stopped before its first save")
    )


def check_checkpoint(path: Path) -> str | None:
    """Return what is wrong with a checkpoint's files; None if they are as written."""
    problem = _check_parts(path)
    if problem is not None:
        return problem
    store = SegmentStore(path.parent)
    for segment in _segments(path):
        problem = _check_file(store.path(segment), segment.bytes, segment.sha256)
        if problem is not None:
            return problem
    return None


def _check_parts(path: Path, names: Sequence[str] | None = None) -> str | None:
    """Return what is wrong with some parts, or all, except the replay memory."""
    try:
        manifest = read_json(path / MANIFEST)
    except UserError as error:
        return str(error)
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        return f"its format is not version {FORMAT_VERSION}"
    files = manifest["files"]
    for name in files if names is None else [f"{name}.pt" for name in names]:
        if name not in files:
            return f"it has no {name}"
        problem = _check_file(path / name, files[name]["bytes"], files[name]["sha256"])
        if problem is not None:
            return problem
    return None


def _check_file(file: Path, size: int, sha256: str) -> str | None:
    if not file.exists():
        return f"{file.name} is missing"
    if file.stat().st_size != size:
        return f"{file.name} has {file.stat().st_size} of {size} bytes"
    if sha256_of(file) != sha256:
        return f"{file.name} has another hash than when it was saved"
    return None


def _read(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    if names is None:
        names = [Path(name).stem for name in read_json(path / MANIFEST)["files"]]
    return {
        name: decode(torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True))
        for name in names
    }


def _hashes(path: Path, names: Sequence[str]) -> dict[str, str]:
    files = read_json(path / MANIFEST)["files"]
    return {name: files[f"{name}.pt"]["sha256"] for name in names}


def _segments(path: Path) -> list[Segment]:
    return [Segment(**entry) for entry in read_json(path / MANIFEST)["segments"]]


def _prune(folder: Path, kept: int) -> None:
    """Drop old checkpoints, and segments that none of the others lists."""
    found = _numbered(folder)
    for old in found[:-kept]:
        hidden = folder / f".{old.name}.tmp"  # a kill half-way leaves no half checkpoint
        old.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    needed = {s.name for path in found[-kept:] for s in _segments(path)}
    SegmentStore(folder).keep_only(needed)


def _numbered(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def encode(state: Any) -> Any:
    """Arrays as marked tensors, so that files load with `weights_only=True`."""
    if isinstance(state, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(state)), "shape": list(state.shape)}
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, Mapping):
        return {key: encode(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [encode(value) for value in state]
    return state


def decode(state: Any) -> Any:
    """Inverse of `encode`, with lists for tuples."""
    if isinstance(state, dict):
        if _ARRAY in state:
            return state[_ARRAY].numpy().reshape(state["shape"])
        return {key: decode(value) for key, value in state.items()}
    if isinstance(state, list):
        return [decode(value) for value in state]
    return state
