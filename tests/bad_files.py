"""Bad files for the fuzzers: bytes of a good file that were changed, cut, doubled or replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

BAD_TEXTS: Final = (
    "",
    " ",
    "\0",
    "\x1b[31mred",
    "a\nb",
    "[/x]",
    "[bold]x[/bold]",
    "..",
    "/",
    "~",
    "$HOME",
    "\ud800",
    "\u202e",
    "ü" * 100,
    "x" * 300,
    "x" * 5000,
    "-1",
    "1e400",
    "nan",
    "9" * 5000,
    "%s%n",
    "٣",
    "²",
)
"""Texts that break names, paths, numbers, markup or terminals."""
BAD_NUMBERS: Final = (
    *(-1, 0, 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(2**63)),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
)


@dataclass(frozen=True)
class ByteDamage:
    """Changes to the bytes of a file.

    Attributes:
        edits: (place, bytes that stand there afterwards).
        cut: bytes that are left, None for all.
        tail: bytes added at the end.
    """

    edits: tuple[tuple[int, bytes], ...]
    cut: int | None = None
    tail: bytes = b""

    def of(self, data: bytes) -> bytes:
        """Return the damaged bytes."""
        changed = bytearray(data)
        for place, new in self.edits:
            changed[place : place + len(new)] = new
        return bytes(changed[: self.cut]) + self.tail


def byte_damages(size: int, places: Sequence[int] | None = None) -> SearchStrategy[ByteDamage]:
    """Draw damage to a file of `size` bytes.

    Args:
        size: of the file.
        places: where bytes are changed; anywhere when None. Most of a file is often data, whose
            change is no damage to its structure.
    """
    place = st.integers(0, size - 1) if places is None else st.sampled_from(places)
    new = st.one_of(
        st.binary(min_size=1, max_size=1),
        st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\xff" * 2, b"\x00\x10" + b"\0" * 6, b"\0" * 64]),
        st.binary(min_size=2, max_size=8),
    )
    edits = st.lists(st.tuples(place, new), min_size=1, max_size=4).map(tuple)
    cut = st.integers(0, size)
    return st.one_of(
        st.builds(ByteDamage, edits),
        st.builds(ByteDamage, edits),
        st.builds(ByteDamage, st.just(()), cut),
        st.builds(ByteDamage, st.just(()), cut, st.binary(max_size=64)),
    )


def json_values(*known: Any) -> SearchStrategy[Any]:
    """Draw a value that JSON can hold, or almost: of any type, with bad texts and numbers."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from(BAD_NUMBERS),
        st.sampled_from(BAD_TEXTS),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        *([st.sampled_from(known)] if known else []),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=6,
    )
