"""Compiled routines that turn the bytes of an event file into columns of scalars.

An event file is a sequence of TFRecords: length (uint64), masked CRC-32C of the length, data,
masked CRC-32C of the data. The data is an `Event` message, see TensorBoard's `event.proto`; only
the fields that scalars need are decoded, by their numbers on the wire.

All routines lie in this one file, because numba's cache on disk notices changes of the file of a
function alone, not of those that it calls elsewhere.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

import rl.envs.jit  # noqa: F401 - all compiled routines share the cache folder that it sets

HEADER_BYTES: Final = 12
FOOTER_BYTES: Final = 4
LEAST_VALUE_BYTES: Final = 7
"""Bytes of the shortest summary value that holds a scalar."""
CLOCK_TOLERANCE_S: Final = 5.0
"""Seconds that a clock may go back before the jump is taken out of the times."""

DONE, FULL, DAMAGED = 0, 1, 2
N_TAGS, POOL_USED, N_ENTRIES, N_MARKS, JUMPS = 0, 1, 2, 3, 4
"""Places in the array of counters."""
LAST_WALL, SHIFT, LAST_STEP = 0, 1, 2
"""Places in the array of clock values: last wall time read, seconds to add, last step read."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_OTHER_PLUGIN: Final = 1

Int: TypeAlias = Any
Real: TypeAlias = Any
Flag: TypeAlias = Any
"""What compiled routines return: numba's numbers inside, Python's outside."""
_F = TypeVar("_F", bound=Callable[..., Any])


