"""The game's state as bytes: where the fields lie, reading and writing them.

A state has 8356 bytes, 4 for each checkpoint state and 8 for each checkpoint time. Of these bytes
only the fields below are known; all others are kept as they are.
"""

from __future__ import annotations

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
_FLOAT: Final = struct.Struct("<f")
_HEADER: Final = struct.Struct("<3I")
_TIMERS: Final = 12
_QUATERNION: Final = (672, struct.Struct("<4f"))
# Rotation at 688, position at 724, velocity at 736, angular velocity at 760.
_MOTION: Final = (688, struct.Struct("<15f12x3f"))
_GEARBOX, _RPM, _GEAR, _FREEWHEELING = 2388, 3112, 3128, 3196
_FIRST_WHEEL, _WHEEL_BYTES = 3816, 764
_STEERABLE, _OFFSET, _DAMPER = 4, 168, 180
_TOUCH: Final = (292, struct.Struct("<3i"))  # contact, material, sliding
UNUSED: Final = slice(6940, 7204)
"""Bytes without a known meaning in which a server may keep what it needs."""
_RACE_TIME, _RACE_STATE, _FINISHED, _SPEED, _COUNTDOWN = 7892, 7992, 8032, 8036, 8120
_CHECKPOINTS = 8348
_MOST_CHECKPOINTS: Final = 10_000
_WHEEL_OFFSETS: Final = (
    (0.863, 0.0, 1.782),
    (-0.863, 0.0, 1.782),
    (-0.885, 0.0, -1.206),
    (0.885, 0.0, -1.206),
)
"""Metres to the left, up and forward of each wheel."""


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
    if not _HEADER.unpack_from(blob)[2] & HAS_RACE:
        raise StateBlobError("a state without the race: its times mean nothing")
    at, motion = _MOTION
    numbers = np.array(motion.unpack_from(blob, at))
    rpm = _FLOAT.unpack_from(blob, _RPM)[0]
    if not np.isfinite(numbers).all() or rpm != rpm:
        raise StateBlobError("a state with numbers that are not finite")
    wheels = range(_FIRST_WHEEL, _FIRST_WHEEL + N_WHEELS * _WHEEL_BYTES, _WHEEL_BYTES)
    offset, touch = _TOUCH
    touches = [touch.unpack_from(blob, wheel + offset) for wheel in wheels]
    return GameState(
        race_time_ms=race_time_of(blob),
        rotation=np.ascontiguousarray(numbers[:9].reshape(3, 3).T),
        position=numbers[9:12],
        velocity=numbers[12:15],
        angular_velocity=numbers[15:18],
        gearbox=_INT.unpack_from(blob, _GEARBOX)[0],
        gear=_INT.unpack_from(blob, _GEAR)[0],
        rpm=rpm,
        is_freewheeling=bool(_INT.unpack_from(blob, _FREEWHEELING)[0]),
        dampers=tuple(_FLOAT.unpack_from(blob, wheel + _DAMPER)[0] for wheel in wheels),
        contact=tuple(bool(contact) for contact, _, _ in touches),
        sliding=tuple(bool(sliding) for _, _, sliding in touches),
        materials=tuple(material & 0xFFFF for _, material, _ in touches),
        is_finished=bool(_INT.unpack_from(blob, _FINISHED)[0]),
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
    """Writes states of one map: bytes that are not written stay 0."""

    def __init__(self, checkpoints: int) -> None:
        """Reserve the bytes.

        Args:
            checkpoints: of the map, the finish included.
        """
        self._bytes = bytearray(FIXED_BYTES + 12 * checkpoints)
        self._checkpoints = checkpoints
        _HEADER.pack_into(self._bytes, 0, *HEADER)
        for wheel, place in enumerate(_WHEEL_OFFSETS):
            at = _FIRST_WHEEL + _WHEEL_BYTES * wheel
            _INT.pack_into(self._bytes, at + _STEERABLE, int(wheel < 2))
            struct.pack_into("<3f", self._bytes, at + _OFFSET, *place)
        _INT.pack_into(self._bytes, _COUNTDOWN, START_TIMER_MS - 10)
        _INT.pack_into(self._bytes, _CHECKPOINTS, checkpoints)
        _INT.pack_into(self._bytes, self._times_at, checkpoints)

    @property
    def _times_at(self) -> int:
        return _CHECKPOINTS + 4 + 4 * self._checkpoints

    def write(self, state: GameState, unused: bytes = b"") -> bytes:
        """Return a state as bytes.

        Args:
            state: with a time for each checkpoint.
            unused: at most 264 bytes of the writer's own.

        Raises:
            ValueError: too many bytes, or another number of checkpoints.
        """
        if len(unused) > UNUSED.stop - UNUSED.start:
            raise ValueError(f"{len(unused)} bytes do not fit into the unused ones")
        if len(state.checkpoint_times_ms) != self._checkpoints:
            raise ValueError(f"expected {self._checkpoints} checkpoint times")
        out = self._bytes
        _INT.pack_into(out, _TIMERS + 4, state.race_time_ms + START_TIMER_MS)
        at, quaternion = _QUATERNION
        quaternion.pack_into(out, at, *_quaternion(state.rotation.T))
        at, motion = _MOTION
        vectors = (state.position, state.velocity, state.angular_velocity)
        motion.pack_into(out, at, *state.rotation.T.ravel(), *np.concatenate(vectors))
        _INT.pack_into(out, _GEARBOX, state.gearbox)
        _INT.pack_into(out, _GEAR, state.gear)
        _FLOAT.pack_into(out, _RPM, state.rpm)
        _INT.pack_into(out, _FREEWHEELING, state.is_freewheeling)
        offset, touch = _TOUCH
        for wheel in range(N_WHEELS):
            at = _FIRST_WHEEL + _WHEEL_BYTES * wheel
            _FLOAT.pack_into(out, at + _DAMPER, state.dampers[wheel])
            touches = state.contact[wheel], state.materials[wheel], state.sliding[wheel]
            touch.pack_into(out, at + offset, *touches)
        out[UNUSED.start : UNUSED.start + len(unused)] = unused
        _INT.pack_into(out, _RACE_TIME, state.race_time_ms)
        _INT.pack_into(out, _RACE_STATE, 2 if state.is_finished else 1)
        _INT.pack_into(out, _FINISHED, state.is_finished)
        _INT.pack_into(out, _SPEED, int(3.6 * np.linalg.norm(state.velocity)))
        for place, time_ms in enumerate(state.checkpoint_times_ms):
            passed = int(time_ms != NOT_PASSED)
            _INT.pack_into(out, _CHECKPOINTS + 4 + 4 * place, passed)
            _INT.pack_into(out, self._times_at + 4 + 8 * place, time_ms)
        return bytes(out)


def _quaternion(matrix: F64) -> tuple[float, float, float, float]:
    """Return w, x, y, z of a rotation; the largest of them is computed first, for accuracy."""
    m = matrix
    trace = float(np.trace(m))
    squares = np.array([trace, m[0, 0], m[1, 1], m[2, 2]])
    largest = int(squares.argmax())
    if largest == 0:
        s = 2.0 * np.sqrt(max(1.0 + trace, 1e-12))
        w, x = s / 4.0, (m[2, 1] - m[1, 2]) / s
        return w, x, (m[0, 2] - m[2, 0]) / s, (m[1, 0] - m[0, 1]) / s
    i = largest - 1
    j, k = (i + 1) % 3, (i + 2) % 3
    s = 2.0 * np.sqrt(max(1.0 + m[i, i] - m[j, j] - m[k, k], 1e-12))
    out = [0.0, 0.0, 0.0, 0.0]
    out[0] = (m[k, j] - m[j, k]) / s
    out[1 + i], out[1 + j], out[1 + k] = s / 4.0, (m[j, i] + m[i, j]) / s, (m[k, i] + m[i, k]) / s
    return out[0], out[1], out[2], out[3]
