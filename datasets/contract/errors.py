"""The one exception that stands for a mistake of the user, and any other one as a line."""

from typing import Final

MOST_SHOWN: Final = 200
"""Characters of a line that says what an exception was."""


class UserError(Exception):
    """A mistake that the user can mend: one readable line saying what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def one_line_of(error: BaseException) -> str:
    """Return what went wrong in one short line; libraries write several long ones."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
