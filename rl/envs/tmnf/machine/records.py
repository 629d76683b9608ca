"""Personal records of a map, put aside while the map is loaded: their ghosts would be in frames."""

from __future__ import annotations

import errno
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from datasets.locking import ProcessLock

logger = logging.getLogger(__name__)

SUFFIX: Final = ".Replay.gbx"
ASIDE: Final = ".rulka.bak"
LOOK_S: Final = 0.2


@contextmanager
def records_aside(
    autosaves: Path, map_path: str, alive: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Rename the records of a map, and put them back; those of a killed process, too.

    No file is ever replaced: a record that comes back to a name that is taken gets a number.

    Args:
        autosaves: folder of the records; nothing happens if there is none.
        map_path: of the map, below the folder of challenges.
        alive: called while another game loads its map, as a sign that nothing hangs.
    """
    if not autosaves.is_dir():
        yield
        return
    # Several games load maps: one at a time, so that none sees records put back by another.
    with _locked(autosaves / ".rulka.lock", alive):
        _put_back(autosaves, map_path)  # what a killed process left, before newer records follow
        for record in _records(autosaves, map_path, SUFFIX):
            _rename(record, record.with_name(record.name + ASIDE))
        try:
            yield
        finally:
            _put_back(autosaves, map_path)


def _put_back(autosaves: Path, map_path: str) -> None:
    """Give the records of a map that are aside their names back, or a name with a number."""
    for aside in _records(autosaves, map_path, SUFFIX + ASIDE):
        name = aside.name.removesuffix(ASIDE)
        stem = name.removesuffix(SUFFIX)
        names = itertools.chain([name], (f"{stem}.{n}{SUFFIX}" for n in itertools.count(2)))
        _rename(aside, next(path for path in map(aside.with_name, names) if not path.exists()))


def _rename(path: Path, target: Path) -> None:
    """Rename a file, unless the name is taken.

    One that another program holds open keeps its name, and its ghost may be in frames.
    """
    try:
        if target.exists():
            raise FileExistsError(errno.EEXIST, "that name is taken")
        path.rename(target)
    except OSError as error:
        reason = error.strerror or error
        logger.warning("%s: cannot be renamed to %s (%s)", path, target.name, reason)


@contextmanager
def _locked(path: Path, alive: Callable[[], None]) -> Iterator[None]:
    """Wait for a lock and hold it; go on without one where there are none."""
    lock = _lock_of(path, alive)
    try:
        yield
    finally:
        if lock is not None:
            lock.remove()


def _lock_of(path: Path, alive: Callable[[], None]) -> ProcessLock | None:
    """Wait for a lock; None if the system has none for this file."""
    while True:
        try:
            return ProcessLock(path)
        except BlockingIOError:
            time.sleep(LOOK_S)
            alive()
        except OSError as error:
            reason = error.strerror or error
            logger.warning("%s: cannot be locked (%s); another game may load now", path, reason)
            return None


def _records(autosaves: Path, map_path: str, suffix: str) -> list[Path]:
    """Return the files `LOGIN_MAP` + `suffix` of all logins, also those with a number."""
    name = PurePosixPath(map_path.replace("\\", "/")).name
    for ending in (".Challenge.Gbx", ".Challenge.gbx", ".gbx", ".Gbx"):
        name = name.removesuffix(ending)
    pattern = re.compile(rf".*_{re.escape(name)}(\.\d+)*{re.escape(suffix)}")
    return sorted(path for path in autosaves.iterdir() if pattern.fullmatch(path.name))
