"""What a client sees of the car: state and frame, and how it is read off the wire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.envs.jit import compiled
from rl.envs.tmnf.link import LinkError
from rl.envs.tmnf.state_blob import (
    GameState,
    StateBlobError,
    check_length,
    race_time_of,
    read_state,
)

U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class GameObservation:
    """What the game shows of the car.

    Attributes:
        state: the car and the race.
        blob: the state as bytes; a rewind to it goes on from here.
        time_ms: race time of the run step, or of the finish; that of `state` may be another.
        frame: (H, W) uint8 gray; None where no frames are wanted.
        checkpoints: number of checkpoints passed in this race.
        finished: whether the finish was crossed, at `time_ms`.
    """

    state: GameState
    blob: bytes
    time_ms: int
    frame: U8 | None
    checkpoints: int
    finished: bool = False


@dataclass
class RaceCounters:
    """How well the game keeps to what is expected of it.

    Attributes:
        late_pauses: observations after which the game had to be put back, since it had run on.
        latest_pause_ms: longest time that it had run on for.
        rewinds_without_effect: frames after which the game could not be put back, so that the next
            keys acted late.
        repeated_steps: run steps of a time that had been told already.
        other_times: states with another time than their message.
        races_not_left: races that went on although the menus were asked for.
    """

    late_pauses: int = 0
    latest_pause_ms: int = 0
    rewinds_without_effect: int = 0
    repeated_steps: int = 0
    other_times: int = 0
    races_not_left: int = 0


def time_of(blob: bytes) -> int:
    """Return the race time in ms of a state.

    Raises:
        LinkError: bytes that are no state.
    """
    try:
        check_length(blob)
    except StateBlobError as error:
        raise LinkError(str(error)) from error
    return race_time_of(blob)


def parsed(blob: bytes) -> GameState:
    """Return the known fields of a state.

    Raises:
        LinkError: bytes that are no state.
    """
    try:
        return read_state(blob)
    except StateBlobError as error:
        raise LinkError(str(error)) from error


def gray(pixels: bytes, image_hw: tuple[int, int]) -> U8:
    """Return a frame of the game in gray, by BT.601 in 1/256: gray pictures stay as they are.

    Args:
        pixels: BGRA, rows from the top.
        image_hw: (H, W) pixels.

    Returns:
        (H, W) uint8.
    """
    bgra = np.frombuffer(pixels, dtype=np.uint8).reshape(*image_hw, 4)
    frame = np.empty(image_hw, dtype=np.uint8)
    _write_gray(frame, bgra)
    return frame


@compiled
def _write_gray(out: U8, bgra: U8) -> None:
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            blue, green, red = int(bgra[y, x, 0]), int(bgra[y, x, 1]), int(bgra[y, x, 2])
            out[y, x] = (29 * blue + 150 * green + 77 * red + 128) >> 8
