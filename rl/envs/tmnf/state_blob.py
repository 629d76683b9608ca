"""The game's state as bytes: where the fields lie, reading and writing them.

A state has 8356 bytes, 4 for each checkpoint state and 8 for each checkpoint time. Of these bytes
only the fields below are known; all others are kept as they are.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

FIXED_BYTES: Final = 8356
N_WHEELS: Final = 4
HEADER: Final = (1, 1, 0x9F)
"""Version, mode and flags of a real state."""
HAS_RACE: Final = 0x80
"""Flag of a state that holds the race: without it the race time means nothing."""
START_TIMER_MS: Final = 2610
"""Difference of a real state's second timer and its race time."""
NOT_PASSED: Final = -1
"""Time of a checkpoint that was not passed."""

_INT: Final = struct.Struct("<i")
_START_TIMER, _RACE_TIME, _CHECKPOINTS = 16, 7892, 8348
_MOST_CHECKPOINTS: Final = 10_000
_FIRST_WHEEL, _WHEEL_BYTES = 3816, 764
UNUSED: Final = slice(6940, 7204)
"""Bytes without a known meaning in which a server may keep what it needs."""
SPARE: Final = slice(852, 864)
"""More such bytes: part of a second copy of the motion, which nobody reads."""
_WHEEL_OFFSETS: Final = (
    (0.863, 0.0, 1.782),
    (-0.863, 0.0, 1.782),
    (-0.885, 0.0, -1.206),
    (0.885, 0.0, -1.206),
)
"""Metres to the left, up and forward of each wheel."""


def _fields(places: dict[int, str]) -> struct.Struct:
    """Return all fields of a state as one struct, with gaps between them.

    Args:
        places: format of the field at each offset in bytes.
    """
    form, end = "<", 0
    for offset, field in sorted(places.items()):
        form += f"{offset - end}x{field}"
        end = offset + struct.calcsize(f"<{field}")
    return struct.Struct(form)


_MOTION: Final = {688: "9f", 724: "3f", 736: "3f", 760: "3f"}
"""Rotation, position, velocity, angular velocity."""
_ENGINE: Final = {2388: "i", 3112: "f", 3128: "i", 3196: "i"}
"""Gearbox state, rpm, gear, free-wheeling."""


def _wheels(places: dict[int, str]) -> dict[int, str]:
    """Return the fields of all wheels from those of one, by their offset in it."""
    starts = range(_FIRST_WHEEL, _FIRST_WHEEL + N_WHEELS * _WHEEL_BYTES, _WHEEL_BYTES)
    return {start + offset: field for start in starts for offset, field in places.items()}


_TOUCH: Final = {180: "f", 292: "3i"}
"""Of a wheel: damper; contact, material, sliding."""
_KNOWN: Final = _fields(
    {8: "I", **_MOTION, **_ENGINE, **_wheels(_TOUCH), _RACE_TIME: "i", 8032: "i"}
)
"""What is read: flags, motion, engine, wheels, race time, finished."""
_WRITTEN: Final = {
    **{0: "3I", _START_TIMER: "i", 672: "4f", SPARE.start: "12s", UNUSED.start: "264s"},
    **{**_MOTION, **_ENGINE, **_wheels({4: "i", 168: "3f", **_TOUCH})},
    **{_RACE_TIME: "i", 7992: "i", 8032: "2i", 8120: "i", _CHECKPOINTS: "i"},
}
"""Header, second timer, quaternion; steerable and place of each wheel; race state, finished and
display speed, countdown, number of checkpoints; the rest as in `_KNOWN`."""


class StateBlobError(Exception):
    """Bytes that are no state of the game."""


