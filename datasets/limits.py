"""Arrays that were read from a file, compared with what they must be before they are used."""

from typing import Any

import numpy as np
import numpy.typing as npt


def check_within(
    place: str,
    values: Any,
    like: npt.NDArray[Any],
    lowest: npt.ArrayLike = 0,
    highest: npt.ArrayLike = 1,
) -> None:
    """Refuse an array of another type or shape than expected, or with a number beyond its limits.

    Args:
        place: dotted name of the array, for the message.
        values: what was read.
        like: an array of the expected type and shape.
        lowest: least number, one for all or one for each. NaN is beyond every limit.
        highest: largest number, likewise. The defaults fit flags, whose bytes are numbers too.

    Raises:
        ValueError: it names what differs.
    """
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{place}: expected an array, got {type(values).__name__}")
    if values.dtype != like.dtype or values.shape != like.shape:
        raise ValueError(
            f"{place}: expected {like.dtype} {like.shape}, got {values.dtype} {values.shape}"
        )
    numbers = values.view(np.uint8) if values.dtype == np.bool_ else values
    inside = (numbers >= np.asarray(lowest)) & (numbers <= np.asarray(highest))
    if not inside.all():
        raise ValueError(f"{place}: {numbers[~inside][0]} is beyond its limits")


def check_keys(place: str, found: Any, expected: Any, *, optional: tuple[str, ...] = ()) -> None:
    """Refuse a mapping with other keys than expected.

    Args:
        place: dotted name of the mapping, for the message.
        found: what was read.
        expected: keys.
        optional: those of them that may lack.

    Raises:
        ValueError: it names the first key that lacks, or is too many.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{place}: expected a mapping, got {type(found).__name__}")
    for key in expected:
        if key not in found and key not in optional:
            raise ValueError(f"{place}.{key} is missing")
    for key in found:
        if key not in expected:
            raise ValueError(f"{place}.{key} is unknown")


def check_whole(place: str, value: Any, lowest: int, highest: int) -> None:
    """Refuse what is no integer between two limits.

    Raises:
        ValueError: it names the value.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{place}: expected an integer, got {type(value).__name__}")
    if not lowest <= value <= highest:
        raise ValueError(f"{place}: {str(value)[:40]} is beyond its limits")
