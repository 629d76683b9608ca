"""A lock that one process holds and that ends with it, however it ends."""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import IO, Final

_HELD: Final = (errno.EAGAIN, errno.EACCES)
"""Errors of locking that mean "held by another"; the second one is that of Windows."""

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ProcessLock:
    """Holds `path` as a lock file until `release`, or until the process is gone."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            BlockingIOError: another process, or another object of this one, holds it.
            OSError: the file cannot be made, or its file system has no locks.
        """
        self._path = Path(path)
        self._file = self._path.open("a+b")
        try:
            _lock(self._file)
            is_there = self._is_there()
        except OSError as error:
            self._file.close()
            if error.errno in _HELD:
                raise BlockingIOError(f"{path} is locked") from error
            raise
        if not is_there:
            self._file.close()
            raise BlockingIOError(f"{path}: its owner has just removed it")

    def _is_there(self) -> bool:
        """Return whether the path still leads to the opened file."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Give the lock back together with its file."""
        if sys.platform == "win32":  # an open file cannot be removed there
            self._file.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        else:
            self._path.unlink(missing_ok=True)
            self._file.close()

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self._file.close()
