"""Personal records of a map, put aside while the map is loaded: their ghosts would be in frames."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from datasets.locking import ProcessLock

logger = logging.getLogger(__name__)

SUFFIX: Final = ".Replay.gbx"
ASIDE: Final = ".rulka.bak"
LOOK_S: Final = 0.2


@contextmanager
def records_aside(autosaves: Path, map_path: str) -> Iterator[None]:
    """Rename the records of a map, and put them back; those of a killed process, too.

    Args:
        autosaves: folder of the records; nothing happens if there is none.
        map_path: of the map, below the folder of challenges.
    """
    if not autosaves.is_dir():
        yield
        return
    # Several games load maps: one at a time, so that none sees records put back by another.
    with _locked(autosaves / ".rulka.lock"):
        for record in _records(autosaves, map_path, SUFFIX):
            _rename(record, record.name + ASIDE)
        try:
            yield
        finally:
            for aside in _records(autosaves, map_path, SUFFIX + ASIDE):
                name = aside.name.removesuffix(ASIDE)
                if not aside.with_name(name).exists():
                    _rename(aside, name)


def _rename(path: Path, name: str) -> None:
    """Rename a file; one that another program holds open stays, and its ghost may be in frames."""
    try:
        path.replace(path.with_name(name))
    except OSError as error:
        logger.warning("%s: cannot be renamed to %s (%s)", path, name, error.strerror or error)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for a lock and hold it."""
    while True:
        try:
            lock = ProcessLock(path)
            break
        except BlockingIOError:
            time.sleep(LOOK_S)
    try:
        yield
    finally:
        lock.remove()


def _records(autosaves: Path, map_path: str, suffix: str) -> list[Path]:
    """Return the files `LOGIN_MAP` + `suffix` of all logins."""
    name = PurePosixPath(map_path.replace("\\", "/")).name
    for ending in (".Challenge.Gbx", ".Challenge.gbx", ".gbx", ".Gbx"):
        name = name.removesuffix(ending)
    return [path for path in autosaves.iterdir() if path.name.endswith(f"_{name}{suffix}")]
