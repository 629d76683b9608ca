"""What a person watches: a line or a bar on a terminal, plain log lines elsewhere."""

import logging
import time
from types import TracebackType
from typing import Final, Self

import rich
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

logger = logging.getLogger(__name__)

LOG_EVERY_S: Final = 30.0
BAR_AFTER_S: Final = 2.0
"""A step that is over sooner needs no bar."""


class ProgressLine:
    """Shows one line of text that is replaced; off a terminal, it is logged now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or rich.get_console()
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

    def say(self, text: str) -> None:
        """Replace the line for a moment, on a terminal only."""
        if self._status is not None:
            self._status.update(Text(text))  # a plain string would be read as markup

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._status is not None:
            self.say(text)
        elif time.monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = time.monotonic()
            logger.info("%s", text)


class ProgressBar:
    """Shows how far one long step is, once it turns out to be long."""

    def __init__(self, text: str, console: Console | None = None) -> None:
        """Name the step; nothing is shown yet."""
        self._text = text
        self._console = console or rich.get_console()
        self._bar: Progress | None = None
        self._started = self._logged_at = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to count the time."""
        self._started = self._logged_at = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, share: float) -> None:
        """Show that `share` of the step is done, in [0, 1]."""
        now = time.monotonic()
        if self._console.is_terminal:
            if self._bar is None and now - self._started >= BAR_AFTER_S:
                self._bar = self._new_bar()
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=share)
        elif now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            logger.info("%s: %.0f%%", self._text, 100.0 * share)

    def _new_bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
        )
        bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        bar.add_task(self._text, total=1.0)
        bar.start()
        return bar


def duration(seconds: float) -> str:
    """Seconds as `1 h 05 min`, `5 min 03 s` or `42 s`."""
    whole = max(round(seconds), 0)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"
