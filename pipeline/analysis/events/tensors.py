"""The number of a TensorProto, by the field numbers and types of `tensor.proto`."""

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.jit import Flag, Int, Real, compiled
from pipeline.analysis.events.wire import field, float_of, half_of, little_endian, varint


@compiled
def _content_number(
    data: npt.NDArray[np.uint8], low: int, high: int, dtype: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Real, Flag]:
    """Return the one number that `tensor_content` holds, and whether it holds exactly one."""
    size = high - low
    if dtype == 1 or dtype == 2:  # float, double
        expected = 4 if dtype == 1 else 8
        if size != expected:
            return 0.0, False
        return float_of(little_endian(data, low, size), size, scratch), True
    if dtype == 19 or dtype == 14:  # half, bfloat16
        if size != 2:
            return 0.0, False
        bits = little_endian(data, low, 2)
        return (half_of(bits) if dtype == 19 else float_of(bits << 16, 4, scratch)), True
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
    number = little_endian(data, low, size)
    if size == 8:
        return (np.float64(number) if signed else np.float64(np.uint64(number))), True
    if signed and number >= 1 << (8 * size - 1):
        number -= 1 << (8 * size)
    return np.float64(number), True


@compiled
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
        bits = little_endian(data, high - size, size)
        return float_of(bits, size, scratch), (high - low) // size
    value: Int = np.int64(0)
    count, at = 0, low
    while at < high:
        value, at = varint(data, at, high)
        if at < 0:
            return 0.0, 0
        count += 1
    if number == 13:  # half_val
        return (float_of(value << 16, 4, scratch) if dtype == 14 else half_of(value)), count
    return (np.float64(np.uint64(value)) if number == 17 else np.float64(value)), count


@compiled
def tensor_number(
    data: npt.NDArray[np.uint8], low: int, high: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Real, Flag]:
    """Return the number of a TensorProto, and whether it is exactly one number."""
    dtype: Int = np.int64(0)
    content_low: Int = np.int64(-1)
    content_high: Int = np.int64(-1)
    count, value, at = 0, 0.0, low
    while at < high:
        number, _, begin, end, at = field(data, at, high)
        if at < 0:
            return 0.0, False
        if number == 1:
            dtype, _ = varint(data, begin, end)
        elif number == 4:
            content_low, content_high = begin, end
        elif number in (5, 6, 7, 10, 11, 13, 16, 17):
            value, more = _listed_number(data, number, begin, end, dtype, scratch)
            count += more
    if content_low >= 0:
        return _content_number(data, content_low, content_high, dtype, scratch)
    return value, count == 1
