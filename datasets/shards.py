"""The HDF5 files that make a dataset: one, or the shards of a folder; found and compared.

The writer lists the shards of a folder in `dataset.json`. A folder without it, such as one made by
hand, is taken as it is, but shards that the writer numbered must be without a gap.
"""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.part import Part, load_part

logger = logging.getLogger(__name__)

FOLDER_INDEX: Final = "dataset.json"
SHARD_NAME: Final = "shard_{:05d}.h5"
SHARED: Final = ("image_size", "frame_interval_ms", "key_ms", "has_floats", "wheel_order")
"""What all shards of a dataset have in common."""


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
        return [load_part(path)], []
    shards, problems = _find_shards(path)
    parts: list[Part] = []
    for shard in shards:
        try:
            parts.append(load_part(shard))
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
