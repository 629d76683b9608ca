"""Records of an event file as columns of scalars.

An event file is a sequence of TFRecords: length (uint64), masked CRC-32C of the length, data,
masked CRC-32C of the data. The data is an `Event` message.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.crc import masked_crc
from pipeline.analysis.events.jit import Flag, Int, Real, compiled, inlined
from pipeline.analysis.events.messages import event_frame, value_number
from pipeline.analysis.events.tag_table import TagTable, number_of
from pipeline.analysis.events.wire import field, little_endian

HEADER_BYTES: Final = 12
FOOTER_BYTES: Final = 4
LEAST_VALUE_BYTES: Final = 7
"""Bytes of the shortest summary value that holds a scalar."""
CLOCK_TOLERANCE_S: Final = 5.0
"""Seconds that a clock may go back before the jump is taken out of the times."""

DONE, FULL, DAMAGED = 0, 1, 2
N_ENTRIES, N_MARKS = 0, 1
"""Places in `Columns.used`."""
LAST_WALL, SHIFT, LAST_STEP, JUMPS = 0, 1, 2, 3
"""Places in the array of the clock: last wall time read, seconds to add, last step read, jumps."""
_SUMMARY_VALUE: Final = 1


class Columns(NamedTuple):
    """Scalars in the order of writing, in arrays with room for more.

    Attributes:
        tags: (N,) tag number of each scalar.
        steps: (N,) its step.
        walls: (N,) its wall time in s, backward jumps of the clock taken out.
        values: (N,) its value.
        marks: (K, 2) marks of session starts: scalars before it, its step.
        used: (2,) numbers of scalars and of marks.
    """

    tags: npt.NDArray[np.int32]
    steps: npt.NDArray[np.int64]
    walls: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    marks: npt.NDArray[np.int64]
    used: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, capacity: int, marks: int = 16) -> "Columns":
        """Return columns with room for `capacity` scalars and some marks."""
        return cls(
            tags=np.zeros(capacity, np.int32),
            steps=np.zeros(capacity, np.int64),
            walls=np.zeros(capacity),
            values=np.zeros(capacity),
            marks=np.zeros((marks, 2), np.int64),
            used=np.zeros(2, np.int64),
        )


def most_values(record_bytes: int) -> int:
    """Return how many scalars a record of `record_bytes` can hold at most."""
    return record_bytes // LEAST_VALUE_BYTES + 1


@inlined
def _has_room(size: int, tags: TagTable, columns: Columns) -> Flag:
    """Tell whether all arrays have room for a record of `size` bytes."""
    most = size // LEAST_VALUE_BYTES + 1
    return (
        columns.used[N_ENTRIES] + most <= len(columns.values)
        and columns.used[N_MARKS] + 1 <= len(columns.marks)
        and tags.used[0] + most <= min(len(tags.places), len(tags.slots) // 2)
        and tags.used[1] + size <= len(tags.pool)
    )


@inlined
def _steady_time(wall: float, step: int, clock: npt.NDArray[np.float64]) -> Real:
    """Return a wall time from which backward jumps of the clock are taken out.

    Where steps go back too, it is no jump of the clock: programs that copy logs write one tag after
    the other.
    """
    if not np.isfinite(wall):
        wall = clock[LAST_WALL] if np.isfinite(clock[LAST_WALL]) else 0.0
    if wall < clock[LAST_WALL] - CLOCK_TOLERANCE_S and step >= clock[LAST_STEP]:
        clock[SHIFT] += clock[LAST_WALL] - wall
        clock[JUMPS] += 1
    clock[LAST_WALL], clock[LAST_STEP] = wall, step
    return wall + clock[SHIFT]


@inlined
def _read_event(
    data: npt.NDArray[np.uint8],
    low: int,
    high: int,
    tags: TagTable,
    columns: Columns,
    clock: npt.NDArray[np.float64],
    scratch: npt.NDArray[np.uint64],
) -> Flag:
    """Append the scalars of the message data[low:high], and return whether it is whole."""
    wall, step, at, end, starts, whole = event_frame(data, low, high, scratch)
    if not whole:
        return False
    used = columns.used
    if starts:
        columns.marks[used[N_MARKS], 0] = used[N_ENTRIES]
        columns.marks[used[N_MARKS], 1] = step
        used[N_MARKS] += 1
    steady, is_timed = 0.0, False
    while at < end:
        name, _, value_low, value_high, at = field(data, at, end)
        if at < 0:
            return False
        if name != _SUMMARY_VALUE:
            continue
        tag_low, tag_high, number, kind, other = value_number(data, value_low, value_high, scratch)
        if kind < 0:
            return False
        if kind == 0 or tag_high == tag_low:
            continue
        tag = number_of(tags, data, tag_low, tag_high)
        if kind == 2 and other:
            tags.other_plugin[tag] = 1
        if kind == 2 and tags.other_plugin[tag]:
            continue
        if not is_timed:
            steady, is_timed = _steady_time(wall, step, clock), True
        n = used[N_ENTRIES]
        columns.tags[n], columns.steps[n] = tag, step
        columns.walls[n], columns.values[n] = steady, number
        used[N_ENTRIES] += 1
    return True


@compiled
def scan(
    data: npt.NDArray[np.uint8],
    begin: int,
    tables: npt.NDArray[np.uint64],
    tags: TagTable,
    columns: Columns,
    clock: npt.NDArray[np.float64],
) -> tuple[Int, Int]:
    """Read whole records and append their scalars to the columns.

    Args:
        data: (n,) bytes.
        begin: where the first record begins.
        tables: `CRC_TABLES`.
        tags: that were found so far.
        columns: that are filled.
        clock: (4,) see `LAST_WALL`.

    Returns:
        Where the first record begins that was not read, and why: `DONE` (no whole record is left),
        `FULL` (an array has no room for the next record), `DAMAGED` (a checksum or the message is
        wrong).
    """
    scratch = np.zeros(1, np.uint64)
    at, end = begin, len(data)
    while at + HEADER_BYTES <= end:
        size = little_endian(data, at, 8)
        if masked_crc(data, at, at + 8, tables) != little_endian(data, at + 8, 4) or size < 0:
            return at, DAMAGED
        low = at + HEADER_BYTES
        if size > end - low - FOOTER_BYTES:
            return at, DONE
        high = low + size
        if not _has_room(size, tags, columns):
            return at, FULL
        if masked_crc(data, low, high, tables) != little_endian(data, high, 4):
            return at, DAMAGED
        if not _read_event(data, low, high, tags, columns, clock, scratch):
            return at, DAMAGED
        at = high + FOOTER_BYTES
    return at, DONE
