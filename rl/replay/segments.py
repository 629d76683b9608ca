"""The replay memory on disk: segments that are written once and never changed.

A memory is gigabytes, and most of it was there at the last save. So each save writes the
observations since the one before into a new segment, and segments whose observations were all
overwritten since are deleted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path, sha256_of
from datasets.contract.memory import machine_memory
from rl.replay.memory import ReplayMemory

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Segment:
    """A file with the observations of numbers `first` to `end` (exclusive)."""

    name: str
    first: int
    end: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class UnsavedRows:
    """A copy of the observations that no segment holds yet.

    Attributes:
        rows: by column; empty if there are none.
        first: number of the first one.
        end: number after the last one.
        oldest: number of the oldest observation that the memory held.
    """

    rows: Columns
    first: int
    end: int
    oldest: int


class SegmentStore:
    """Segments of one run, in `<checkpoints>/memory/`.

    Attributes:
        segments: written or adopted so far, by age.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._folder = checkpoints / "memory"
        self.segments: list[Segment] = []

    def path(self, segment: Segment) -> Path:
        """Where a segment lies."""
        return self._folder / segment.name

    def unsaved(self, memory: ReplayMemory) -> UnsavedRows:
        """Copy what `memory` holds beyond the last segment.

        Args:
            memory: may change as soon as this returns.
        """
        done = self.segments[-1].end if self.segments else 0
        first = min(max(done, memory.oldest), memory.total)
        rows = memory.rows(first) if memory.total > first else {}
        return UnsavedRows(rows, first, memory.total, memory.oldest)

    def append(self, memory: ReplayMemory | UnsavedRows) -> list[Segment]:
        """Write what `memory` holds beyond the last segment.

        Args:
            memory: the memory, or what `unsaved` copied of it since the last call.

        Returns:
            The segments that hold all of the memory's rows.

        Raises:
            UserError: the disk is full.
        """
        new = memory if isinstance(memory, UnsavedRows) else self.unsaved(memory)
        if new.end > new.first:
            rows = {name: torch.from_numpy(c) for name, c in new.rows.items()}
            path = self._folder / f"rows_{new.first:012d}_{new.end:012d}.pt"
            _save(path, rows)
            size = path.stat().st_size
            self.segments.append(Segment(path.name, new.first, new.end, size, sha256_of(path)))
        self.segments = [s for s in self.segments if s.end > new.oldest]
        return list(self.segments)

    def adopt(self, segments: Sequence[Segment]) -> None:
        """Continue after the segments of a checkpoint.

        Files of a lost future stay until the next save: the checkpoint before may need some.
        """
        self.segments = list(segments)

    def keep_only(self, names: Collection[str]) -> None:
        """Delete all segment files but these."""
        for path in self._folder.glob("rows_*.pt"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def restore(self, memory: ReplayMemory, cursor: Mapping[str, Any]) -> None:
        """Fill a memory from the adopted segments.

        Args:
            memory: replaced by what was saved.
            cursor: of the saved memory (`ReplayMemory.cursor`).

        Raises:
            ValueError: segments are missing or do not fit.
        """
        oldest, total = int(cursor["oldest"]), int(cursor["total"])
        _check_cursor(cursor, memory)
        rows: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in memory.rows(memory.total)}
        place = oldest
        for segment in self.segments:
            if segment.first > place:
                break
            # Mapped, not read: the ring will be the only copy in memory.
            path = self.path(segment)
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if any(len(loaded[name]) != segment.end - segment.first for name in rows):
                raise ValueError(f"replay memory: {segment.name} has not the rows that it names")
            for name, parts in rows.items():
                parts.append(loaded[name].numpy()[place - segment.first :])
            place = segment.end
        if place != total:
            raise ValueError(f"replay memory: observations {place} to {total} are missing")
        memory.restore(cursor, rows)
        memory.check_valid()


def _save(path: Path, rows: Mapping[str, torch.Tensor]) -> None:
    """Write a segment atomically.

    Raises:
        UserError: the disk is full.
    """
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(rows), file)
    except RuntimeError as error:  # torch reports a full disk its own way
        raise UserError(f"{path}: could not be saved ({error}); nothing was replaced") from error


def _check_cursor(cursor: Mapping[str, Any], memory: ReplayMemory) -> None:
    """Refuse a cursor that no memory of this machine can have had.

    Raises:
        ValueError: what is wrong with it.
    """
    base, oldest, total, capacity = (
        int(cursor[name]) for name in ("base", "oldest", "total", "capacity")
    )
    if not (0 <= base <= oldest <= total and total - oldest <= capacity):
        raise ValueError(f"replay memory: numbers out of order ({base}, {oldest}, {total})")
    most = machine_memory()
    if most is not None and capacity * memory.bytes_per_transition > most:
        raise ValueError(f"replay memory: a capacity of {capacity:,} fits on no such machine")
