"""What drives: B cars as collectors, recorders and evaluations see them, wherever they race.

The simulator's `rl.envs.sim.batch.RaceBatch` is one such batch; `rl.envs.factory` builds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from datasets.contract.line import ReferenceLine


class RunLostError(Exception):
    """The unfinished runs of a batch are lost; its cars can race again after a `reset`."""


class RaceMap(Protocol):
    """A map as a race needs it: its name, and the line that zones and floats follow."""

    @property
    def name(self) -> str:
        """Short name, as in the map cycle."""

    @property
    def line(self) -> ReferenceLine:
        """The line along which progress is measured."""


class CarBatch(Protocol):
    """B cars that race independently of each other.

    Arrays are updated in place. A car that has finished or was cut off stays as it is until its
    next `reset`.
    """

    @property
    def num_cars(self) -> int:
        """Number of cars B."""

    @property
    def tracks(self) -> Sequence[RaceMap]:
        """The T maps."""

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """(B, H, W) gray pictures."""

    @property
    def floats(self) -> npt.NDArray[np.float32]:
        """(B, 184) raw floats, see `datasets.contract.floats`."""

    @property
    def start_noise(self) -> npt.NDArray[np.float64]:
        """(B,) scale of each car's start variation, for its next `reset`."""

    @property
    def track_of_car(self) -> npt.NDArray[np.int64]:
        """(B,) index of each car's map."""

    @property
    def race_time_ms(self) -> npt.NDArray[np.int32]:
        """(B,) since the start; exact to 10 ms at the finish."""

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """(B,) crossed the finish."""

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """(B,) cut off."""

    @property
    def zone(self) -> npt.NDArray[np.int64]:
        """(B,) current zone of the line."""

    @property
    def furthest_zone(self) -> npt.NDArray[np.int64]:
        """(B,) furthest zone of this race."""

    @property
    def meters(self) -> npt.NDArray[np.float64]:
        """(B,) progress along the line; only differences matter."""

    def move_to_track(self, car: int, track: int) -> None:
        """Choose the map of a car; call `reset` after it."""

    def reset(self, cars: npt.ArrayLike, seeds: npt.ArrayLike) -> None:
        """Put `cars` (k,) back to the start, each varied by its own seed (k,), and observe."""

    def step(self, actions: npt.NDArray[np.uint8]) -> None:
        """50 ms with each car's action (B,) held, then an observation.

        Raises:
            RunLostError: the cars cannot go on; the next `reset` begins their runs anew.
        """

    def tick(self, actions: npt.NDArray[np.uint8]) -> None:
        """10 ms with each car's action (B,); nothing is observed.

        Raises:
            RunLostError: as for `step`.
        """

    def observe(self) -> None:
        """Fill `floats` and `frames` for every car."""

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all arrays that determine every car's future."""

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from `get_state` of a batch with as many cars and the same maps."""

    def close(self) -> None:
        """Let go of whatever the cars drive in; may be called twice."""
