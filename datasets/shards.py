"""The HDF5 files that make a dataset: one, or the shards of a folder; opened, checked, compared.

The writer lists the shards of a folder in `dataset.json`. A folder without it, such as one made by
hand, is taken as it is, but shards that the writer numbered must be without a gap.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.format import (
    LABEL_ACTIONS,
    ROW_DTYPES,
    DatasetSpec,
    read_replay_table,
    read_spec,
    row_shapes,
)

logger = logging.getLogger(__name__)

FOLDER_INDEX: Final = "dataset.json"
SHARD_NAME: Final = "shard_{:05d}.h5"
SHARED: Final = ("image_size", "frame_interval_ms", "key_ms", "has_floats", "wheel_order")
"""What all shards of a dataset have in common."""


@dataclass(frozen=True)
class Part:
    """One HDF5 file of a dataset.

    Attributes:
        offsets: byte offset of each row dataset that is stored contiguously in the file, so that it
            can be read past the library, without its overhead and its global lock.
        labelled: whether it has label actions.
    """

    path: Path
    spec: DatasetSpec
    replays: npt.NDArray[np.void]
    n_frames: int
    n_actions: int
    offsets: dict[str, int]
    labelled: bool = False


def open_part(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        UserError: it is missing, not HDF5, or truncated.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file, or its head is damaged")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        short = "truncated" if "truncated" in str(error) else "damaged"
        raise UserError(f"{path}: {short} HDF5 file; copy or record it again") from error


def _load_part(path: Path) -> Part:
    with open_part(path) as handle:
        spec = read_spec(handle, path)
        try:
            replays = read_replay_table(handle, path)
            rows = {name: handle.get(name) for name in ROW_DTYPES}
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged HDF5 file ({error})") from error
        missing = [name for name, rows_of in rows.items() if not isinstance(rows_of, h5py.Dataset)]
        if missing:
            raise UserError(f"{path}: no dataset {missing[0]!r}; the file is damaged or foreign")
        n_frames, n_actions = len(rows["frames"]), len(rows["actions"])
        for name, shape in row_shapes(n_frames, n_actions, spec.image_size).items():
            if rows[name].shape != shape or rows[name].dtype != ROW_DTYPES[name]:
                raise UserError(
                    f"{path}: {name} is {rows[name].dtype} {rows[name].shape}, "
                    f"expected {np.dtype(ROW_DTYPES[name])} {shape}"
                )
        labelled = _has_labels(path, handle.get(LABEL_ACTIONS), n_actions)
        offsets = {name: rows[name].id.get_offset() for name in ROW_DTYPES}
        _check_ranges(path, replays, n_frames, n_actions)
    size = path.stat().st_size
    for name, offset in offsets.items():
        if offset is not None and offset + rows_bytes(name, spec, n_frames, n_actions) > size:
            raise UserError(f"{path}: truncated HDF5 file; copy or record it again")
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    return Part(path, spec, replays, n_frames, n_actions, known, labelled)


def _has_labels(path: Path, rows: object, n_actions: int) -> bool:
    if rows is None:
        return False
    if not isinstance(rows, h5py.Dataset) or rows.shape != (n_actions,) or rows.dtype != np.uint8:
        raise UserError(f"{path}: {LABEL_ACTIONS} is not uint8 ({n_actions},) like actions")
    return True


def rows_bytes(name: str, spec: DatasetSpec, n_frames: int, n_actions: int) -> int:
    """Bytes of one row dataset."""
    shape = row_shapes(n_frames, n_actions, spec.image_size)[name]
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(ROW_DTYPES[name]).itemsize


def _check_ranges(path: Path, replays: npt.NDArray[np.void], n_frames: int, n_actions: int) -> None:
    """Check that the replays cover the rows one after another, without gap or overlap."""
    for kind, total in (("frame", n_frames), ("action", n_actions)):
        ends = replays[f"first_{kind}"] + replays[f"{kind}_count"]
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        if not np.array_equal(starts, replays[f"first_{kind}"]) or (ends[-1:] != total).any():
            raise UserError(f"{path}: the table of replays does not cover its {total} {kind}s")
        if (replays[f"{kind}_count"] < 0).any():
            raise UserError(f"{path}: a replay has a negative number of {kind}s")


def load_parts(path: Path, *, skip_bad: bool = False) -> tuple[list[Part], list[str]]:
    """Return the files of a dataset, checked alone and against one another.

    Args:
        path: a file, or a folder of shards.
        skip_bad: leave out the shards of a folder that are missing, damaged, of another version or
            unlike the others, instead of refusing the folder. A single file is never skipped.

    Returns:
        The files, and one line for each that was left out.

    Raises:
        UserError: a bad file, named with its path; or no good one is left.
    """
    if not path.is_dir():
        return [_load_part(path)], []
    shards, problems = _find_shards(path)
    parts: list[Part] = []
    for shard in shards:
        try:
            parts.append(_load_part(shard))
        except UserError as error:
            problems.append(str(error))
        if problems and not skip_bad:
            raise UserError(problems[0])
    parts, unlike = _alike(parts)
    problems += unlike
    if problems and not skip_bad:
        raise UserError(problems[0])
    if not parts:
        raise UserError(f"{path}: none of its {len(problems)} shards can be used ({problems[0]})")
    for problem in problems:
        logger.warning("shard skipped: %s", problem)
    return parts, problems


def _find_shards(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the shards that a folder has, and what is wrong with its list of them."""
    there = sorted(folder.glob("*.h5"))
    index = folder / FOLDER_INDEX
    if index.exists():
        names = read_json(index)
        names = names.get("shards") if isinstance(names, dict) else None
        if not isinstance(names, list):
            raise UserError(f"{index}: not a list of shards; remove it to read every .h5 beside it")
        listed = [folder / str(name) for name in names]
    else:
        listed = _numbered(folder, there) or there
    problems = [
        f"{shard}: this shard of the dataset is missing; copy it again"
        for shard in listed
        if not shard.is_file()
    ]
    problems += [
        f"{shard}: not among the shards that {FOLDER_INDEX} lists; move it elsewhere, or remove "
        f"{FOLDER_INDEX} to read every .h5 of the folder"
        for shard in there
        if shard not in listed
    ]
    if not listed:
        raise UserError(f"{folder}: a folder without .h5 shards")
    return [shard for shard in listed if shard in there], problems


