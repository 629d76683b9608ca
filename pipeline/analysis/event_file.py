"""One event file as columns: what it holds, whether its end is whole, and a cache of the result."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path
from pipeline.analysis.event_scan import (
    CRC_TABLES,
    DAMAGED,
    FULL,
    JUMPS,
    LEAST_VALUE_BYTES,
    N_ENTRIES,
    N_MARKS,
    N_TAGS,
    POOL_USED,
    SHIFT,
    group_by_tag,
    scan,
)

logger = logging.getLogger(__name__)

EVENT_FILES: Final = "events.out.tfevents.*"
CACHE_FOLDER: Final = Path("output/cache/event_files")
_CACHE_FORMAT: Final = 1
_CHUNK_BYTES: Final = 1 << 23
_ENTRIES: Final = 1 << 18
"""Scalars that are read between two looks at the arrays' room."""

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Problem = Literal["cut", "damaged"]
Watch = Callable[[int], None]
"""Called with the number of bytes read since the last call."""


@dataclass(frozen=True)
class EventFile:
    """The scalars of one event file, sorted by tag and in the order of writing within a tag.

    Attributes:
        path: of the file.
        tags: names, sorted as first seen.
        starts: (T + 1,) where each tag's part of the columns begins.
        steps: (N,) step of each entry.
        walls: (N,) wall time in s since 1970; backward jumps of the clock are taken out.
        values: (N,) may hold NaN and infinities.
        hides_from: least step at which a session mark of this file hides what earlier files wrote,
            None without a mark.
        entries: scalars of the file, those of tags that were not kept included.
        first_step: step of the first entry.
        last_step: largest step.
        first_wall: earliest wall time in s, NaN without entries.
        last_wall: latest wall time in s.
        size: bytes of the file when it was read.
        read: bytes of its whole records.
        problem: why less was read than the file holds; None if it is whole.
        clock_jumps: how often the clock went back by more than `CLOCK_TOLERANCE_S`.
        clock_jump_s: by how many s in all.
    """

    path: Path
    tags: tuple[str, ...]
    starts: Int64s
    steps: Int64s
    walls: Floats
    values: Floats
    hides_from: int | None
    entries: int
    first_step: int
    last_step: int
    first_wall: float
    last_wall: float
    size: int
    read: int
    problem: Problem | None
    clock_jumps: int
    clock_jump_s: float
    _index: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the tags."""
        self._index.update({tag: i for i, tag in enumerate(self.tags)})

    def part(self, tag: str) -> slice:
        """Return where a tag's entries lie in the columns; an empty slice if it has none."""
        index = self._index.get(tag)
        if index is None:
            return slice(0, 0)
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def only(self, wanted: Callable[[str], bool]) -> "EventFile":
        """Return the same file with the columns of some tags alone, to save memory."""
        kept = [tag for tag in self.tags if wanted(tag)]
        if len(kept) == len(self.tags):
            return self
        parts = [self.part(tag) for tag in kept]
        places = [np.arange(part.start, part.stop) for part in parts]
        order = np.concatenate([np.zeros(0, np.int64), *places]).astype(np.int64)
        return dataclasses.replace(
            self,
            tags=tuple(kept),
            starts=np.cumsum([0, *(part.stop - part.start for part in parts)]),
            steps=self.steps[order],
            walls=self.walls[order],
            values=self.values[order],
            _index={},
        )

    def note(self) -> str | None:
        """Return one line about what is wrong with the file, None if nothing is."""
        if self.problem == "cut":
            left = self.size - self.read
            return (
                f"{self.path}: its last record is cut ({left:,} bytes left out); it is still "
                f"being written, or its writer was killed"
            )
        if self.problem == "damaged":
            left = self.size - self.read
            return f"{self.path}: damaged at byte {self.read:,}; {left:,} bytes after it left out"
        return None


