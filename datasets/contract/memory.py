"""The main memory of this machine, and whether what a configuration needs fits into it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError

BYTES_PER_GB: Final = 1e9
MOST_NAMED: Final = 3
"""Largest needs that a refusal names."""
_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class MemoryNeed:
    """What one thing takes at least.

    Attributes:
        what: it is, for the message.
        bytes: of memory; a lower bound, so that nothing that fits is refused.
        keys: of the configuration that decide it.
    """

    what: str
    bytes: int
    keys: str


def machine_memory() -> int | None:
    """Return the bytes of memory that this process may have at most; None if it is not known.

    A container may have less than its machine.
    """
    limits = [_physical_memory(), *map(_limit_in, _CGROUP_LIMITS)]
    return min((limit for limit in limits if limit is not None), default=None)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _limit_in(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None  # `max` is no limit


def check_memory(
    needs: Sequence[MemoryNeed], memory: int | None, where: str = "this machine"
) -> None:
    """Refuse needs that are larger than a memory, before any of it is reserved.

    Args:
        needs: of all that lies in it at the same time.
        memory: bytes; None checks nothing.
        where: whose memory it is.

    Raises:
        UserError: it names the sum, the largest needs and their keys.
    """
    total = sum(need.bytes for need in needs)
    if memory is None or total <= memory:
        return
    largest = sorted(needs, key=lambda need: need.bytes, reverse=True)[:MOST_NAMED]
    named = ", ".join(
        f"{_gb(need.bytes)} for {need.what} ({need.keys})"
        for need in largest
        if need.bytes > 0.01 * total
    )
    raise UserError(
        f"the configuration needs at least {_gb(total)} of memory, {where} has {_gb(memory)}: "
        f"{named}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory could not be reserved: Python's, torch's on the CPU or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _gb(size: int) -> str:
    return f"{size / BYTES_PER_GB:,.1f} GB"
