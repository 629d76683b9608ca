"""Columns of event files in a folder, by size and time of change of the file."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path, parse_json
from pipeline.analysis.events.event_file import EventFile

logger = logging.getLogger(__name__)

CACHE_FOLDER: Final = Path("output/cache/event_files")
_FORMAT: Final = 1
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
"""Attributes of `EventFile` that are kept as JSON."""


@dataclass(frozen=True)
class FileState:
    """What tells a file from a changed one, and from another.

    Attributes:
        format: of the cache.
        path: of the file, resolved.
        size: of the file in bytes.
        mtime_ns: time of its last change, in ns since 1970.
    """

    format: int
    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the state of a file.

        Raises:
            OSError: it cannot be read.
        """
        stat = path.stat()
        return cls(_FORMAT, str(path.resolve()), stat.st_size, stat.st_mtime_ns)

    def cached_in(self, cache: Path) -> Path:
        """Return where the columns of the file lie in a folder of cached columns."""
        digest = hashlib.sha256(self.path.encode("utf-8", errors="surrogatepass")).hexdigest()
        return cache / f"{digest[:32]}.columns"


def store_columns(cache: Path, state: FileState, found: EventFile) -> None:
    """Write the columns of a file; a cache that cannot be written is left out."""
    header = {
        "key": asdict(state),
        "tags": found.tags,
        **{name: getattr(found, name) for name in _PLAIN},
    }
    try:
        with atomic_path(state.cached_in(cache)) as temporary, temporary.open("wb") as file:
            text = json.dumps(header).encode()
            file.write(len(text).to_bytes(8, "little") + text)
            for column in (found.starts, found.steps, found.walls, found.values):
                np.save(file, column, allow_pickle=False)
    except UserError as error:
        logger.debug("no cache of %s: %s", found.path, error)


def load_columns(cache: Path, state: FileState, path: Path) -> EventFile | None:
    """Return the cached columns of a file, None if they are absent, of another state or damaged."""
    try:
        with state.cached_in(cache).open("rb") as file:
            header = _header(file)
            if header is None or header["key"] != asdict(state):
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
    header = parse_json(file.read(size))
    return header if isinstance(header, dict) and "key" in header else None
