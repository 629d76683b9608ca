"""One write at a time in a thread, with its error handed to the caller.

Writing a checkpoint is checksums, system calls and waiting for the disk, during most of which
Python's lock is free: the learner goes on meanwhile.
"""

import threading
from collections.abc import Callable


class BackgroundWrite:
    """Runs one function at a time in a thread of its own."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], object]) -> None:
        """Begin a write.

        Args:
            write: called in the thread; what it uses must not change until it has ended.

        Raises:
            ValueError: one is under way.
            BaseException: the error of the one before, if it was not raised yet.
        """
        if self.busy:
            raise ValueError("a write is under way")
        self.check()

        def run() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error  # raised where it is asked for

        # A daemon: an interpreter that ends at once leaves what a kill leaves.
        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a write that has ended; once for each."""
        if not self.busy and self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait for the write under way, then raise its error if there is one."""
        if self._thread is not None:
            self._thread.join()
        self.check()
