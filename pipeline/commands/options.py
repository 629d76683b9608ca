"""Types of command-line options: a wrong value is refused before the command starts."""

import argparse
import math
from collections.abc import Callable
from typing import Final

LARGEST_COUNT: Final = 2**63 - 1


def _count(lowest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # Python's, for more than 4,300 digits too
            number = lowest - 1
        if not lowest <= number <= LARGEST_COUNT:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {lowest}, got {text}")
        return number

    return convert


positive_int: Final = _count(1)
"""A whole number from 1 to 2^63 - 1."""
non_negative_int: Final = _count(0)
"""A whole number from 0 to 2^63 - 1."""


def positive_number(text: str) -> float:
    """Return a finite number above 0.

    Raises:
        argparse.ArgumentTypeError: `text` is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return number
