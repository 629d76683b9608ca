"""A road around a given reference line, such as one recorded in the game."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.line import ReferenceLine
from rl.envs.sim.road import LEAD_IN_M, LEAD_OUT_M, ROAD_SPACING_M, Road, Track
from rl.envs.sim.roadworks import build_road, lay_edges
from rl.envs.sim.shape import curvature, left_vectors, resample, smooth

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_PATH_SIGMA_M: Final = 4.0  # recorded lines are rounded to 0.1 m
_PUSH_M: Final = 2.5  # a driven line cuts corners: the road's middle lies farther out
_PUSH_BEND: Final = 0.02  # 1/m at which the push is full
_MIN_POINTS: Final = 50
_STILL_M: Final = 1e-4  # per point; those of a road's path are half a metre apart
MAX_GRADE: Final = 1.2
MIN_RADIUS_M: Final = 6.0


def _extended(points: F64) -> F64:
    """With a straight, level stretch before the start and behind the finish."""

    def direction(step: F64) -> F64:
        flat = step * np.array([1.0, 0.0, 1.0])
        return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-9))

    reach = min(10, len(points) - 1)
    ahead, behind = direction(points[-1] - points[-1 - reach]), direction(points[reach] - points[0])
    before = points[0] - np.arange(LEAD_IN_M, 0.0, -1.0)[:, None] * behind
    after = points[-1] + np.arange(1.0, LEAD_OUT_M + 1.0)[:, None] * ahead
    return np.vstack([before, points, after])


def _middle(line: ReferenceLine, name: str) -> F64:
    """Return the road's middle (M, 3): the smoothed line, pushed outward in corners."""
    even = resample(_extended(line.points), ROAD_SPACING_M / 2, horizontal=True)
    even = smooth(even, 2.0 * _PATH_SIGMA_M)
    _check_advance(even, name)
    bend = smooth(curvature(even), 12.0)
    push = -_PUSH_M * np.clip(bend / _PUSH_BEND, -1.0, 1.0)
    even[:, [0, 2]] += left_vectors(even) * smooth(push, 20.0)[:, None]
    return resample(smooth(even, 4.0), ROAD_SPACING_M, horizontal=True)


def _check_advance(even: F64, name: str) -> None:
    """Refuse a path that, seen from above, stands still or turns on the spot."""
    if len(even) < _MIN_POINTS:
        raise UserError(
            f"{name}: covers less than {_MIN_POINTS * ROAD_SPACING_M / 2:.0f} m of ground with the "
            "stretches before its start and behind its finish; use a line that is not vertical"
        )
    forward = np.gradient(even[:, [0, 2]], axis=0)
    still = np.linalg.norm(forward, axis=1) < _STILL_M
    if still.any():
        x, z = even[int(still.argmax()), [0, 2]]
        raise UserError(
            f"{name}: stands still or turns back near x = {x:.0f} m, z = {z:.0f} m, seen from "
            "above; use a line that leads ahead"
        )


def _check(center: F64, name: str) -> None:
    steps = np.diff(center, axis=0)
    grade = np.abs(steps[:, 1]) / np.maximum(np.linalg.norm(steps[:, [0, 2]], axis=1), 1e-9)
    if not np.isfinite(grade).all() or grade.max() > MAX_GRADE:
        raise UserError(
            f"{name}: climbs {grade.max():.1f} metres per metre, the simulator's roads at most "
            f"{MAX_GRADE}; use a line without loops and walls"
        )
    radius = 1.0 / max(float(np.abs(curvature(center)).max()), 1e-9)
    if not radius >= MIN_RADIUS_M:  # also where it is not a number
        raise UserError(
            f"{name}: turns with a radius of {radius:.1f} m, no road is that tight (at least "
            f"{MIN_RADIUS_M} m); is the spacing 0.5 m and the unit metres?"
        )


def lateral_places(road: Road, points: F64) -> tuple[I64, F64]:
    """(N,) road row and (N,) lateral place of points (N, 3) that follow the road from its start."""
    return _progress(road.center, road.left, points)


def _progress(center: F64, left: F64, points: F64) -> tuple[I64, F64]:
    forward = np.stack([-left[:, 1], left[:, 0]], axis=1)
    rows, lateral = np.empty(len(points), np.int64), np.empty(len(points))
    row = 0
    for index, point in enumerate(points[:, [0, 2]]):
        while row < len(center) - 2 and (point - center[row + 1, [0, 2]]) @ forward[row + 1] >= 0:
            row += 1
        rows[index] = row
        lateral[index] = (point - center[row, [0, 2]]) @ left[row]
    return rows, lateral


def road_for_line(line: ReferenceLine, seed: int, name: str = "reference line") -> Road:
    """Build a road around a driven line; its width and surfaces come from `seed`.

    Raises:
        UserError: too steep or too tight for a road.
    """
    center = _middle(line, name)
    _check(center, name)
    rows, lateral = _progress(center, left_vectors(center), line.points)
    line_d = np.interp(np.arange(len(center)), rows, lateral)
    edges = lay_edges(center, np.random.default_rng([seed, 11]))
    return build_road(center, edges, line_d, int(rows[0]), int(rows[-1]), seed)


def check_line_on_road(track: Track, line: ReferenceLine, name: str) -> None:
    """Refuses a line that is not driven on the road of `track`.

    Raises:
        UserError: a point lies beyond the walls, or the finish is elsewhere.
    """
    road = track.road
    rows, lateral = lateral_places(road, line.points)
    walls = road.walls[rows]
    outside = (lateral > walls[:, 0]) | (lateral < -walls[:, 1])
    if outside.any():
        raise UserError(
            f"{name}: point {int(outside.argmax())} lies beyond the walls of track {track.name!r}; "
            "use a line driven on this track"
        )
    apart = float(np.linalg.norm(line.finish_point - track.line.finish_point))
    if apart > 25.0:
        raise UserError(
            f"{name}: ends {apart:.0f} m from the finish of track {track.name!r}; "
            "use a line that reaches it"
        )
