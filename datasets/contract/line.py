"""Reference lines: the driven path that zones, progress and waypoints follow.

A line is an array (N, 3) of points in metres, y up, nominally 0.5 m apart; the finish lies in the
middle of its last segment. Loading extends it behind the start and beyond the finish and smooths
it, so that waypoints exist everywhere a car can be.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.files import load_array

FloatArray = npt.NDArray[np.float64]

START_ZONE: Final = 20
"""Points put before the first one; every rollout starts in this zone."""
EXTENSION_ZONES: Final = 1000
"""Points put behind the last one, so that waypoints reach beyond the finish."""
SMOOTHING_REACH: Final = 5
LINE_SPACING_M: Final = 0.5
ROAD_WIDTH_M: Final = 90.0
ZONE_REACH_M: Final = float(np.hypot(LINE_SPACING_M / 2, ROAD_WIDTH_M / 2))
"""A car farther than this from the next zone's centre cannot enter it."""
NO_CHECKPOINT_RADIUS_M: Final = 9_999_999.0
MIN_POINTS: Final = 50
MAX_POINTS: Final = 250_000
MAX_STEP_M: Final = 100.0
"""Metres between two points beyond which they do not follow each other on any road."""
MAX_LENGTH_M: Final = 100_000.0
MAX_COORDINATE_M: Final = 1_000_000.0
"""Beyond it the 32-bit floats of an observation are too coarse."""
_SAME_PLACE_M: Final = 1e-6


@dataclass(frozen=True)
class ReferenceLine:
    """A line with the derived geometry; n = N + 1020 zones.

    Attributes:
        points: (N, 3) float64 as loaded.
        zone_centers: (n, 3) extended and smoothed points.
        checkpoint_radius: (n,) metres a car must come within to pass a zone (bound to a real
            checkpoint), or a number beyond every distance.
    """

    points: FloatArray
    zone_centers: FloatArray
    checkpoint_radius: FloatArray

    @classmethod
    def from_points(cls, points: npt.ArrayLike, name: str = "reference line") -> Self:
        """Check, extend and smooth.

        Raises:
            UserError: not (50 <= N <= 250,000, 3), not finite, too long, consecutive points that
                coincide or are far apart, or a line that goes back the way it came.
        """
        array = np.asarray(points)
        if array.ndim != 2 or array.shape[1] != 3 or len(array) < MIN_POINTS:
            raise UserError(
                f"{name}: expected an array (N >= {MIN_POINTS}, 3) of x, y, z in metres, "
                f"got {array.shape}"
            )
        if len(array) > MAX_POINTS:
            raise UserError(f"{name}: {len(array):,} points, at most {MAX_POINTS:,}")
        if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise UserError(f"{name}: expected real numbers, got {array.dtype}")
        array = array.astype(np.float64)
        _check_points(array, name)
        centers = _smooth(_extend(array))
        _check_ahead(centers, name)
        radius = np.full(len(centers), NO_CHECKPOINT_RADIUS_M)
        return cls(array, centers, radius)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `.npy` file.

        Raises:
            UserError: missing, not an array file, or not a usable line.
        """
        return cls.from_points(load_array(path, "reference line"), str(path))

    @property
    def n_zones(self) -> int:
        """Number of zones, extensions included."""
        return len(self.zone_centers)

    @property
    def last_zone(self) -> int:
        """The last zone a car can reach before the finish."""
        return self.n_zones - 1 - EXTENSION_ZONES

    @property
    def finish_zone(self) -> int:
        """The zone that stands for a finished run."""
        return self.n_zones - EXTENSION_ZONES

    @cached_property
    def zone_transitions(self) -> FloatArray:
        """(n - 1, 3) midpoints between consecutive zone centres."""
        return (self.zone_centers[:-1] + self.zone_centers[1:]) / 2

    @cached_property
    def segment_lengths(self) -> FloatArray:
        """(n - 1,) metres between consecutive transitions; the last one is repeated."""
        lengths = np.linalg.norm(np.diff(self.zone_transitions, axis=0), axis=1)
        return np.append(lengths, lengths[-1])

    @cached_property
    def axes(self) -> FloatArray:
        """(n - 1, 3) unit vectors between consecutive transitions; the last one is repeated."""
        steps = np.diff(self.zone_transitions, axis=0)
        steps = np.vstack([steps, steps[-1]])
        return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True))

    @cached_property
    def cumulative(self) -> FloatArray:
        """(n - 1,) metres along the line at each transition; 0 at the first."""
        return np.concatenate([[0.0], np.cumsum(self.segment_lengths[:-1])])

    @property
    def length_m(self) -> float:
        """Metres from the first to the last loaded point."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())

    @property
    def finish_point(self) -> FloatArray:
        """(3,) middle of the last loaded segment."""
        return np.asarray((self.points[-2] + self.points[-1]) / 2)


def _check_points(points: FloatArray, name: str) -> None:
    """Refuse points that no driven line has."""
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise UserError(f"{name}: point {bad} is not finite; remove NaN and infinite points")
    far = np.abs(points).max(axis=1)
    if far.max() > MAX_COORDINATE_M:
        raise UserError(
            f"{name}: point {int(far.argmax())} lies {far.max() / 1000:,.0f} km from the origin, "
            f"at most {MAX_COORDINATE_M / 1000:,.0f} km; is the unit metres?"
        )
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if steps.min() < _SAME_PLACE_M:
        raise UserError(
            f"{name}: points {int(steps.argmin())} and the next coincide; resample to even spacing"
        )
    if steps.max() > MAX_STEP_M:
        raise UserError(
            f"{name}: the point after {int(steps.argmax())} is {steps.max():,.0f} m away, at most "
            f"{MAX_STEP_M:g} m; resample to {LINE_SPACING_M} m, and check the unit"
        )
    if steps.sum() > MAX_LENGTH_M:
        raise UserError(
            f"{name}: {steps.sum() / 1000:,.0f} km long, at most {MAX_LENGTH_M / 1000:g} km"
        )


def _check_ahead(centers: FloatArray, name: str) -> None:
    """Refuse a smoothed line that stands still somewhere: there it has no direction."""
    transitions = (centers[:-1] + centers[1:]) / 2
    still = np.linalg.norm(np.diff(transitions, axis=0), axis=1) < _SAME_PLACE_M
    if still.any():
        point = max(0, int(still.argmax()) + 1 - START_ZONE)
        raise UserError(
            f"{name}: goes back the way it came at point {point}; use a line that leads ahead"
        )


def _extend(points: FloatArray) -> FloatArray:
    first_step, last_step = points[1] - points[0], points[-1] - points[-2]
    before = points[0] - np.arange(START_ZONE, 0, -1)[:, None] * first_step
    after = points[-1] + np.arange(1, EXTENSION_ZONES + 1)[:, None] * last_step
    return np.vstack([before, points, after])


def _smooth(points: FloatArray) -> FloatArray:
    smoothed = points.copy()
    reach = SMOOTHING_REACH
    smoothed[reach:-reach] = (points[: -2 * reach] + points[2 * reach :]) / 2
    return smoothed
