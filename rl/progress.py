"""The line that a person watches: a rich status on a terminal, plain log lines elsewhere."""

import logging
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.status import Status

logger = logging.getLogger(__name__)

LOG_EVERY_S: Final = 30.0


class ProgressLine:
    """Shows one line of text that is replaced; off a terminal, it is logged now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._status: Status | None = None
        self._logged_at = 0.0

    def __enter__(self) -> Self:
        """Show the line."""
        if self._console.is_terminal:
            self._status = Status("", console=self._console, spinner="dots")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the line."""
        if self._status is not None:
            self._status.stop()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._status is not None:
            self._status.update(text)
        elif time.monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = time.monotonic()
            logger.info("%s", text)


def duration(seconds: float) -> str:
    """Seconds as `1 h 05 min`, `5 min 03 s` or `42 s`."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"
