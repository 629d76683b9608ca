"""The game's messages and states as bytes."""

import struct

import numpy as np
import pytest

from rl.envs.tmnf.messages import (
    QUERIES,
    SYNCS,
    LinkMessage,
    MessageError,
    MessageId,
    Value,
    encode,
    encode_answer,
    read_bytes,
    read_message,
    read_number,
    take_command,
)
from rl.envs.tmnf.state_blob import (
    FIXED_BYTES,
    NOT_PASSED,
    GameState,
    StateBlobError,
    StateWriter,
    read_state,
    without_last_time,
)

BYTES: dict[MessageId, tuple[tuple[Value, ...], str]] = {
    MessageId.RUN_STEP: ((-2600,), "01000000 d8f5ffff"),
    MessageId.CHECKPOINT_COUNT: ((3, 5), "02000000 03000000 05000000"),
    MessageId.LAP_COUNT: ((1, 2), "03000000 01000000 02000000"),
    MessageId.FRAME: ((b"\x01\x02\x03\xff",), "04000000 010203ff"),
    MessageId.CONNECTED: ((), "05000000"),
    MessageId.SET_SPEED: ((80.0,), "06000000 0000a042"),
    MessageId.REWIND: ((b"\x07\x08\x09",), "07000000 03000000 070809"),
    MessageId.REWIND_TO_CURRENT: ((), "08000000"),
    MessageId.GET_STATE: ((), "09000000"),
    MessageId.SET_KEYS: ((1, 0, 1, 0), "0a000000 01000100"),
    MessageId.GIVE_UP: ((), "0b000000"),
    MessageId.PREVENT_FINISH: ((), "0c000000"),
    MessageId.SHUT_DOWN: ((), "0d000000"),
    MessageId.COMMAND: (("map é".encode(),), "0e000000 06000000 6d617020c3a9"),
    MessageId.RESPONSE_TIMEOUT: ((600_000_000,), "0f000000 0046c323"),
    MessageId.IS_FINISHED: ((), "10000000"),
    MessageId.REQUEST_FRAME: ((160, 120), "11000000 a0000000 78000000"),
    MessageId.RESET_CAMERA: ((), "12000000"),
    MessageId.STEP_PERIOD: ((50,), "13000000 32000000"),
    MessageId.CANCEL_FRAME: ((), "14000000"),
    MessageId.SHOW_INTERFACE: ((1,), "15000000 01000000"),
    MessageId.IS_IN_MENUS: ((), "16000000"),
    MessageId.GET_INPUTS: ((), "17000000"),
}
"""Each message as it stands in the plugin's description: values, bytes."""