@dataclass(frozen=True, eq=False, slots=True)
class GameState:
    """The known fields of a state. Wheels are in the game's order (`datasets.wheels`).

    Attributes:
        race_time_ms: since the start; negative in the countdown.
        rotation: (3, 3); rows are the car's left, up and forward axes in the world.
        position: (3,) metres, world, y up.
        velocity: (3,) m/s, world.
        angular_velocity: (3,) rad/s, world.
        gearbox: 0 while no gear is being changed.
        gear: 0 in reverse.
        rpm: of the engine.
        is_freewheeling: whether the engine is off.
        dampers: (4,) metres.
        contact, sliding: (4,) whether each wheel touches the ground, and slides.
        materials: (4,) what each wheel touches, below 31.
        is_finished: whether the race is over.
        checkpoint_times_ms: of each checkpoint in passing order, `NOT_PASSED` of those to come.
    """

    race_time_ms: int
    rotation: F64
    position: F64
    velocity: F64
    angular_velocity: F64
    gearbox: int
    gear: int
    rpm: float
    is_freewheeling: bool
    dampers: tuple[float, ...]
    contact: tuple[bool, ...]
    sliding: tuple[bool, ...]
    materials: tuple[int, ...]
    is_finished: bool
    checkpoint_times_ms: tuple[int, ...]


def check_length(blob: bytes) -> int:
    """Return the offset of the number of checkpoint times.

    Raises:
        StateBlobError: the length does not fit the numbers of checkpoints inside.
    """
    if len(blob) < FIXED_BYTES:
        raise StateBlobError(f"a state of {len(blob)} bytes; it has {FIXED_BYTES} at least")
    states = int(_INT.unpack_from(blob, _CHECKPOINTS)[0])
    times_at = _CHECKPOINTS + 4 + 4 * states
    if not 0 <= states <= _MOST_CHECKPOINTS or times_at + 4 > len(blob):
        raise StateBlobError(f"a state of {len(blob)} bytes cannot hold {states} checkpoints")
    (times,) = _INT.unpack_from(blob, times_at)
    if times < 0 or len(blob) != FIXED_BYTES + 4 * states + 8 * times:
        raise StateBlobError(
            f"a state of {len(blob)} bytes does not hold {states} checkpoints and {times} times"
        )
    return times_at


def race_time_of(blob: bytes) -> int:
    """Return the race time in ms of a state whose length was checked."""
    return int(_INT.unpack_from(blob, _RACE_TIME)[0])


def checkpoint_times_of(blob: bytes) -> tuple[int, ...]:
    """Return the time of each checkpoint in passing order, `NOT_PASSED` of those to come.

    Raises:
        StateBlobError: a wrong length.
    """
    times_at = check_length(blob)
    (times,) = _INT.unpack_from(blob, times_at)
    found: tuple[int, ...] = struct.unpack_from("<" + "i4x" * times, blob, times_at + 4)
    return found


def read_state(blob: bytes) -> GameState:
    """Read the known fields.

    Raises:
        StateBlobError: a wrong length, no race inside, numbers that are not finite.
    """
    times = checkpoint_times_of(blob)
    values = _KNOWN.unpack_from(blob)
    motion, wheels = values[1:19], values[23:39]
    gearbox, rpm, gear, freewheeling = values[19:23]
    if not values[0] & HAS_RACE:
        raise StateBlobError("a state without the race: its times mean nothing")
    if not math.isfinite(
        sum(motion) + rpm + sum(wheels[::4])
    ):  # finite float32 cannot add up to infinity
        raise StateBlobError("a state with numbers that are not finite")
    numbers = np.array(motion)
    return GameState(
        race_time_ms=values[39],
        rotation=np.ascontiguousarray(numbers[:9].reshape(3, 3).T),
        position=numbers[9:12],
        velocity=numbers[12:15],
        angular_velocity=numbers[15:],
        gearbox=gearbox,
        gear=gear,
        rpm=rpm,
        is_freewheeling=bool(freewheeling),
        dampers=wheels[::4],
        contact=tuple(map(bool, wheels[1::4])),
        sliding=tuple(map(bool, wheels[3::4])),
        materials=tuple(material & 0xFFFF for material in wheels[2::4]),
        is_finished=bool(values[40]),
        checkpoint_times_ms=times,
    )