def _compiled(function: _F) -> _F:
    """Compile without threads' lock, cached on disk."""
    return cast(_F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def _crc_tables() -> npt.NDArray[np.uint64]:
    """Tables of CRC-32C (Castagnoli) for eight bytes at a time, (8, 256) uint64."""
    tables = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        tables[0, byte] = crc
    for row in range(1, 8):
        before = tables[row - 1].astype(np.int64)
        tables[row] = tables[0][before & 0xFF] ^ (tables[row - 1] >> np.uint64(8))
    return tables


CRC_TABLES: Final = _crc_tables()


@_compiled
def masked_crc(
    data: npt.NDArray[np.uint8], low: int, high: int, tables: npt.NDArray[np.uint64]
) -> Int:
    """Return the masked CRC-32C of data[low:high], as TFRecords store it."""
    crc = np.uint64(0xFFFFFFFF)
    byte = np.uint64(0xFF)
    at = low
    while at + 8 <= high:
        word = crc
        for i in range(4):
            word ^= np.uint64(data[at + i]) << np.uint64(8 * i)
        crc = (
            tables[7, word & byte]
            ^ tables[6, (word >> np.uint64(8)) & byte]
            ^ tables[5, (word >> np.uint64(16)) & byte]
            ^ tables[4, (word >> np.uint64(24)) & byte]
            ^ tables[3, data[at + 4]]
            ^ tables[2, data[at + 5]]
            ^ tables[1, data[at + 6]]
            ^ tables[0, data[at + 7]]
        )
        at += 8
    while at < high:
        crc = tables[0, (crc ^ np.uint64(data[at])) & byte] ^ (crc >> np.uint64(8))
        at += 1
    crc ^= np.uint64(0xFFFFFFFF)
    turned = ((crc >> np.uint64(15)) | (crc << np.uint64(17))) & np.uint64(0xFFFFFFFF)
    return np.int64((turned + np.uint64(0xA282EAD8)) & np.uint64(0xFFFFFFFF))


@_compiled
def _little_endian(data: npt.NDArray[np.uint8], at: int, n_bytes: int) -> Int:
    """Return an unsigned number of `n_bytes` bytes, the bits of 8 bytes as int64."""
    value = np.uint64(0)
    for i in range(n_bytes):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return np.int64(value)


@_compiled
def _varint(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[Int, Int]:
    """Return a varint's value and the place behind it, or place -1 if it is broken."""
    value = np.uint64(0)
    for i in range(10):
        if at + i >= end:
            return np.int64(0), np.int64(-1)
        byte = data[at + i]
        value |= np.uint64(byte & 0x7F) << np.uint64(7 * i)
        if byte < 0x80:
            return np.int64(value), np.int64(at + i + 1)
    return np.int64(0), np.int64(-1)


@_compiled
def _field(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[Int, Int, Int, Int, Int]:
    """Return (number, wire type, low, high, next) of a field; next is -1 if it is broken.

    data[low:high] is the payload: of a varint its bytes, of a message what it contains.
    """
    broken = np.int64(-1)
    key, low = _varint(data, at, end)
    if low < 0:
        return broken, broken, broken, broken, broken
    number, wire = key >> 3, key & 7
    if wire == _VARINT:
        _, high = _varint(data, low, end)
    elif wire == _FIXED64:
        high = low + 8
    elif wire == _FIXED32:
        high = low + 4
    elif wire == _BYTES:
        size, low = _varint(data, low, end)
        high = low + size if low >= 0 and 0 <= size <= end - low else broken
    else:
        high = broken
    if high < 0 or high > end:
        return broken, broken, broken, broken, broken
    return number, wire, low, high, high


@_compiled
def _float_of(bits: int, n_bytes: int, scratch: npt.NDArray[np.uint64]) -> Real:
    """Return the IEEE number of 4 or 8 bytes whose bits are given."""
    scratch[0] = np.uint64(bits)
    if n_bytes == 8:
        return scratch.view(np.float64)[0]
    return np.float64(scratch.view(np.float32)[0])


@_compiled
def _half_of(bits: int) -> Real:
    """Return the number of a half-precision float's 16 bits."""
    sign = -1.0 if bits & 0x8000 else 1.0
    exponent, fraction = (bits >> 10) & 0x1F, bits & 0x3FF
    if exponent == 0x1F:
        return np.nan if fraction else sign * np.inf
    if exponent == 0:
        return sign * fraction * 2.0**-24
    return sign * (1.0 + fraction / 1024.0) * 2.0 ** (exponent - 15)


@_compiled
def _content_number(
    data: npt.NDArray[np.uint8], low: int, high: int, dtype: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Real, Flag]:
    """Return the one number that `tensor_content` holds, and whether it holds exactly one."""
    size = high - low
    if dtype == 1 or dtype == 2:  # float, double
        expected = 4 if dtype == 1 else 8
        if size != expected:
            return 0.0, False
        return _float_of(_little_endian(data, low, size), size, scratch), True
    if dtype == 19 or dtype == 14:  # half, bfloat16
        if size != 2:
            return 0.0, False
        bits = _little_endian(data, low, 2)
        return (_half_of(bits) if dtype == 19 else _float_of(bits << 16, 4, scratch)), True
    signed = dtype == 3 or dtype == 5 or dtype == 6 or dtype == 9
    if dtype == 9 or dtype == 23:  # int64, uint64
        expected = 8
    elif dtype == 3 or dtype == 22:  # int32, uint32
        expected = 4
    elif dtype == 5 or dtype == 17:  # int16, uint16
        expected = 2
    elif dtype == 4 or dtype == 6 or dtype == 10:  # uint8, int8, bool
        expected = 1
    else:
        return 0.0, False
    if size != expected:
        return 0.0, False
    number = _little_endian(data, low, size)
    if size == 8:
        return (np.float64(number) if signed else np.float64(np.uint64(number))), True
    if signed and number >= 1 << (8 * size - 1):
        number -= 1 << (8 * size)
    return np.float64(number), True


@_compiled
def _listed_number(
    data: npt.NDArray[np.uint8],
    number: int,
    low: int,
    high: int,
    dtype: int,
    scratch: npt.NDArray[np.uint64],
) -> tuple[Real, Int]:
    """Return the last number of a typed list (`float_val`, ...) and how many there are.

    Args:
        data: bytes of the file.
        number: of the field in TensorProto.
        low: where the payload begins.
        high: where it ends.
        dtype: of the tensor.
        scratch: eight bytes.
    """
    if number == 5 or number == 6:  # float_val, double_val
        size = 4 if number == 5 else 8
        if high - low < size or (high - low) % size:
            return 0.0, 0
        bits = _little_endian(data, high - size, size)
        return _float_of(bits, size, scratch), (high - low) // size
    value: Int = np.int64(0)
    count, at = 0, low
    while at < high:
        value, at = _varint(data, at, high)
        if at < 0:
            return 0.0, 0
        count += 1
    if number == 13:  # half_val
        return (_float_of(value << 16, 4, scratch) if dtype == 14 else _half_of(value)), count
    return (np.float64(np.uint64(value)) if number == 17 else np.float64(value)), count


@_compiled
def _tensor_number(
    data: npt.NDArray[np.uint8], low: int, high: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Real, Flag]:
    """Return the number of a TensorProto, and whether it is exactly one number."""
    dtype: Int = np.int64(0)
    content_low: Int = np.int64(-1)
    content_high: Int = np.int64(-1)
    count, value, at = 0, 0.0, low
    while at < high:
        number, _, begin, end, at = _field(data, at, high)
        if at < 0:
            return 0.0, False
        if number == 1:
            dtype, _ = _varint(data, begin, end)
        elif number == 4:
            content_low, content_high = begin, end
        elif number in (5, 6, 7, 10, 11, 13, 16, 17):
            value, more = _listed_number(data, number, begin, end, dtype, scratch)
            count += more
    if content_low >= 0:
        return _content_number(data, content_low, content_high, dtype, scratch)
    return value, count == 1


@_compiled
def _is_other_plugin(data: npt.NDArray[np.uint8], low: int, high: int) -> Flag:
    """Tell whether a SummaryMetadata names a plugin other than `scalars`."""
    scalars = (115, 99, 97, 108, 97, 114, 115)
    at = low
    while at < high:
        number, _, begin, end, at = _field(data, at, high)
        if at < 0:
            return False
        if number != 1:
            continue
        inner = begin
        while inner < end:
            name, _, name_low, name_high, inner = _field(data, inner, end)
            if inner < 0:
                return False
            if name == 1 and name_high > name_low:
                same = name_high - name_low == len(scalars)
                for i in range(len(scalars)):
                    same = same and data[name_low + i] == scalars[i]
                return not same
    return False


@_compiled
def _tag_id(
    data: npt.NDArray[np.uint8],
    low: int,
    high: int,
    slots: npt.NDArray[np.int32],
    places: npt.NDArray[np.int64],
    pool: npt.NDArray[np.uint8],
    counters: npt.NDArray[np.int64],
) -> Int:
    """Return the number of the tag data[low:high]; a new tag is entered.

    Args:
        data: bytes of the file.
        low: where the tag begins.
        high: where it ends.
        slots: (S,) open addressing by FNV-1a hash, S a power of two, -1 is free.
        places: (T, 2) where each tag lies in the pool: begin and length.
        pool: bytes of all tags.
        counters: numbers of tags and bytes in use.
    """
    hashed = np.uint64(0xCBF29CE484222325)
    for at in range(low, high):
        hashed = (hashed ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
    mask = len(slots) - 1
    slot = np.int64(hashed & np.uint64(mask))
    while slots[slot] >= 0:
        found = slots[slot]
        same = places[found, 1] == high - low
        i = 0
        while same and i < high - low:
            same = pool[places[found, 0] + i] == data[low + i]
            i += 1
        if same:
            return found
        slot = (slot + 1) & mask
    new, used = counters[N_TAGS], counters[POOL_USED]
    slots[slot] = new
    places[new, 0], places[new, 1] = used, high - low
    for i in range(high - low):
        pool[used + i] = data[low + i]
    counters[N_TAGS] += 1
    counters[POOL_USED] += high - low
    return new


@_compiled
def _value_number(
    data: npt.NDArray[np.uint8], low: int, high: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Int, Int, Real, Int, Flag]:
    """Return (tag low, tag high, number, kind, other plugin) of a Summary.Value.

    Kind is 0 for no scalar, 1 for a `simple_value`, 2 for a tensor of one number, -1 for a value
    that is broken.
    """
    tag_low, tag_high = np.int64(0), np.int64(0)
    number, kind, other, at = 0.0, 0, False, low
    while at < high:
        name, wire, begin, end, at = _field(data, at, high)
        if at < 0:
            return tag_low, tag_high, 0.0, -1, False
        if name == 1:
            tag_low, tag_high = begin, end
        elif name == 2 and wire == _FIXED32:
            number, kind = _float_of(_little_endian(data, begin, 4), 4, scratch), 1
        elif name == 8:
            number, is_one = _tensor_number(data, begin, end, scratch)
            kind = 2 if is_one else 0
        elif name == 9:
            other = _is_other_plugin(data, begin, end)
    return tag_low, tag_high, number, kind, other


@_compiled
def _event_frame(
    data: npt.NDArray[np.uint8], low: int, high: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Real, Int, Int, Int, Flag, Flag]:
    """Return (wall time, step, summary low, summary high, starts a session, whole) of an Event."""
    wall, step, starts = 0.0, np.int64(0), False
    summary_low, summary_high, at = np.int64(0), np.int64(0), low
    while at < high:
        number, wire, begin, end, at = _field(data, at, high)
        if at < 0:
            return wall, step, summary_low, summary_high, starts, False
        if number == 1 and wire == _FIXED64:
            wall = _float_of(_little_endian(data, begin, 8), 8, scratch)
        elif number == 2:
            step, _ = _varint(data, begin, end)
        elif number == 5:
            summary_low, summary_high = begin, end
        elif number == 7 and end > begin:
            inner, _, status_low, status_high, _ = _field(data, begin, end)
            if inner == 1:
                status, _ = _varint(data, status_low, status_high)
                starts = status == 1
    return wall, step, summary_low, summary_high, starts, True


@_compiled
def _steady_time(
    wall: float, step: int, clock: npt.NDArray[np.float64], counters: npt.NDArray[np.int64]
) -> Real:
    """Return a wall time from which backward jumps of the clock are taken out.

    Where steps go back too, it is no jump of the clock: programs that copy logs write one tag after
    the other.
    """
    if not np.isfinite(wall):
        wall = clock[LAST_WALL] if np.isfinite(clock[LAST_WALL]) else 0.0
    if wall < clock[LAST_WALL] - CLOCK_TOLERANCE_S and step >= clock[LAST_STEP]:
        clock[SHIFT] += clock[LAST_WALL] - wall
        counters[JUMPS] += 1
    clock[LAST_WALL], clock[LAST_STEP] = wall, step
    return wall + clock[SHIFT]


@_compiled
def scan(
    data: npt.NDArray[np.uint8],
    begin: int,
    tables: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.int32],
    places: npt.NDArray[np.int64],
    plugins: npt.NDArray[np.uint8],
    pool: npt.NDArray[np.uint8],
    counters: npt.NDArray[np.int64],
    clock: npt.NDArray[np.float64],
    tags: npt.NDArray[np.int32],
    steps: npt.NDArray[np.int64],
    walls: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    marks: npt.NDArray[np.int64],
) -> tuple[Int, Int]:
    """Read whole records and append their scalars to the columns.

    Args:
        data: (n,) bytes.
        begin: where the first record begins.
        tables: `CRC_TABLES`.
        slots: (S,) hash table of tags, see `_tag_id`.
        places: (T, 2) of tags in the pool.
        plugins: (T,) 1 for tags of another plugin than `scalars`.
        pool: (P,) bytes of tags.
        counters: numbers in use, see `N_TAGS` and those after it.
        clock: see `LAST_WALL`.
        tags: (N,) tag number of each scalar.
        steps: (N,) its step.
        walls: (N,) its wall time in s, backward jumps of the clock taken out.
        values: (N,) its value.
        marks: (K, 2) marks of session starts: scalars before it, its step.

    Returns:
        Where the first record begins that was not read, and why: `DONE` (no whole record is left),
        `FULL` (an array has no room for the next record), `DAMAGED` (a checksum or the message is
        wrong).
    """
    scratch = np.zeros(1, np.uint64)
    at, end = begin, len(data)
    while at + HEADER_BYTES <= end:
        size = _little_endian(data, at, 8)
        if masked_crc(data, at, at + 8, tables) != _little_endian(data, at + 8, 4) or size < 0:
            return at, DAMAGED
        low = at + HEADER_BYTES
        if size > end - low - FOOTER_BYTES:
            return at, DONE
        high = low + size
        most = size // LEAST_VALUE_BYTES + 1
        if (
            counters[N_ENTRIES] + most > len(values)
            or counters[N_TAGS] + most > min(len(places), len(slots) // 2)
            or counters[POOL_USED] + size > len(pool)
            or counters[N_MARKS] + 1 > len(marks)
        ):
            return at, FULL
        if masked_crc(data, low, high, tables) != _little_endian(data, high, 4):
            return at, DAMAGED
        wall, step, s_low, s_high, starts, whole = _event_frame(data, low, high, scratch)
        if not whole:
            return at, DAMAGED
        if starts:
            marks[counters[N_MARKS], 0] = counters[N_ENTRIES]
            marks[counters[N_MARKS], 1] = step
            counters[N_MARKS] += 1
        inner, steady, timed = s_low, 0.0, False
        while inner < s_high:
            name, _, v_low, v_high, inner = _field(data, inner, s_high)
            if inner < 0:
                return at, DAMAGED
            if name != 1:
                continue
            t_low, t_high, number, kind, other = _value_number(data, v_low, v_high, scratch)
            if kind < 0:
                return at, DAMAGED
            if kind == 0 or t_high == t_low:
                continue
            tag = _tag_id(data, t_low, t_high, slots, places, pool, counters)
            if kind == 2 and other:
                plugins[tag] = _OTHER_PLUGIN
            if kind == 2 and plugins[tag] == _OTHER_PLUGIN:
                continue
            if not timed:
                steady, timed = _steady_time(wall, step, clock, counters), True
            n = counters[N_ENTRIES]
            tags[n], steps[n], walls[n], values[n] = tag, step, steady, number
            counters[N_ENTRIES] += 1
        at = high + FOOTER_BYTES
    return at, DONE


@_compiled
def group_by_tag(
    tags: npt.NDArray[np.int32],
    steps: npt.NDArray[np.int64],
    walls: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    n_tags: int,
) -> tuple[
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
]:
    """Return columns sorted by tag, in the order of writing within a tag.

    Args:
        tags: (N,) tag numbers.
        steps: (N,).
        walls: (N,).
        values: (N,).
        n_tags: T.

    Returns:
        Starts (T + 1,) of each tag's part, then steps, walls and values (N,).
    """
    starts = np.zeros(n_tags + 1, np.int64)
    for tag in tags:
        starts[tag + 1] += 1
    starts = np.cumsum(starts)
    place = starts[:-1].copy()
    sorted_steps, sorted_walls = np.empty_like(steps), np.empty_like(walls)
    sorted_values = np.empty_like(values)
    for i in range(len(tags)):
        at = place[tags[i]]
        place[tags[i]] += 1
        sorted_steps[at], sorted_walls[at], sorted_values[at] = steps[i], walls[i], values[i]
    return starts, sorted_steps, sorted_walls, sorted_values
