"""The road (what a car drives on) and the line (what zones and floats follow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.line import ReferenceLine

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

ROAD_SPACING_M = 1.0
LEAD_IN_M = 40.0  # road behind the start, for the camera and for a car that rolls back
LEAD_OUT_M = 180.0  # road behind the finish, so that the view does not end there


@dataclass(frozen=True)
class Road:
    """Cross-sections about every `ROAD_SPACING_M`, from before the start to after the finish.

    Lateral coordinates d are metres from the centre, positive to the LEFT.

    center: (M, 3) metres, y up.
    left: (M, 2) unit vector (x, z) that points to the left.
    edges: (M, 2) metres from the centre to the left and to the right edge, both > 0.
    walls: (M, 2) metres from the centre to the left and to the right wall, beyond the edges.
    patch_kind: (M,) surface of the patch on this section, 0 = none.
    patch_span: (M, 2) lateral interval [right-most d, left-most d] of that patch.
    """

    center: F64
    left: F64
    edges: F64
    walls: F64
    patch_kind: U8
    patch_span: F64

    @property
    def forward(self) -> F64:
        """(M, 2) unit vectors (x, z) along the road."""
        return np.stack([-self.left[:, 1], self.left[:, 0]], axis=1)


@dataclass(frozen=True)
class Track:
    """A road and a line driven on it. Races start at the line's first point."""

    name: str
    road: Road
    line: ReferenceLine


class PackedTracks(NamedTuple):
    """All tracks one after another, for compiled code.

    Track t owns road rows road_offset[t]:road_offset[t + 1] and line rows
    line_offset[t]:line_offset[t + 1].
    """

    road_center: F64
    road_left: F64
    road_edges: F64
    road_walls: F64
    patch_kind: U8
    patch_span: F64
    road_offset: I64
    line_centers: F64
    line_transitions: F64
    line_axes: F64
    line_segments: F64
    line_cumulative: F64
    line_radius: F64
    line_offset: I64
    finish_row: I64  # (T,) row of road_center at the line's finish


# Columns of the ground table, which holds the same numbers as the arrays above: compiled code that
# runs every tick takes one array instead of six (each one handed on costs reference counting).
CENTER_X: Final = 0
CENTER_Y: Final = 1
CENTER_Z: Final = 2
LEFT_X: Final = 3
LEFT_Z: Final = 4
LEFT_EDGE: Final = 5
RIGHT_EDGE: Final = 6
LEFT_WALL: Final = 7
RIGHT_WALL: Final = 8
PATCH: Final = 9
PATCH_LOW: Final = 10
PATCH_HIGH: Final = 11


def ground_table(tracks: PackedTracks) -> F64:
    """(R, 12) float64: every road row of all tracks, see the column constants."""
    parts = [
        tracks.road_center,
        tracks.road_left,
        tracks.road_edges,
        tracks.road_walls,
        tracks.patch_kind[:, None].astype(np.float64),
        tracks.patch_span,
    ]
    return np.ascontiguousarray(np.concatenate(parts, axis=1))


def _padded(values: F64, rows: int) -> F64:
    """`values` with its last row repeated up to `rows` rows."""
    missing = rows - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])


def _offsets(counts: Sequence[int]) -> I64:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _finish_row(track: Track) -> int:
    """Row of the track's own road at its finish, looked for where the road ends."""
    center = track.road.center
    first = max(len(center) - 2 * int(LEAD_OUT_M), 0)  # lines may pass their finish before
    apart = np.linalg.norm(center[first:] - track.line.finish_point, axis=1)
    return first + int(apart.argmin())


def pack_tracks(tracks: Sequence[Track]) -> PackedTracks:
    """Concatenates tracks into the flat arrays that compiled code reads."""
    roads = [track.road for track in tracks]
    lines = [track.line for track in tracks]
    rows = [len(line.zone_centers) for line in lines]

    def joined(arrays: Sequence[F64]) -> F64:
        return np.ascontiguousarray(np.concatenate(arrays), dtype=np.float64)

    def per_zone(arrays: Sequence[F64]) -> F64:
        return joined([_padded(a, n) for a, n in zip(arrays, rows, strict=True)])

    road_offset = _offsets([len(road.center) for road in roads])
    finish = np.array([_finish_row(track) for track in tracks], dtype=np.int64)
    return PackedTracks(
        road_center=joined([r.center for r in roads]),
        road_left=joined([r.left for r in roads]),
        road_edges=joined([r.edges for r in roads]),
        road_walls=joined([r.walls for r in roads]),
        patch_kind=np.concatenate([r.patch_kind for r in roads]).astype(np.uint8),
        patch_span=joined([r.patch_span for r in roads]),
        road_offset=road_offset,
        line_centers=joined([line.zone_centers for line in lines]),
        line_transitions=per_zone([line.zone_transitions for line in lines]),
        line_axes=per_zone([line.axes for line in lines]),
        line_segments=per_zone([line.segment_lengths for line in lines]),
        line_cumulative=per_zone([line.cumulative for line in lines]),
        line_radius=joined([line.checkpoint_radius for line in lines]),
        line_offset=_offsets(rows),
        finish_row=road_offset[:-1] + finish,
    )
