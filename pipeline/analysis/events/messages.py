"""The fields of `Event` and `Summary.Value` messages that scalars need, see `event.proto`."""

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.jit import Flag, Int, Real, compiled
from pipeline.analysis.events.tensors import tensor_number
from pipeline.analysis.events.wire import FIXED32, FIXED64, field, float_of, little_endian, varint


@compiled
def _is_other_plugin(data: npt.NDArray[np.uint8], low: int, high: int) -> Flag:
    """Tell whether a SummaryMetadata names a plugin other than `scalars`."""
    scalars = (115, 99, 97, 108, 97, 114, 115)
    at = low
    while at < high:
        number, _, begin, end, at = field(data, at, high)
        if at < 0:
            return False
        if number != 1:
            continue
        inner = begin
        while inner < end:
            name, _, name_low, name_high, inner = field(data, inner, end)
            if inner < 0:
                return False
            if name == 1 and name_high > name_low:
                same = name_high - name_low == len(scalars)
                for i in range(len(scalars)):
                    same = same and data[name_low + i] == scalars[i]
                return not same
    return False


@compiled
def value_number(
    data: npt.NDArray[np.uint8], low: int, high: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Int, Int, Real, Int, Flag]:
    """Return (tag low, tag high, number, kind, other plugin) of a Summary.Value.

    Kind is 0 for no scalar, 1 for a `simple_value`, 2 for a tensor of one number, -1 for a value
    that is broken.
    """
    tag_low, tag_high = np.int64(0), np.int64(0)
    number, kind, other, at = 0.0, 0, False, low
    while at < high:
        name, wire, begin, end, at = field(data, at, high)
        if at < 0:
            return tag_low, tag_high, 0.0, -1, False
        if name == 1:
            tag_low, tag_high = begin, end
        elif name == 2 and wire == FIXED32:
            number, kind = float_of(little_endian(data, begin, 4), 4, scratch), 1
        elif name == 8:
            number, is_one = tensor_number(data, begin, end, scratch)
            kind = 2 if is_one else 0
        elif name == 9:
            other = _is_other_plugin(data, begin, end)
    return tag_low, tag_high, number, kind, other


@compiled
def event_frame(
    data: npt.NDArray[np.uint8], low: int, high: int, scratch: npt.NDArray[np.uint64]
) -> tuple[Real, Int, Int, Int, Flag, Flag]:
    """Return (wall time, step, summary low, summary high, starts a session, whole) of an Event."""
    wall, step, starts = 0.0, np.int64(0), False
    summary_low, summary_high, at = np.int64(0), np.int64(0), low
    while at < high:
        number, wire, begin, end, at = field(data, at, high)
        if at < 0:
            return wall, step, summary_low, summary_high, starts, False
        if number == 1 and wire == FIXED64:
            wall = float_of(little_endian(data, begin, 8), 8, scratch)
        elif number == 2:
            step, _ = varint(data, begin, end)
        elif number == 5:
            summary_low, summary_high = begin, end
        elif number == 7 and end > begin:
            inner, _, status_low, status_high, _ = field(data, begin, end)
            if inner == 1:
                status, _ = varint(data, status_low, status_high)
                starts = status == 1
    return wall, step, summary_low, summary_high, starts, True