def _numbered(folder: Path, there: list[Path]) -> list[Path]:
    """Return the files and the first missing one, if all are numbered as the writer does."""
    matches = [re.fullmatch(r"shard_(\d{5,})\.h5", shard.name) for shard in there]
    numbers = {int(match[1]) for match in matches if match}
    if len(numbers) < len(there) or not numbers:
        return []
    missing = min(set(range(len(numbers) + 1)) - numbers)
    gap = [folder / SHARD_NAME.format(missing)] if missing < max(numbers) else []
    return [*there, *gap]


def _alike(parts: list[Part]) -> tuple[list[Part], list[str]]:
    """Return the files that agree with most frames, and what is wrong with the others."""
    votes: Counter[tuple[object, ...]] = Counter()
    for part in parts:
        votes[tuple(getattr(part.spec, what) for what in SHARED)] += part.n_frames
    if len(votes) < 2:
        return parts, []
    usual = dict(zip(SHARED, votes.most_common(1)[0][0], strict=True))
    alike, problems = [], []
    for part in parts:
        other = [what for what in SHARED if getattr(part.spec, what) != usual[what]]
        if not other:
            alike.append(part)
            continue
        found, expected = getattr(part.spec, other[0]), usual[other[0]]
        problems.append(
            f"{part.path}: {other[0]} is {found}, but {expected} in most shards of the folder; "
            "record it again, or move it to a dataset of its own"
        )
    return alike, problems