def without_last_time(blob: bytes) -> bytes | None:
    """Return the state with its last checkpoint not passed, which calls off a finish.

    Returns:
        The changed state; None if it holds no checkpoint times.

    Raises:
        StateBlobError: a wrong length.
    """
    times_at = check_length(blob)
    (times,) = _INT.unpack_from(blob, times_at)
    if not times:
        return None
    changed = bytearray(blob)
    _INT.pack_into(changed, times_at + 4 + 8 * (times - 1), NOT_PASSED)
    return bytes(changed)


class StateWriter:
    """Writes states of one map: bytes that are not written are 0."""

    def __init__(self, checkpoints: int) -> None:
        """Lay out the bytes.

        Args:
            checkpoints: of the map, the finish included.
        """
        states, times = f"{checkpoints}i", "i4x" * checkpoints
        end = _CHECKPOINTS + 4
        self._fields = _fields({**_WRITTEN, end: states, end + 4 * checkpoints: f"i{times}"})
        self._checkpoints = checkpoints

    def write(self, state: GameState, unused: bytes = b"", spare: bytes = b"") -> bytes:
        """Return a state as bytes.

        Args:
            state: with a time for each checkpoint.
            unused: at most 264 bytes of the writer's own.
            spare: at most 12 more of them.

        Raises:
            ValueError: too many bytes, or another number of checkpoints.
        """
        for given, room in ((unused, UNUSED), (spare, SPARE)):
            if len(given) > room.stop - room.start:
                raise ValueError(f"{len(given)} bytes do not fit into the unused ones")
        times = state.checkpoint_times_ms
        if len(times) != self._checkpoints:
            raise ValueError(f"expected {self._checkpoints} checkpoint times")
        matrix = state.rotation.T.tolist()
        velocity = state.velocity.tolist()
        return self._fields.pack(
            *HEADER,
            state.race_time_ms + START_TIMER_MS,
            *_quaternion(matrix),
            *(number for row in matrix for number in row),
            *state.position.tolist(),
            *velocity,
            *state.angular_velocity.tolist(),
            spare,
            *(state.gearbox, state.rpm, state.gear, state.is_freewheeling),
            *(number for wheel in range(N_WHEELS) for number in _wheel(state, wheel)),
            unused,
            state.race_time_ms,
            2 if state.is_finished else 1,
            state.is_finished,
            int(3.6 * math.hypot(*velocity)),
            START_TIMER_MS - 10,
            self._checkpoints,
            *(time_ms != NOT_PASSED for time_ms in times),
            self._checkpoints,
            *times,
        )


def _wheel(state: GameState, wheel: int) -> tuple[float, ...]:
    """Return the values of a wheel in the order of their bytes."""
    contact, sliding = state.contact[wheel], state.sliding[wheel]
    touch = (contact, state.materials[wheel], sliding)
    return (wheel < 2, *_WHEEL_OFFSETS[wheel], state.dampers[wheel], *touch)


def _quaternion(m: list[list[float]]) -> tuple[float, float, float, float]:
    """Return w, x, y, z of a rotation matrix; the largest is computed first, for accuracy."""
    squares = [m[0][0] + m[1][1] + m[2][2], m[0][0], m[1][1], m[2][2]]
    largest = squares.index(max(squares))
    if largest == 0:
        s = 2.0 * math.sqrt(max(1.0 + squares[0], 1e-12))
        w, x = s / 4.0, (m[2][1] - m[1][2]) / s
        return w, x, (m[0][2] - m[2][0]) / s, (m[1][0] - m[0][1]) / s
    i = largest - 1
    j, k = (i + 1) % 3, (i + 2) % 3
    s = 2.0 * math.sqrt(max(1.0 + m[i][i] - m[j][j] - m[k][k], 1e-12))
    out = [0.0, 0.0, 0.0, 0.0]
    out[0] = (m[k][j] - m[j][k]) / s
    out[1 + i], out[1 + j], out[1 + k] = s / 4.0, (m[j][i] + m[i][j]) / s, (m[k][i] + m[i][k]) / s
    return out[0], out[1], out[2], out[3]
