"""Checkpoints that are whole or absent, with the previous one kept.

A checkpoint is a folder `checkpoints/<number>/` of tensor files with a manifest of their sizes and
hashes. It is written under a temporary name, flushed and renamed, and the rename flushed, too.
Reading starts with the newest and falls back, with a warning, to the one before it if a file is
damaged. What is too large to be written each time, the replay memory, lies in segments beside them
(`rl.replay.segments`), which the manifest lists with their hashes.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter

from datasets.contract.errors import UserError, one_line_of
from datasets.contract.files import fsync_folder, read_json, set_aside, sha256_of, write_json
from datasets.contract.memory import is_out_of_memory
from datasets.validation import validating
from rl.replay.segments import Segment, SegmentStore
from rl.transfer.tensor_files import is_plain

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
KEPT: Final = 2
_ARRAY: Final = "__ndarray__"

Result = TypeVar("Result")
Parts = dict[str, Any]
"""File stem -> state, as it was given to `save_checkpoint`."""


@dataclass(frozen=True)
class FileFacts:
    """What the manifest says of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says, checked.

    Attributes:
        files: of the checkpoint, by name.
        segments: of the replay memory that belong to it.
    """

    files: dict[str, FileFacts]
    segments: list[Segment]


_MANIFEST: Final = TypeAdapter(Manifest)


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
        raise UserError(
            f"{target}: the checkpoint could not be saved ({error}); earlier ones are kept"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # it is there only if something failed
    _prune(folder, kept)
    return target


def load_checkpoint(folder: Path) -> tuple[Path, Parts, list[Segment]]:
    """Read the newest checkpoint that is whole; damaged ones are renamed and reported.

    Returns:
        Its folder, its parts as they were given to `save_checkpoint`, and its segments.

    Raises:
        UserError: there is none.
    """
    return use_checkpoint(folder, lambda path, parts, segments: (path, parts, segments))


def use_checkpoint(folder: Path, use: Callable[[Path, Parts, list[Segment]], Result]) -> Result:
    """Use the newest checkpoint that can be used.

    One whose files are not as they were written is renamed and reported at once. One whose content
    `use` does not take is renamed once an earlier one was taken: if none is, the fault may lie in
    how the run is continued.

    Args:
        folder: the run's `checkpoints` folder.
        use: takes the checkpoint's folder, parts and segments. Any exception but a `UserError`, or
            one of the system, says that the content is damaged; what it changed until then must
            not matter to the next call.

    Raises:
        UserError: there is none, or `use` raised it.
    """
    found = _numbered(folder)
    refused: list[Path] = []
    problem = ""
    for path in reversed(found):
        damage = check_checkpoint(path)
        try:
            if damage is None:
                result = use(path, _read(path), _manifest(path).segments)
                for damaged in refused:
                    set_aside(damaged)
                return result
        except Exception as error:
            if not is_damage(error):
                raise
            problem = damage = one_line_of(error)
            refused.append(path)
        else:
            set_aside(path)
        then = "using the checkpoint before it" if path != found[0] else "there is none before it"
        logger.warning("%s is damaged (%s); %s", path, damage, then)
    if refused:
        raise UserError(f"{refused[-1]}: the run cannot be restored from it ({problem})")
    raise UserError(
        f"{folder}: no usable checkpoint"
        + (
            f" ({len(found)} damaged)"
            if found
            else "; the run stopped before its first save: start it again"
        )
    )


def is_damage(error: Exception) -> bool:
    """Whether an exception while a checkpoint is read lies in its content."""
    if isinstance(error, UserError) or is_out_of_memory(error):
        return False
    return not isinstance(error, OSError)


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
            except Exception as error:  # of files that another process may remove just now
                if is_out_of_memory(error):
                    raise
                problem = one_line_of(error)
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
    for segment in _manifest(path).segments:
        problem = _check_file(store.path(segment), segment.bytes, segment.sha256)
        if problem is not None:
            return problem
    return None


def _check_parts(path: Path, names: Sequence[str] | None = None) -> str | None:
    """Return what is wrong with some parts, or all, except the replay memory."""
    try:
        files = _manifest(path).files
    except UserError as error:
        return str(error)
    for name in files if names is None else [f"{name}.pt" for name in names]:
        if name not in files:
            return f"it has no {name}"
        problem = _check_file(path / name, files[name].bytes, files[name].sha256)
        if problem is not None:
            return problem
    return None


def _manifest(path: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        UserError: it is not one, or names files outside of its folder.
    """
    file = path / MANIFEST
    values = read_json(file)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{file}: its format is not version {FORMAT_VERSION}")
    with validating(file):
        found = _MANIFEST.validate_python(values)
    for name in (*found.files, *(segment.name for segment in found.segments)):
        if Path(name).name != name or "\0" in name:
            raise UserError(f"{file}: names {name}, which is not a file beside it")
    return found


def _check_file(file: Path, size: int, sha256: str) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != size:
        return f"{file.name} has {file.stat().st_size} of {size} bytes"
    if sha256_of(file) != sha256:
        return f"{file.name} has another hash than when it was saved"
    return None


def _read(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    if names is None:
        names = [Path(name).stem for name in _manifest(path).files]
    return {
        name: decode(torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True))
        for name in names
    }


def _hashes(path: Path, names: Sequence[str]) -> dict[str, str]:
    files = _manifest(path).files
    return {name: files[f"{name}.pt"].sha256 for name in names}


def _prune(folder: Path, kept: int) -> None:
    """Drop old checkpoints, and segments that none of the others lists."""
    found = _numbered(folder)
    for old in found[:-kept]:
        hidden = folder / f".{old.name}.tmp"  # a kill half-way leaves no half checkpoint
        old.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    try:
        needed = {s.name for path in found[-kept:] for s in _manifest(path).segments}
    except UserError as error:
        logger.warning("%s; no segment of the replay memory is deleted", error)
        return
    SegmentStore(folder).keep_only(needed)


def _numbered(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _is_number(path.name)]
    return sorted(found, key=lambda path: int(path.name))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


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
    """Inverse of `encode`, with lists for tuples.

    Raises:
        ValueError: an array claims more numbers than the file holds.
    """
    if isinstance(state, dict):
        if _ARRAY in state:
            if not is_plain(state[_ARRAY]):
                raise ValueError("an array that the file does not hold whole")
            return state[_ARRAY].numpy().reshape(state["shape"])
        return {key: decode(value) for key, value in state.items()}
    if isinstance(state, list):
        return [decode(value) for value in state]
    return state
