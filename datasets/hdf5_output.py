"""New HDF5 files that survive a full disk.

If a write fails inside the HDF5 library, the library keeps the file open, complains again whenever
one of its objects is released, and may crash the process. So it writes through `OutputFile`, which
keeps the first error to itself, discards what follows, and lets the library close the file in
peace; then the error is raised.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py


class OutputFile(io.RawIOBase):
    """A new binary file whose operations never fail; `check` raises the error that was kept.

    Args:
        path: of the file; one that is there is replaced.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._file = Path(path).open("w+b", buffering=0)  # noqa: SIM115
        self._position = self._end = 0
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of a write.

        Raises:
            OSError: such as a full disk.
        """
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, which may lie beyond the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._keep_error(self._write_all, view)
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, with zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._keep_error(self._read_all, view)
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self._end = self._position if size is None else size
        self._keep_error(self._file.truncate, self._end)
        return self._end

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Flush the file to the disk, and close it."""
        if not self._file.closed:
            self._keep_error(os.fsync, self._file.fileno())
            self._keep_error(self._file.close)
        super().close()

    def _keep_error(self, operation: Callable[..., object], *arguments: Any) -> None:
        if self._error is None:
            try:
                operation(*arguments)
            except OSError as error:
                self._error = error

    def _write_all(self, view: memoryview) -> None:
        self._file.seek(self._position)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])

    def _read_all(self, view: memoryview) -> None:
        self._file.seek(self._position)
        got = 0
        while got < len(view) and (more := self._file.readinto(view[got:])):
            got += more


@contextlib.contextmanager
def new_hdf5(path: Path, **options: Any) -> Iterator[tuple[h5py.File, OutputFile]]:
    """Make an HDF5 file.

    Args:
        path: of the file; one that is there is replaced.
        options: of `h5py.File`.

    Yields:
        The open file, and what it writes to: call its `check` now and then, so that a disk that
        is full ends the work.

    Raises:
        OSError: a write failed; at the end of the block at the latest.
    """
    output = OutputFile(path)
    try:
        with h5py.File(output, "w", **options) as handle:
            yield handle, output
    finally:
        output.close()
    output.check()
