"""`data line`: a reference line of what the best run of a training drove.

The line follows the car. Its two ends are straightened onto those of the line that the run had
followed, so that races start at the same place and end at the same plane, and times with the one
line can be compared with times with the other.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path
from datasets.contract.line import ReferenceLine
from pipeline.driven_again import drive_again
from pipeline.kept_runs import kept_run_folder, track_of_kept_run
from rl.envs.sim.car import X, Z
from rl.envs.sim.line_road import check_line_on_road
from rl.envs.sim.road import Track
from rl.envs.sim.shape import resample
from rl.evaluation.best_runs import load_run
from rl.evaluation.greedy import DrivenRun

F64 = npt.NDArray[np.float64]

SPACING_M: Final = (0.1, 2.0)
AIM_POINTS: Final = 10
"""Points at each end whose direction is that of the start and of the finish plane."""
FADE_M: Final = 15.0
"""Metres over which the line goes from a straight end to where the car drove."""
_GROUND: Final = [0, 2]
"""Columns of x and z in a point."""


@dataclass(frozen=True)
class DrivenLine:
    """A line that was written.

    Attributes:
        map_name: short name of the map.
        race_time_ms: of the run that drove it.
        points: (N, 3) metres, y up.
    """

    map_name: str
    race_time_ms: int
    points: F64


def write_line(
    source: Path, out: Path, *, map_name: str | None = None, spacing_m: float = 0.5
) -> DrivenLine:
    """Drive a saved run again and save its path as a reference line.

    Args:
        source: a run's folder, whose best run is taken; or the folder or the `.inputs` of one run
            that it kept.
        out: the `.npy` to write.
        map_name: short name of the map; needed if the run has best runs on several.
        spacing_m: between points, along the line.

    Raises:
        UserError: no such run, no run to drive, several maps, or a file that cannot be written.
    """
    if out.suffix != ".npy":
        raise UserError(f"--out {out}: a reference line is a .npy file, such as output/lines/A.npy")
    low, high = SPACING_M
    if not low <= spacing_m <= high:
        raise UserError(f"--spacing {spacing_m:g}: expected {low:g} to {high:g} metres")
    folder = kept_run_folder(source, map_name)
    run = load_run(folder)
    track = track_of_kept_run(folder, run)
    points = line_of(track, run, spacing_m)
    line = ReferenceLine.from_points(points, str(out))
    check_line_on_road(track, line, str(out))
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.save(file, points)
    return DrivenLine(run.track, run.race_time_ms, points)


def line_of(track: Track, run: DrivenRun, spacing_m: float) -> F64:
    """(N, 3) points that a run drove, evenly spaced, with the ends of the track's own line.

    Args:
        track: that the run was driven on, with the line that it followed.
        run: to drive again.
        spacing_m: metres between points, nearly: both ends stay where they are.

    Raises:
        UserError: the inputs do not finish in the recorded time.
    """
    path = _forward_path(track, run)
    straight_m = AIM_POINTS * spacing_m
    path = _straight_start(path, track.line, straight_m)
    path = _straight_finish(path, track.line, straight_m, spacing_m)
    return resample(path, spacing_m)


def _forward_path(track: Track, run: DrivenRun) -> F64:
    """Return the (T, 3) positions of the car at the ticks that brought new progress."""
    places: list[F64] = []
    farthest_m = -math.inf
    for tick in drive_again(track, run):
        if tick.meters > farthest_m:
            places.append(tick.state[X : Z + 1])
            farthest_m = tick.meters
    return np.array(places)


def _straight_start(path: F64, line: ReferenceLine, straight_m: float) -> F64:
    """Return the path from the line's first point on; it starts in the line's direction."""
    origin = line.points[0]
    ahead = _direction(line.points[0], line.points[min(AIM_POINTS, len(line.points) - 1)])
    along = (path - origin)[:, _GROUND] @ ahead
    first = int(np.flatnonzero(along > 0.0)[0])  # a start may be varied to before the line's
    path, along = path[first:].copy(), along[first:]
    target = origin[_GROUND] + along[:, None] * ahead
    _fade(path, target, _distances(path), straight_m)
    return np.vstack([origin, path])


def _straight_finish(path: F64, line: ReferenceLine, straight_m: float, spacing_m: float) -> F64:
    """Extend the path to half a spacing beyond the finish plane, at a right angle to it."""
    aim = min(AIM_POINTS, len(line.points) - 1)
    ahead = _direction(line.points[-1 - aim], line.points[-1])
    beyond = (path - line.finish_point)[:, _GROUND] @ ahead
    share = beyond[-2] / (beyond[-2] - beyond[-1])
    crossing = path[-2] + share * (path[-1] - path[-2])
    path = np.vstack([path[:-1], crossing])
    along = (path - crossing)[:, _GROUND] @ ahead
    left_m = _distances(path[::-1])[::-1]
    _fade(path, crossing[_GROUND] + along[:, None] * ahead, left_m, straight_m)
    end = crossing.copy()
    end[_GROUND] += ahead * spacing_m / 2.0  # the finish lies in the middle of the last segment
    return np.vstack([path, end])


def _fade(path: F64, target: F64, distance_m: F64, straight_m: float) -> None:
    """Move points to `target` (T, 2) where their distance is small, less and less beyond it."""
    u = np.clip((distance_m - straight_m) / FADE_M, 0.0, 1.0)
    share = (1.0 - u * u * (3.0 - 2.0 * u))[:, None]
    path[:, _GROUND] += share * (target - path[:, _GROUND])


def _direction(start: F64, end: F64) -> F64:
    """(2,) unit vector x, z from one point to another."""
    step = (end - start)[_GROUND]
    return np.asarray(step / math.hypot(*step))


def _distances(path: F64) -> F64:
    """(T,) metres along the path from its first point."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])
