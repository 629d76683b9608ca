"""A car's way along the reference line, bound to the checkpoints of the map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.files import load_array
from datasets.contract.line import START_ZONE, ReferenceLine
from rl.envs.observation import advance_zone, meters_along

F64 = npt.NDArray[np.float64]

MATCH_M: Final = 12.0
"""A checkpoint farther than this from the line is not bound to it."""


class BoundLine:
    """A line of which some zones open only when the game has counted their checkpoint.

    Where no centres are given, the first pass of a checkpoint shows where it is.
    """

    def __init__(self, line: ReferenceLine, centers: F64 | None = None) -> None:
        """Bind what is known.

        Args:
            line: of the map.
            centers: (K, 3) metres, checkpoints in passing order; None: not known.
        """
        self.line = line
        self._zones: dict[int, int] = {}
        self._radius: dict[int, F64] = {}  # by the number of passed checkpoints
        if centers is not None:
            self._zones = _zones_of(line, centers)

    def note_pass(self, checkpoint: int, zone: int) -> None:
        """Note where a checkpoint was counted, unless that is known."""
        if checkpoint not in self._zones:
            self._zones[checkpoint] = zone
            self._radius.clear()

    def radius(self, passed: int) -> F64:
        """Return (n,) metres within which each zone is left, after so many checkpoints."""
        if passed not in self._radius:
            radius = self.line.checkpoint_radius.copy()
            closed = [zone for checkpoint, zone in self._zones.items() if checkpoint >= passed]
            radius[closed] = 0.0
            self._radius[passed] = radius
        return self._radius[passed]


def _zones_of(line: ReferenceLine, centers: F64) -> dict[int, int]:
    """Return the zone nearest to each checkpoint, later ones further along."""
    zones: dict[int, int] = {}
    first = START_ZONE
    for checkpoint, center in enumerate(centers):
        away = np.linalg.norm(line.zone_centers[first : line.last_zone + 1] - center, axis=1)
        near = np.flatnonzero(away <= MATCH_M)
        if len(near) == 0:
            continue
        # The first stretch of the line that comes near: it may come back to the same place.
        stretch = near[: int(np.argmax(np.diff(near, append=near[-1] + 2) > 1)) + 1]
        zones[checkpoint] = first + int(stretch[away[stretch].argmin()])
        first = min(zones[checkpoint] + 1, line.last_zone)
    return zones


def load_centers(line_path: Path) -> F64 | None:
    """Read the checkpoints of a map: `NAME.checkpoints.npy` beside its line `NAME.npy`.

    Raises:
        UserError: a file that holds no (K, 3) numbers.
    """
    path = line_path.with_suffix(".checkpoints.npy")
    if not path.exists():
        return None
    centers = load_array(path, "list of checkpoints")
    if centers.ndim != 2 or centers.shape[1] != 3 or centers.dtype == np.bool_:
        raise UserError(f"{path}: expected (K, 3) numbers, x, y, z of each checkpoint in metres")
    return np.asarray(centers, dtype=np.float64)


class Progress:
    """Zone and metres of one car in one race.

    Attributes:
        zone, furthest_zone: of the line.
        meters: along the line.
        since_ms: race time at which the furthest zone last advanced.
    """

    def __init__(self, bound: BoundLine, position: F64) -> None:
        """Find a car that stands at its start."""
        self._bound = bound
        self._position, self._velocity = position, np.zeros(3)
        self.since_ms = 0
        self.zone = START_ZONE
        self.zone = self.furthest_zone = self._advance(position.tolist(), bound.radius(0))
        self.meters = self._meters(position)

    def move(self, position: F64, velocity: F64, time_ms: int, for_ms: int, passed: int) -> None:
        """Follow a car over some time.

        Zones are looked for every 10 ms, as in the simulator; between two states the car is
        interpolated by a cubic curve.

        Args:
            position: (3,) metres, now.
            velocity: (3,) m/s, now.
            time_ms: race time, now.
            for_ms: time since the last call, a multiple of 10.
            passed: number of checkpoints passed so far.
        """
        radius = self._bound.radius(passed)
        steps = max(for_ms // TICK_MS, 1)
        for tick, at in enumerate(self._way(position, velocity, steps, for_ms / 1000.0), 1 - steps):
            self.zone = self._advance(at, radius)
            if self.zone > self.furthest_zone:
                self.furthest_zone = self.zone
                self.since_ms = time_ms + tick * TICK_MS
        self.meters = self._meters(position)
        self._position, self._velocity = position, velocity

    def note_passes(self, before: int, passed: int) -> None:
        """Note that the checkpoints from number `before` on were passed about here.

        Not if the zone is far from the car: it lags behind one that has left the line.
        """
        center = self._bound.line.zone_centers[self.zone]
        if float(np.linalg.norm(center - self._position)) > MATCH_M:
            return
        for checkpoint in range(before, passed):
            self._bound.note_pass(checkpoint, self.zone)

    def go_on_from(self, zone: int, furthest_zone: int, since_ms: int, velocity: F64) -> None:
        """Take the place of a car that stands where its race was left."""
        self.zone, self.furthest_zone, self.since_ms = zone, furthest_zone, since_ms
        self._velocity = velocity
        self.meters = self._meters(self._position)

    def finish(self) -> None:
        """Move to the end of the line."""
        line = self._bound.line
        self.zone = self.furthest_zone = line.finish_zone
        self.meters = float(line.cumulative[line.finish_zone])

    def _way(self, position: F64, velocity: F64, steps: int, seconds: float) -> list[list[float]]:
        """Return so many places on the cubic curve from the last state to this one."""
        ends = zip(
            *(self._position.tolist(), self._velocity.tolist()),
            *(position.tolist(), velocity.tolist()),
            strict=True,
        )
        axes = list(ends)
        places = [
            [start * p + leave * v + end * q + arrive * w for p, v, q, w in axes]
            for start, leave, end, arrive in _curve(steps, seconds)
        ]
        places.append(position.tolist())
        return places

    def _advance(self, position: Sequence[float], radius: F64) -> int:
        line = self._bound.line
        x, y, z = position
        return int(advance_zone(self.zone, x, y, z, line.zone_centers, radius, 0, line.n_zones))

    def _meters(self, position: F64) -> float:
        line = self._bound.line
        x, y, z = position.tolist()
        geometry = (line.zone_transitions, line.axes, line.segment_lengths, line.cumulative)
        return float(meters_along(self.zone, x, y, z, *geometry, 0))


@lru_cache
def _curve(steps: int, seconds: float) -> list[tuple[float, float, float, float]]:
    """Return the weights of a cubic Hermite curve at the places between its ends.

    Returns:
        For each: weights of the place and the velocity at the start, and of both at the end.
    """
    weights = []
    for step in range(1, steps):
        s = step / steps
        s2, s3 = s * s, s**3
        leave, arrive = seconds * (s3 - 2 * s2 + s), seconds * (s3 - s2)
        weights.append((2 * s3 - 3 * s2 + 1, leave, 3 * s2 - 2 * s3, arrive))
    return weights