class Stream:
    """Bytes that are read in order."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, count: int) -> bytes:
        assert len(self.data) >= count
        found, self.data = self.data[:count], self.data[count:]
        return found


def test_every_message_has_its_bytes_in_both_directions() -> None:
    assert set(BYTES) == set(MessageId)
    for id_, (values, text) in BYTES.items():
        wire = bytes.fromhex(text)
        assert encode(id_, *values) == wire, id_.name
        stream = Stream(wire)
        assert read_message(stream.read, frame_bytes=4) == LinkMessage(id_, values), id_.name
        assert stream.data == b""


def test_commands_are_taken_off_whatever_pieces_they_come_in() -> None:
    commands = [id_ for id_ in MessageId if id_ not in SYNCS]
    wire = b"".join(encode(id_, *BYTES[id_][0]) for id_ in commands) + struct.pack("<i", 4)
    expected = [LinkMessage(id_, BYTES[id_][0]) for id_ in commands]
    expected.append(LinkMessage(MessageId.FRAME))  # the acknowledgement has no payload
    for piece in (1, 3, len(wire)):
        buffer, taken = bytearray(), []
        for start in range(0, len(wire), piece):
            buffer += wire[start : start + piece]
            while (message := take_command(buffer)) is not None:
                taken.append(message)
        assert taken == expected
        assert not buffer


def test_answers_are_bare_values() -> None:
    for id_ in QUERIES:
        numeric = id_ in (MessageId.IS_FINISHED, MessageId.IS_IN_MENUS)
        answer = encode_answer(id_, 1 if numeric else b"\x05\x06")
        assert answer == bytes.fromhex("01000000" if numeric else "02000000 0506")
        stream = Stream(answer)
        assert (read_number if numeric else read_bytes)(stream.read) == (
            1 if numeric else b"\x05\x06"
        )
    with pytest.raises(MessageError):
        encode_answer(MessageId.SET_SPEED, 1)


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack("<i", 24),
        struct.pack("<i", 0),
        struct.pack("<ii", 7, -1),
        struct.pack("<ii", 14, 2**30),
    ],
)
def test_bytes_that_are_no_message_are_refused(wire: bytes) -> None:
    with pytest.raises(MessageError):
        read_message(Stream(wire).read, frame_bytes=4)


def test_values_that_a_message_does_not_hold_are_refused() -> None:
    wrong: list[tuple[MessageId, tuple[Value, ...]]] = [
        (MessageId.SET_KEYS, (1, 0, 256, 0)),
        (MessageId.RUN_STEP, ()),
        (MessageId.COMMAND, (3,)),
    ]
    for id_, values in wrong:
        with pytest.raises(MessageError):
            encode(id_, *values)


def a_state(checkpoints: int = 3) -> GameState:
    angle = 0.7
    forward = np.array([np.sin(angle), 0.0, np.cos(angle)])
    left = np.array([np.cos(angle), 0.0, -np.sin(angle)])
    return GameState(
        race_time_ms=1230,
        rotation=np.stack([left, [0.0, 1.0, 0.0], forward]),
        position=np.array([724.75, 10.25, 784.5]),
        velocity=np.array([3.0, -0.5, 41.0]),
        angular_velocity=np.array([0.125, -1.5, 0.25]),
        gearbox=1,
        gear=4,
        rpm=8123.5,
        is_freewheeling=True,
        dampers=(0.0625, 0.125, 0.03125, 0.25),
        contact=(True, False, True, True),
        sliding=(False, True, False, False),
        materials=(16, 2, 6, 0x3E3A0007),
        is_finished=False,
        checkpoint_times_ms=(500, 1200, NOT_PASSED)[:checkpoints],
    )


def test_a_state_is_read_as_it_was_written() -> None:
    state = a_state()
    blob = StateWriter(3).write(state, bytes(range(200)))
    assert len(blob) == FIXED_BYTES + 4 * 3 + 8 * 3
    found = read_state(blob)
    for name in GameState.__slots__:
        if name != "materials":
            np.testing.assert_allclose(
                np.asarray(getattr(found, name)), np.asarray(getattr(state, name)), atol=1e-7
            )
    assert found.materials == (16, 2, 6, 7)  # the upper half is rubbish


def test_fields_lie_where_the_game_has_them() -> None:
    blob = StateWriter(3).write(a_state())

    def at(offset: int, form: str) -> tuple[float, ...]:
        return struct.unpack_from(f"<{form}", blob, offset)

    assert at(0, "3I") == (1, 1, 0x9F)
    assert at(12 + 4, "i") == (1230 + 2610,)
    assert at(724, "3f") == (724.75, 10.25, 784.5)
    assert at(736, "3f") == (3.0, -0.5, 41.0)
    assert at(760, "3f") == (0.125, -1.5, 0.25)
    assert (at(2388, "i"), at(3112, "f"), at(3128, "i"), at(3196, "i")) == (
        (1,),
        (8123.5,),
        (4,),
        (1,),
    )
    third = 3816 + 2 * 764
    assert at(third + 180, "f") == (0.03125,)
    assert at(third + 292, "3i") == (1, 6, 0)
    assert at(7892, "i") == (1230,)
    assert at(8348, "i") == (3,)
    assert at(8352 + 12, "i") == (3,)
    assert at(8352 + 16, "i4xi4xi4x") == (500, 1200, -1)
    # The matrix and the quaternion turn car vectors into the world: forward is their third column.
    matrix = np.array(at(688, "9f")).reshape(3, 3)
    np.testing.assert_allclose(matrix[:, 2], a_state().rotation[2], atol=1e-7)
    w, x, y, z = at(672, "4f")
    turned = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
    np.testing.assert_allclose(turned, a_state().rotation[2], atol=1e-6)


def test_a_finish_is_called_off_by_its_time_alone() -> None:
    state = a_state()
    blob = StateWriter(3).write(state)
    changed = without_last_time(blob)
    assert changed == blob  # it was not passed yet
    finished = GameState(
        **{
            **{name: getattr(state, name) for name in GameState.__slots__},
            "checkpoint_times_ms": (500, 1200, 1230),
        }
    )
    whole = StateWriter(3).write(finished)
    called_off = without_last_time(whole)
    assert called_off is not None
    assert read_state(called_off).checkpoint_times_ms == (500, 1200, NOT_PASSED)
    different = [i for i, (a, b) in enumerate(zip(whole, called_off, strict=True)) if a != b]
    assert different
    assert min(different) >= len(whole) - 8
    empty = StateWriter(0).write(
        GameState(
            **{
                **{name: getattr(state, name) for name in GameState.__slots__},
                "checkpoint_times_ms": (),
            }
        )
    )
    assert without_last_time(empty) is None


@pytest.mark.parametrize("length", [0, 4, FIXED_BYTES - 1, FIXED_BYTES + 35, FIXED_BYTES + 37])
def test_states_of_another_length_are_refused(length: int) -> None:
    blob = StateWriter(3).write(a_state())
    changed = (blob + bytes(100))[:length]
    with pytest.raises(StateBlobError, match="bytes"):
        read_state(changed)


def test_states_without_a_race_or_with_impossible_numbers_are_refused() -> None:
    blob = bytearray(StateWriter(3).write(a_state()))
    blob[8] &= ~0x80
    with pytest.raises(StateBlobError, match="without the race"):
        read_state(bytes(blob))
    for place in (728, 3816 + 180):  # of the position, and a damper
        blob = bytearray(StateWriter(3).write(a_state()))
        struct.pack_into("<f", blob, place, float("nan"))
        with pytest.raises(StateBlobError, match="not finite"):
            read_state(bytes(blob))
