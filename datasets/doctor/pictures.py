"""Are frames and floats in step? Found from how the road in the picture turns with its waypoints.

A linear map from a thumbnail of the frame to the bearings of the waypoints ahead is fitted on
some replays, on changes over two frames, because levels change too slowly to tell one frame from
its neighbour. The displacement at which it predicts best is that of the frames.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.floats import N_WAYPOINTS, WAYPOINT_STRIDE_ZONES, WAYPOINTS
from datasets.contract.line import LINE_SPACING_M
from datasets.doctor.findings import Findings
from datasets.doctor.rows import ReplayRows

SHIFTS: Final = range(-10, 11)
"""Frames by which pictures and floats may be displaced."""
BEARINGS: Final = (2, 3, 4, 6)
"""Waypoints 20 to 60 m ahead, which a picture shows."""
MIN_FRAMES: Final = 400
MIN_MATCH: Final = 0.2
"""Mean correlation with the predicted bearings below which the lag is unknown."""
MIN_GAIN: Final = 0.08
"""By how much a displacement must match better than none."""
MIN_SIDE: Final = 16
"""Pixels; smaller pictures do not show how a road turns."""
DATASET_FRAMES: Final = 0.75
REPLAY_FRAMES: Final = 1.5
"""Displacements in frames that are reported, of the whole and of one replay."""
MIN_REPLAY_FRAMES: Final = 100
RIDGE: Final = 0.01
_WAYPOINT_M: Final = WAYPOINT_STRIDE_ZONES * LINE_SPACING_M
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PictureChanges:
    """Changes of pictures (n, F) and of bearings (n, T) of one replay."""

    pictures: Array
    bearings: Array

    def paired(self, shift: int) -> tuple[Array, Array]:
        """Pairs of the picture of frame k and the floats of frame k + shift."""
        margin = SHIFTS[-1]
        rows = np.arange(margin, len(self.pictures) - margin)
        return self.pictures[rows], self.bearings[rows + shift]


def changes_of(rows: ReplayRows) -> PictureChanges:
    """Return the changes over two frames of one replay."""
    points = rows.floats[:, WAYPOINTS].reshape(-1, N_WAYPOINTS, 3).astype(np.float64)
    bearings = np.stack([points[:, i, 0] / (_WAYPOINT_M * i) for i in BEARINGS], axis=1)
    bearings = np.clip(np.nan_to_num(bearings, posinf=0, neginf=0), -10, 10)
    pictures = rows.thumbnails.astype(np.float64)
    return PictureChanges(pictures[2:] - pictures[:-2], bearings[2:] - bearings[:-2])


class PictureCheck:
    """Fits on a sample of replays, then judges each one.

    Args:
        sample: some replays of the dataset.
        image_size: pixels (height, width).
        interval_ms: between frames, for the report.
    """

    def __init__(
        self, sample: list[ReplayRows], image_size: tuple[int, int], interval_ms: float
    ) -> None:
        self._interval_ms = interval_ms
        self._off: list[tuple[str, float]] = []
        self._judged = 0
        views = [changes_of(rows) for rows in sample]
        views = [view for view in views if len(view.pictures) > 6 * SHIFTS[-1]]
        self.shift: float | None = None
        if min(image_size) < MIN_SIDE or sum(len(v.pictures) for v in views) < MIN_FRAMES:
            return
        curve = np.array([_held_out_match(views, shift) for shift in SHIFTS])
        shift, gain = _peak(curve), float(curve.max() - curve[SHIFTS.index(0)])
        if curve.max() >= MIN_MATCH and (gain >= MIN_GAIN or abs(shift) <= DATASET_FRAMES):
            self.shift = shift
            self._map = _fit(views, round(shift))

    def add(self, rows: ReplayRows) -> None:
        """Judge one replay."""
        if self.shift is None or len(rows.times) < MIN_REPLAY_FRAMES:
            return
        view = changes_of(rows)
        curve = np.array([_match([view], self._map, shift) for shift in SHIFTS])
        if curve.max() < MIN_MATCH:
            return
        self._judged += 1
        shift = _peak(curve)
        if abs(shift) > REPLAY_FRAMES and abs(shift - self.shift) > REPLAY_FRAMES / 2:
            self._off.append((rows.name, shift))

    @property
    def is_displaced(self) -> bool:
        """Whether the dataset as a whole is out of step."""
        return self.shift is not None and abs(self.shift) > DATASET_FRAMES

    @property
    def replays_off(self) -> set[str]:
        """Names of the replays that alone are out of step."""
        return {name for name, _ in self._off}

    def report(self, findings: Findings) -> None:
        """State the displacement, and which replays differ from it."""
        check = "pictures and floats"
        if self.shift is None:
            findings.report(check, "ok", "not tried: too few frames, too small, or without a road")
        elif self.is_displaced:
            findings.report(check, "error", f"out of step: {self._text(self.shift)}", self._judged)
        elif self._off:
            name, shift = self._off[0]
            note = f"{len(self._off)} of {self._judged} replays out of step: first {name}, where "
            findings.report(check, "error", note + self._text(shift), len(self._off))
        else:
            ms = self.shift * self._interval_ms
            findings.report(check, "ok", f"in step: found {ms:+.0f} ms, within a frame")

    def _text(self, shift: float) -> str:
        side = "earlier" if shift < 0 else "later"
        return f"frames show what the floats say {abs(shift) * self._interval_ms:.0f} ms {side}"


def _fit(views: list[PictureChanges], shift: int) -> Array:
    """Ridge regression of bearings on pictures: (F, T)."""
    pairs = [view.paired(shift) for view in views]
    pictures, bearings = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    squares = pictures.T @ pictures
    ridge = RIDGE * max(float(np.trace(squares)) / len(squares), 1e-9) * np.eye(len(squares))
    return np.linalg.solve(squares + ridge, pictures.T @ bearings)


def _match(views: list[PictureChanges], mapping: Array, shift: int) -> float:
    """Mean correlation of predicted and stored changes of the bearings."""
    pairs = [view.paired(shift) for view in views]
    predicted = np.concatenate([pictures @ mapping for pictures, _ in pairs])
    bearings = np.concatenate([stored for _, stored in pairs])
    products = (predicted * bearings).sum(axis=0)
    norms = np.sqrt((predicted**2).sum(axis=0) * (bearings**2).sum(axis=0))
    return float(np.mean(products / np.maximum(norms, 1e-12)))


def _held_out_match(views: list[PictureChanges], shift: int) -> float:
    """Return the match on each half of the replays by the map fitted on the other half."""
    halves: tuple[list[PictureChanges], list[PictureChanges]] = ([], [])
    for view in views:
        middle = len(view.pictures) // 2
        halves[0].append(PictureChanges(view.pictures[:middle], view.bearings[:middle]))
        halves[1].append(PictureChanges(view.pictures[middle:], view.bearings[middle:]))
    return sum(_match(halves[i], _fit(halves[1 - i], shift), shift) for i in (0, 1)) / 2


def _peak(curve: Array) -> float:
    """Place of the maximum in frames, between frames by the parabola through its neighbours."""
    best = int(np.argmax(curve))
    shift = float(SHIFTS[best])
    if 0 < best < len(curve) - 1:
        low, high, next_ = curve[best - 1 : best + 2]
        bend = low - 2 * high + next_
        shift += float(0.5 * (low - next_) / bend) if bend < 0 else 0.0
    return shift
