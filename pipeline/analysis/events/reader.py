"""Reads event files: their bytes in chunks into columns, or columns from the cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from pipeline.analysis.events.cache import CACHE_FOLDER, FileState, load_columns, store_columns
from pipeline.analysis.events.crc import CRC_TABLES
from pipeline.analysis.events.event_file import EventFile, Floats, Int64s, Problem
from pipeline.analysis.events.grouping import group_by_tag
from pipeline.analysis.events.scan import (
    DAMAGED,
    FULL,
    JUMPS,
    N_ENTRIES,
    N_MARKS,
    SHIFT,
    Columns,
    most_values,
    scan,
)
from pipeline.analysis.events.tag_table import TagTable

_CHUNK_BYTES: Final = 1 << 23
_ENTRIES: Final = 1 << 18
"""Scalars that are read between two looks at the arrays' room."""
_TAGS: Final = 1 << 12
_POOL_BYTES: Final = 1 << 18

Watch = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


def read_event_file(
    path: Path, cache: Path | None = CACHE_FOLDER, watch: Watch | None = None
) -> EventFile:
    """Return the scalars of an event file, from the cache if the file has not changed.

    Args:
        path: of the file.
        cache: folder of cached columns; None reads the file itself and writes no cache.
        watch: called with progress.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(path)
    try:
        state = FileState.of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if cache is not None:
        cached = load_columns(cache, state, path)
        if cached is not None:
            if watch is not None:
                watch(state.size)
            return cached
    found = _Reader(path, state.size, watch).read()
    if cache is not None:
        store_columns(cache, state, found)
    return found


class _Reader:
    """Reads one file in chunks, with arrays that grow."""

    def __init__(self, path: Path, size: int, watch: Watch | None) -> None:
        self._path, self._size, self._watch = path, size, watch
        self._tags = TagTable.empty(_TAGS, _POOL_BYTES)
        self._columns = Columns.empty(_ENTRIES)
        self._clock = np.array([-np.inf, 0.0, -np.inf, 0.0])
        self._parts: list[tuple[npt.NDArray[np.int32], Int64s, Floats, Floats]] = []
        self._flushed = 0
        self._marks: list[tuple[int, int]] = []

    def read(self) -> EventFile:
        """Read the file as far as it was long when it was opened."""
        left, consumed, status = np.zeros(0, np.uint8), 0, FULL
        try:
            with self._path.open("rb") as file:
                remaining = self._size
                while remaining > 0 and status != DAMAGED:
                    chunk = np.frombuffer(file.read(min(_CHUNK_BYTES, remaining)), np.uint8)
                    if not len(chunk):
                        break
                    remaining -= len(chunk)
                    data = np.concatenate([left, chunk]) if len(left) else chunk
                    at, status = self._scan(data)
                    consumed += at
                    left = data[at:]
                    if self._watch is not None:
                        self._watch(len(chunk))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self._path}: cannot be read ({reason})") from error
        problem: Problem | None = None
        if consumed < self._size:
            problem = "damaged" if status == DAMAGED else "cut"
        return self._file(consumed, problem)

    def _scan(self, data: npt.NDArray[np.uint8]) -> tuple[int, int]:
        at, status = 0, FULL
        while status == FULL:
            at, status = scan(data, at, CRC_TABLES, self._tags, self._columns, self._clock)
            self._flush()
            if status == FULL:
                self._make_room(int.from_bytes(data[at : at + 8].tobytes(), "little"))
        return at, status

    def _flush(self) -> None:
        """Keep what the columns hold and empty them."""
        columns = self._columns
        n, k = int(columns.used[N_ENTRIES]), int(columns.used[N_MARKS])
        self._marks += [(self._flushed + int(i), int(step)) for i, step in columns.marks[:k]]
        if n:
            tags, steps = columns.tags[:n].copy(), columns.steps[:n].copy()
            self._parts.append((tags, steps, columns.walls[:n].copy(), columns.values[:n].copy()))
            self._flushed += n
        columns.used[:] = 0

    def _make_room(self, record_bytes: int) -> None:
        """Make every array large enough for a record of `record_bytes`."""
        most = most_values(record_bytes)
        if most > len(self._columns.values):
            self._columns = Columns.empty(most)
        self._tags = self._tags.grown(most, record_bytes)

    def _columns_read(self) -> tuple[npt.NDArray[np.int32], Int64s, Floats, Floats]:
        """Return tags, steps, walls and values in the order of writing, without hidden entries."""
        if self._parts:
            tags, steps, walls, values = (
                np.concatenate(parts) for parts in zip(*self._parts, strict=True)
            )
        else:
            tags, steps = np.zeros(0, np.int32), np.zeros(0, np.int64)
            walls = values = np.zeros(0)
        self._parts.clear()
        kept = _not_hidden(steps, self._marks)
        if kept is None:
            return tags, steps, walls, values
        return tags[kept], steps[kept], walls[kept], values[kept]

    def _file(self, consumed: int, problem: Problem | None) -> EventFile:
        columns = self._columns_read()
        found, nothing = len(columns[1]), float("nan")
        first_step = columns[1][0] if found else 0
        names = self._tags.names()
        starts, steps, walls, values = group_by_tag(*columns, len(names))
        return EventFile(
            path=self._path,
            tags=names,
            starts=starts,
            steps=steps,
            walls=walls,
            values=values,
            hides_from=min((step for _, step in self._marks), default=None),
            entries=found,
            first_step=int(first_step),
            last_step=int(steps.max()) if found else 0,
            first_wall=float(walls.min()) if found else nothing,
            last_wall=float(walls.max()) if found else nothing,
            size=self._size,
            read=consumed,
            problem=problem,
            clock_jumps=int(self._clock[JUMPS]),
            clock_jump_s=float(self._clock[SHIFT]),
        )


def _not_hidden(steps: Int64s, marks: list[tuple[int, int]]) -> npt.NDArray[np.bool_] | None:
    """Return which entries no later mark of the same file hides, None if that is all of them."""
    kept = np.ones(len(steps), np.bool_)
    for before, step in marks:
        kept[:before] &= steps[:before] < step
    return None if kept.all() else kept