def read_event_file(
    path: Path, cache: Path | None = CACHE_FOLDER, watch: Watch | None = None
) -> EventFile:
    """Return the scalars of an event file, from the cache if the file has not changed.

    Args:
        path: of the file.
        cache: folder of cached columns; None reads the file itself and writes no cache.
        watch: told of progress.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    key = {
        "format": _CACHE_FORMAT,
        "path": str(path.resolve()),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }
    if cache is not None:
        cached = _load(cache, key, path)
        if cached is not None:
            if watch is not None:
                watch(stat.st_size)
            return cached
    found = _Reader(path, stat.st_size, watch).read()
    if cache is not None:
        _store(cache, key, found)
    return found


class _Reader:
    """Reads one file in chunks, with arrays that grow."""

    def __init__(self, path: Path, size: int, watch: Watch | None) -> None:
        self._path, self._size, self._watch = path, size, watch
        self._counters = np.zeros(5, np.int64)
        self._clock = np.array([-np.inf, 0.0, -np.inf])
        self._places = np.zeros((1 << 12, 2), np.int64)
        self._plugins = np.zeros(1 << 12, np.uint8)
        self._slots = np.full(1 << 13, -1, np.int32)
        self._pool = np.zeros(1 << 18, np.uint8)
        self._marks = np.zeros((16, 2), np.int64)
        self._make_columns(_ENTRIES)
        self._parts: list[tuple[Any, ...]] = []
        self._flushed = 0
        self._all_marks: list[tuple[int, int]] = []

    def _make_columns(self, capacity: int) -> None:
        self._tags = np.zeros(capacity, np.int32)
        self._steps = np.zeros(capacity, np.int64)
        self._walls, self._values = np.zeros(capacity), np.zeros(capacity)

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
            at, status = scan(
                data,
                at,
                CRC_TABLES,
                self._slots,
                self._places,
                self._plugins,
                self._pool,
                self._counters,
                self._clock,
                self._tags,
                self._steps,
                self._walls,
                self._values,
                self._marks,
            )
            self._flush()
            if status == FULL:
                self._make_room(int.from_bytes(data[at : at + 8].tobytes(), "little"))
        return at, status

    def _flush(self) -> None:
        """Keep what the columns hold and empty them."""
        n, k = int(self._counters[N_ENTRIES]), int(self._counters[N_MARKS])
        self._all_marks += [(self._flushed + int(i), int(s)) for i, s in self._marks[:k]]
        if n:
            columns = (self._tags, self._steps, self._walls, self._values)
            self._parts.append(tuple(column[:n].copy() for column in columns))
            self._flushed += n
        self._counters[N_ENTRIES] = self._counters[N_MARKS] = 0

    def _make_room(self, record_bytes: int) -> None:
        """Make every array large enough for a record of `record_bytes`."""
        most = record_bytes // LEAST_VALUE_BYTES + 1
        if most > len(self._values):
            self._make_columns(most)
        n_tags = int(self._counters[N_TAGS])
        if n_tags + most > min(len(self._places), len(self._slots) // 2):
            self._grow_tags(2 * (n_tags + most))
        needed = int(self._counters[POOL_USED]) + record_bytes
        if needed > len(self._pool):
            self._pool = np.concatenate([self._pool, np.zeros(needed, np.uint8)])

    def _grow_tags(self, capacity: int) -> None:
        n_tags = int(self._counters[N_TAGS])
        places = np.zeros((capacity, 2), np.int64)
        plugins = np.zeros(capacity, np.uint8)
        places[:n_tags], plugins[:n_tags] = self._places[:n_tags], self._plugins[:n_tags]
        self._places, self._plugins = places, plugins
        slots = np.full(1 << (4 * capacity - 1).bit_length(), -1, np.int32)
        mask = len(slots) - 1
        for number, (begin, length) in enumerate(places[:n_tags]):
            hashed = 0xCBF29CE484222325
            for byte in self._pool[begin : begin + length].tolist():
                hashed = (hashed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
            slot = hashed & mask
            while slots[slot] >= 0:
                slot = (slot + 1) & mask
            slots[slot] = number
        self._slots = slots

    def _tag_names(self) -> tuple[str, ...]:
        pool = self._pool.tobytes()
        places = self._places[: int(self._counters[N_TAGS])].tolist()
        return tuple(pool[b : b + n].decode("utf-8", errors="replace") for b, n in places)

    def _file(self, consumed: int, problem: Problem | None) -> EventFile:
        names = self._tag_names()
        if self._parts:
            columns = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        else:
            columns = [np.zeros(0, t) for t in (np.int32, np.int64, np.float64, np.float64)]
        self._parts.clear()
        kept = _not_hidden(columns[1], self._all_marks)
        if kept is not None:
            columns = [column[kept] for column in columns]
        found, nothing = len(columns[1]), float("nan")
        first_step, last_step = (columns[1][0], columns[1].max()) if found else (0, 0)
        first_wall, last_wall = (columns[2].min(), columns[2].max()) if found else (nothing,) * 2
        starts, steps, walls, values = group_by_tag(
            columns[0], columns[1], columns[2], columns[3], len(names)
        )
        return EventFile(
            path=self._path,
            tags=names,
            starts=starts,
            steps=steps,
            walls=walls,
            values=values,
            hides_from=min((step for _, step in self._all_marks), default=None),
            entries=found,
            first_step=int(first_step),
            last_step=int(last_step),
            first_wall=float(first_wall),
            last_wall=float(last_wall),
            size=self._size,
            read=consumed,
            problem=problem,
            clock_jumps=int(self._counters[JUMPS]),
            clock_jump_s=float(self._clock[SHIFT]),
        )


def _not_hidden(steps: Int64s, marks: list[tuple[int, int]]) -> npt.NDArray[np.bool_] | None:
    """Return which entries no later mark of the same file hides, None if that is all of them."""
    kept = np.ones(len(steps), np.bool_)
    for before, step in marks:
        kept[:before] &= steps[:before] < step
    return None if kept.all() else kept


# -- cache --------------------------------------------------------------------------------------


def _cache_path(cache: Path, key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(key["path"].encode("utf-8", errors="surrogatepass")).hexdigest()
    return cache / f"{digest[:32]}.columns"


def _store(cache: Path, key: dict[str, Any], found: EventFile) -> None:
    """Write the columns of a file; a cache that cannot be written is left out."""
    header = {
        "key": key,
        "tags": found.tags,
        **{name: getattr(found, name) for name in _PLAIN},
    }
    try:
        with atomic_path(_cache_path(cache, key)) as temporary, temporary.open("wb") as file:
            text = json.dumps(header).encode()
            file.write(len(text).to_bytes(8, "little") + text)
            for column in (found.starts, found.steps, found.walls, found.values):
                np.save(file, column, allow_pickle=False)
    except UserError as error:
        logger.debug("no cache of %s: %s", found.path, error)


def _load(cache: Path, key: dict[str, Any], path: Path) -> EventFile | None:
    """Return the cached columns of a file, None if they are absent, of another state or damaged."""
    try:
        with _cache_path(cache, key).open("rb") as file:
            header = _header(file)
            if header is None or header["key"] != key:
                return None
            starts, steps, walls, values = (np.load(file, allow_pickle=False) for _ in range(4))
            same = len(steps) == len(walls) == len(values) == int(starts[-1])
            if not same or len(starts) != len(header["tags"]) + 1:
                return None
            plain = {name: header[name] for name in _PLAIN}
            tags = tuple(header["tags"])
            return EventFile(path, tags, starts, steps, walls, values, **plain)
    except (OSError, ValueError, KeyError, IndexError, EOFError):
        return None


def _header(file: IO[bytes]) -> dict[str, Any] | None:
    size = int.from_bytes(file.read(8), "little")
    if not 0 < size < 1 << 27:
        return None
    header = json.loads(file.read(size))
    return header if isinstance(header, dict) and "key" in header else None


_PLAIN: Final = (
    "hides_from",
    "entries",
    "first_step",
    "last_step",
    "first_wall",
    "last_wall",
    "size",
    "read",
    "problem",
    "clock_jumps",
    "clock_jump_s",
)
