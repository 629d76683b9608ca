"""The 23 messages between the plugin in the game and its client, as bytes, in both directions.

A message is an int32 id and a payload, little-endian, without a length and without a checksum.
The answer to a query is its bare value. The plugin sends ids 1 to 5 and waits for the same id,
the acknowledgement; the client sends all others, which the plugin reads only while it waits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

Value = int | float | bytes
Read = Callable[[int], bytes]
"""Reads exactly that many bytes."""


class MessageId(IntEnum):
    """The ids on the wire."""

    RUN_STEP = 1
    CHECKPOINT_COUNT = 2
    LAP_COUNT = 3
    FRAME = 4
    CONNECTED = 5
    SET_SPEED = 6
    REWIND = 7
    REWIND_TO_CURRENT = 8
    GET_STATE = 9
    SET_KEYS = 10
    GIVE_UP = 11
    PREVENT_FINISH = 12
    SHUT_DOWN = 13
    COMMAND = 14
    RESPONSE_TIMEOUT = 15
    IS_FINISHED = 16
    REQUEST_FRAME = 17
    RESET_CAMERA = 18
    STEP_PERIOD = 19
    CANCEL_FRAME = 20
    SHOW_INTERFACE = 21
    IS_IN_MENUS = 22
    GET_INPUTS = 23


SYNCS: Final = frozenset(MessageId(number) for number in range(1, 6))
"""Sent by the plugin, which then waits for the same id."""
ONLY_IN_RACE: Final = frozenset(
    {
        MessageId.REWIND,
        MessageId.REWIND_TO_CURRENT,
        MessageId.SET_KEYS,
        MessageId.GIVE_UP,
        MessageId.PREVENT_FINISH,
    }
)
"""Without effect outside a race."""
LONGEST: Final = 1 << 20
"""Bytes of the longest payload or answer that can be meant."""
NUMBER: Final = struct.Struct("<i")

_FIELDS: Final = {
    MessageId.RUN_STEP: "i",
    MessageId.CHECKPOINT_COUNT: "ii",
    MessageId.LAP_COUNT: "ii",
    MessageId.SET_SPEED: "f",
    MessageId.SET_KEYS: "4B",
    MessageId.RESPONSE_TIMEOUT: "I",
    MessageId.REQUEST_FRAME: "ii",
    MessageId.STEP_PERIOD: "i",
    MessageId.SHOW_INTERFACE: "i",
}
_WITH_LENGTH: Final = frozenset({MessageId.REWIND, MessageId.COMMAND})
_BARE: Final = _WITH_LENGTH | {MessageId.FRAME}
"""Hold bytes and nothing else."""
_WHOLE: Final = {
    id_: struct.Struct(f"<i{_FIELDS.get(id_, '')}") for id_ in MessageId if id_ not in _BARE
}
_PAYLOAD: Final = {id_: struct.Struct(f"<{fields}") for id_, fields in _FIELDS.items()}
_BY_NUMBER: Final = {int(id_): id_ for id_ in MessageId}
_ANSWERS_NUMBER: Final = frozenset({MessageId.IS_FINISHED, MessageId.IS_IN_MENUS})
_ANSWERS_BYTES: Final = frozenset({MessageId.GET_STATE, MessageId.GET_INPUTS})
QUERIES: Final = _ANSWERS_NUMBER | _ANSWERS_BYTES
"""Answered with a bare value."""


class MessageError(Exception):
    """Bytes that are no message: the stream can no longer be followed."""


class LinkMessage(NamedTuple):
    """A message: its id and the values of its payload, in the order of the wire."""

    id: MessageId
    values: tuple[Value, ...] = ()


def encode(id_: MessageId, *values: Value) -> bytes:
    """Return a message as bytes.

    Args:
        id_: of the message.
        values: of its payload; bytes for `REWIND`, `COMMAND` and `FRAME`.

    Raises:
        MessageError: values that this message does not hold.
    """
    whole = _WHOLE.get(id_)
    if whole is not None:
        try:
            return whole.pack(id_, *values)
        except struct.error as error:
            raise MessageError(f"{id_.name} does not hold {values}: {error}") from error
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise MessageError(f"{id_.name} holds bytes, not {values}")
    payload = values[0]
    length = b"" if id_ == MessageId.FRAME else NUMBER.pack(len(payload))
    return NUMBER.pack(id_) + length + payload


def read_message(read: Read, *, frame_bytes: int) -> LinkMessage:
    """Read a message of either side.

    Args:
        read: takes bytes off the stream.
        frame_bytes: length of a frame's pixels, which the message does not say.

    Raises:
        MessageError: an unknown id or an impossible length.
    """
    id_ = _read_id(read)
    if id_ == MessageId.FRAME:
        return LinkMessage(id_, (read(frame_bytes),))
    return _read_payload(id_, read)


def _read_id(read: Read) -> MessageId:
    return _id_of(NUMBER.unpack(read(NUMBER.size))[0])


def _id_of(number: int) -> MessageId:
    id_ = _BY_NUMBER.get(number)
    if id_ is None:
        raise MessageError(f"unknown message {number}")
    return id_


def _read_payload(id_: MessageId, read: Read) -> LinkMessage:
    """Read all of a message but its id; a frame is none of these."""
    if id_ in _WITH_LENGTH:
        return LinkMessage(id_, (read_bytes(read),))
    fields = _PAYLOAD.get(id_)
    return (
        LinkMessage(id_) if fields is None else LinkMessage(id_, fields.unpack(read(fields.size)))
    )


def take_command(buffer: bytearray) -> LinkMessage | None:
    """Take the first command off the bytes of a client that have come so far.

    An acknowledgement is an id of `SYNCS` without a payload.

    Args:
        buffer: what a client has sent; the command is removed from it.

    Returns:
        None while a part of the command is still missing.

    Raises:
        MessageError: an unknown id or an impossible length.
    """
    if len(buffer) < NUMBER.size:
        return None
    id_ = _id_of(NUMBER.unpack_from(buffer)[0])
    if id_ in _WITH_LENGTH:
        return _take_bytes(id_, buffer)
    fields = None if id_ in SYNCS else _PAYLOAD.get(id_)
    end = NUMBER.size if fields is None else NUMBER.size + fields.size
    if len(buffer) < end:
        return None
    values = () if fields is None else fields.unpack_from(buffer, NUMBER.size)
    del buffer[:end]
    return LinkMessage(id_, values)


def _take_bytes(id_: MessageId, buffer: bytearray) -> LinkMessage | None:
    """Take a command that holds a length and bytes."""
    start = 2 * NUMBER.size
    if len(buffer) < start:
        return None
    length = _checked(NUMBER.unpack_from(buffer, NUMBER.size)[0])
    if len(buffer) < start + length:
        return None
    payload = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return LinkMessage(id_, (payload,))


def encode_answer(id_: MessageId, value: int | bytes) -> bytes:
    """Return the answer to a query as bytes: a number, or a length and bytes.

    Raises:
        MessageError: a value that is no answer to this query.
    """
    if id_ in _ANSWERS_NUMBER and isinstance(value, int):
        return NUMBER.pack(value)
    if id_ in _ANSWERS_BYTES and isinstance(value, bytes):
        return NUMBER.pack(len(value)) + value
    raise MessageError(f"{id_.name} is not answered with {type(value).__name__}")


def read_number(read: Read) -> int:
    """Read the answer to `IS_FINISHED` or `IS_IN_MENUS`."""
    return int(NUMBER.unpack(read(NUMBER.size))[0])


def read_bytes(read: Read) -> bytes:
    """Read a length and as many bytes: a payload, or the answer to `GET_STATE` or `GET_INPUTS`.

    Raises:
        MessageError: an impossible length.
    """
    length = _checked(NUMBER.unpack(read(NUMBER.size))[0])
    return read(length) if length else b""


def _checked(length: int) -> int:
    if not 0 <= length <= LONGEST:
        raise MessageError(f"a payload of {length} bytes cannot be meant")
    return length
