"""The one console that commands print to.

Names of tracks, drivers, replays and files come from outside. They are printed as they are: what
looks like markup is none, and control characters, which could move the cursor, are escaped.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.failures import escape


class PlainConsole(Console):
    """A console that takes no text for markup; styles are those of `rich.text.Text` alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text`, wherever it is printed, as `Text`."""
        return super().render_str(escape(text), **options)


def say(text: str, style: str = "") -> None:
    """Print a line; a long one is not broken."""
    PlainConsole(soft_wrap=True, highlight=False).print(text, style=style or None)
