"""Numbers and fields of protocol-buffer messages on the wire, and the numbers of their bytes."""

from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.jit import Int, Real, compiled

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5


@compiled
def little_endian(data: npt.NDArray[np.uint8], at: int, n_bytes: int) -> Int:
    """Return an unsigned number of `n_bytes` bytes, the bits of 8 bytes as int64."""
    value = np.uint64(0)
    for i in range(n_bytes):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return np.int64(value)


@compiled
def varint(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[Int, Int]:
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


@compiled
def field(data: npt.NDArray[np.uint8], at: int, end: int) -> tuple[Int, Int, Int, Int, Int]:
    """Return (number, wire type, low, high, next) of a field; next is -1 if it is broken.

    data[low:high] is the payload: of a varint its bytes, of a message what it contains.
    """
    broken = np.int64(-1)
    key, low = varint(data, at, end)
    if low < 0:
        return broken, broken, broken, broken, broken
    number, wire = key >> 3, key & 7
    if wire == VARINT:
        _, high = varint(data, low, end)
    elif wire == FIXED64:
        high = low + 8
    elif wire == FIXED32:
        high = low + 4
    elif wire == BYTES:
        size, low = varint(data, low, end)
        high = low + size if low >= 0 and 0 <= size <= end - low else broken
    else:
        high = broken
    if high < 0 or high > end:
        return broken, broken, broken, broken, broken
    return number, wire, low, high, high


@compiled
def float_of(bits: int, n_bytes: int, scratch: npt.NDArray[np.uint64]) -> Real:
    """Return the IEEE number of 4 or 8 bytes whose bits are given."""
    scratch[0] = np.uint64(bits)
    if n_bytes == 8:
        return scratch.view(np.float64)[0]
    return np.float64(scratch.view(np.float32)[0])


@compiled
def half_of(bits: int) -> Real:
    """Return the number of a half-precision float's 16 bits."""
    sign = -1.0 if bits & 0x8000 else 1.0
    exponent, fraction = (bits >> 10) & 0x1F, bits & 0x3FF
    if exponent == 0x1F:
        return np.nan if fraction else sign * np.inf
    if exponent == 0:
        return sign * fraction * 2.0**-24
    return sign * (1.0 + fraction / 1024.0) * 2.0 ** (exponent - 15)
