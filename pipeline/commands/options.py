"""Types of command-line options: a wrong value is refused before the command starts."""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.race import LARGEST_SEED

LOGDIR: Final = Path("tensorboard")
LARGEST_COUNT: Final = 2**63 - 1
LONGEST_NAME: Final = 255
"""Bytes of a name that file systems take."""
LONGEST_PATH: Final = 4096
LONGEST_SUFFIX: Final = 40
"""Bytes that are left for what a file is called while it is written."""


def _whole(lowest: int, highest: int = LARGEST_COUNT) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # Python's, for more than 4,300 digits too
            number = lowest - 1
        if not lowest <= number <= highest:
            limits = f">= {lowest}" if highest == LARGEST_COUNT else f"from {lowest} to {highest:,}"
            raise argparse.ArgumentTypeError(f"expected a whole number {limits}, got {text}")
        return number

    return convert


positive_int: Final = _whole(1)
"""A whole number from 1 to 2^63 - 1."""
non_negative_int: Final = _whole(0)
"""A whole number from 0 to 2^63 - 1."""


seed: Final = _whole(0, LARGEST_SEED)
"""Start of everything random: 0 to 2^32 - 1."""


def count(most: int) -> Callable[[str], int]:
    """Return the type of a whole number from 1 to `most`."""
    return _whole(1, most)


def path_argument(text: str) -> Path:
    """Return a path that a file or a folder can have.

    Raises:
        argparse.ArgumentTypeError: `text` is none.
    """
    path = Path(text)
    if not text:
        raise argparse.ArgumentTypeError("expected the path of a file or a folder")
    try:
        names = [os.fsencode(part) for part in path.parts]
    except ValueError as error:  # half a character
        raise argparse.ArgumentTypeError("characters that no file's name has") from error
    if any(b"\0" in name for name in names):
        raise argparse.ArgumentTypeError("characters that no file's name has")
    if max(map(len, names), default=0) > LONGEST_NAME or len(text) > LONGEST_PATH:
        raise argparse.ArgumentTypeError(f"a name of more than {LONGEST_NAME} bytes")
    return path


def output_path(text: str) -> Path:
    """Return the path of what is to be written, which has a name of its own.

    Raises:
        argparse.ArgumentTypeError: `text` is none.
    """
    path = path_argument(text)
    if path.name in ("", ".."):
        raise argparse.ArgumentTypeError(f"expected the name of a file or a folder, got {text!r}")
    if len(os.fsencode(path.name)) > LONGEST_NAME - LONGEST_SUFFIX:
        raise argparse.ArgumentTypeError(
            f"a name of more than {LONGEST_NAME - LONGEST_SUFFIX} bytes"
        )
    return path


def output_name(text: str) -> str:
    """Return the name of something to be written that may be a path, as it is written.

    Raises:
        argparse.ArgumentTypeError: as `output_path`.
    """
    output_path(text)
    return text


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


def number_up_to(most: float) -> Callable[[str], float]:
    """Return the type of a number above 0 that is at most `most`."""

    def convert(text: str) -> float:
        number = positive_number(text)
        if number > most:
            raise argparse.ArgumentTypeError(f"expected at most {most:g}, got {text}")
        return number

    return convert


def parse_size(text: str) -> tuple[int, int]:
    """Return the (height, width) in pixels of `64` or `120x160`.

    Raises:
        UserError: `text` is anything else.
    """
    sides = text.split("x")
    if len(sides) > 2 or not all(re.fullmatch("[0-9]{1,6}", side) for side in sides):
        raise UserError(f"--image-size {text}: expected 64, or height and width as in 120x160")
    return int(sides[0]), int(sides[-1])


def add_logdir(parser: argparse.ArgumentParser) -> None:
    """Add `--logdir`, where runs are looked for by name."""
    parser.add_argument(
        "--logdir", type=Path, default=LOGDIR, help=f"folder of logs; {LOGDIR} is also output/it"
    )


def add_time_axis(parser: argparse.ArgumentParser) -> None:
    """Add `--time-axis`, the time of tables and curves."""
    parser.add_argument(
        "--time-axis",
        choices=("auto", "wall_minutes", "cumul_training_hours"),
        default="auto",
        help="auto: training time if every run logs it, else wall time",
    )
