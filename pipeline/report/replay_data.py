"""Driven runs and their road as compact data for the viewer of a page.

Maps are seen from above: x to the right, y down, in metres, so that a left turn looks like one.
Arrays are little-endian bytes in base64.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasets.contract.actions import ACTION_KEYS, ACTION_MS, ACTION_NAMES, KEY_NAMES, TICK_MS
from datasets.contract.surfaces import SURFACE_NAMES
from pipeline.driven_again import DrivenTick, drive_again
from pipeline.report.replays import Contender
from rl.envs.sim.car import ROAD_S, VX, VY, VZ, YAW, X, Z
from rl.envs.sim.road import Road, Track
from rl.reporting.sectors import sector_marks, sector_seconds

F64 = npt.NDArray[np.float64]

MOST_FRAMES: Final = 800
"""Frames of a run at most; a longer run has fewer per second."""
MOST_FRAME_PX: Final = 96
"""Side of a frame at most."""
SHEET_COLUMNS: Final = 24
GRID_M: Final = 1.0
"""Metres of road between two points of the curve of times."""
_GROUND: Final = [0, 2]


@dataclass(frozen=True, eq=False)
class RoadScale:
    """Metres along a road's middle from the start of the race to its finish.

    Attributes:
        along: (M,) metres at each row of the road, 0 at the start.
        finish_m: metres at the finish.
    """

    along: F64
    finish_m: float

    @classmethod
    def of(cls, track: Track) -> "RoadScale":
        """Return the scale of a track's road, with its line's start and finish."""
        center = track.road.center
        steps = np.linalg.norm(np.diff(center, axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        start = _place_on_road(track.road, along, track.line.points[0])
        finish = _place_on_road(track.road, along, track.line.finish_point)
        return cls(along - start, finish - start)

    def progress(self, state: F64) -> F64:
        """Return the metres (...,) of cars, the finish's at most; state is (..., STATE_SIZE)."""
        found = np.interp(state[..., ROAD_S], np.arange(len(self.along)), self.along)
        return np.asarray(np.minimum(found, self.finish_m))


@dataclass(frozen=True, eq=False)
class Replay:
    """A run that was driven again, at each tick of 10 ms, T of them with start and finish.

    Attributes:
        contender: which run.
        x, y: (T,) metres on the map.
        heading: (T,) radians, 0 to the right, growing clockwise.
        speed_mps: (T,).
        actions: (T,) uint8, each held from here on.
        progress_m: (T,) metres along the road, never falling; the finish's at the last tick.
        sectors_s: seconds for each sector.
        frames: (F, H, W) uint8 gray.
        frame_ms: race time between two frames; the last one is at the finish.
    """

    contender: Contender
    x: F64
    y: F64
    heading: F64
    speed_mps: F64
    actions: npt.NDArray[np.uint8]
    progress_m: F64
    sectors_s: tuple[float, ...]
    frames: npt.NDArray[np.uint8]
    frame_ms: int

    @property
    def time_ms(self) -> F64:
        """(T,) race time of each tick; the recorded one at the finish."""
        times = TICK_MS * np.arange(len(self.x), dtype=np.float64)
        times[-1] = self.contender.run.race_time_ms
        return times

    def time_at(self, meters: F64) -> F64:
        """Return the race time in ms at places along the road, NaN before the car's own start."""
        known = np.r_[True, np.diff(self.progress_m) > 0]
        found: F64 = np.interp(
            meters, self.progress_m[known], self.time_ms[known], left=np.nan, right=np.nan
        )
        return found


def drive_replay(contender: Contender, scale: RoadScale, *, has_frames: bool = True) -> Replay:
    """Drive a run again and keep what the viewer shows.

    Args:
        contender: to drive.
        scale: of its road.
        has_frames: whether what the driver saw is kept.

    Raises:
        UserError: see `drive_again`.
    """
    run = contender.run
    frame_ms = ACTION_MS * max(1, math.ceil(run.race_time_ms / ACTION_MS / MOST_FRAMES))
    height, width = (min(side, MOST_FRAME_PX) for side in contender.image_size)
    size = (height, width) if has_frames else None
    ticks = list(drive_again(contender.track, run, image_size=size, frame_ms=frame_ms))
    state = np.array([tick.state for tick in ticks])
    progress = np.maximum.accumulate(scale.progress(state))
    progress[-1] = scale.finish_m
    return Replay(
        contender=contender,
        x=on_map(state[:, [X, Z]])[:, 0],
        y=on_map(state[:, [X, Z]])[:, 1],
        heading=np.arctan2(-np.cos(state[:, YAW]), -np.sin(state[:, YAW])),
        speed_mps=np.linalg.norm(state[:, [VX, VY, VZ]], axis=1),
        actions=np.array([tick.action for tick in ticks], dtype=np.uint8),
        progress_m=progress,
        sectors_s=_sectors(contender, ticks),
        frames=np.array([tick.frame for tick in ticks if tick.frame is not None]),
        frame_ms=frame_ms,
    )


def _sectors(contender: Contender, ticks: Sequence[DrivenTick]) -> tuple[float, ...]:
    line = contender.track.line
    found = sector_seconds(
        np.array([tick.meters for tick in ticks]),
        np.array([tick.time_ms for tick in ticks]),
        start_m=float(line.cumulative[line.finish_zone]) - line.length_m,
        length_m=line.length_m,
        finish_ms=contender.run.race_time_ms,
    )
    return tuple(found)


def _place_on_road(road: Road, along: F64, point: F64) -> float:
    """Return the metres along a road at which a point lies, by the nearest row and its direction.

    Args:
        road: whose rows.
        along: (M,) metres at each row.
        point: (3,) metres.
    """
    row = int(np.linalg.norm(road.center - point, axis=1).argmin())
    ahead = road.forward[row]
    return float(along[row] + (point - road.center[row])[_GROUND] @ ahead)


# -- as JSON ------------------------------------------------------------------------------------


def road_json(track: Track, scale: RoadScale) -> dict[str, Any]:
    """Return what the viewer draws of a track: edges, walls, patches, start, finish, sectors."""
    road = track.road
    line = track.line
    finish_m = float(line.cumulative[line.finish_zone])
    marks = sector_marks(finish_m - line.length_m, line.length_m)
    places = np.stack(
        [np.interp(marks, line.cumulative, line.zone_transitions[:, axis]) for axis in range(3)],
        axis=1,
    )
    at = [0.0, *(_place_on_road(road, scale.along, place) for place in places), scale.finish_m]
    return {
        "name": track.name,
        "length": scale.finish_m,
        "along": _floats(scale.along),
        "edges": [_floats(road_side(road, road.edges[:, i], 1 - 2 * i)) for i in (0, 1)],
        "walls": [_floats(road_side(road, road.walls[:, i], 1 - 2 * i)) for i in (0, 1)],
        "patches": _patches(road),
        "sectors": [round(float(place), 3) for place in at],
    }


def road_side(road: Road, distance: F64, sign: int) -> F64:
    """(M, 2) places on the map at distances (M,) m from the middle; sign 1 is the left side."""
    return on_map(road.center[:, _GROUND] + sign * distance[:, None] * road.left)


def on_map(ground: F64) -> F64:
    """Return places (..., 2) x, z of the simulator as x, y on the map, where its left is left."""
    return -ground


def _patches(road: Road) -> list[dict[str, Any]]:
    """Return the outline of each patch of another surface."""
    patches = []
    kinds = road.patch_kind.astype(np.int64)
    edges = np.flatnonzero(np.diff(kinds, prepend=0, append=0))
    for first, end in pairwise(edges):
        if kinds[first] == 0:
            continue
        rows = slice(first, end)
        low, high = (
            on_map(
                road.center[rows][:, _GROUND] + road.patch_span[rows, i : i + 1] * road.left[rows]
            )
            for i in (0, 1)
        )
        outline = np.vstack([low, high[::-1]])
        patches.append({"kind": SURFACE_NAMES[kinds[first]], "outline": _floats(outline)})
    return patches


def replay_json(replay: Replay, scale: RoadScale) -> dict[str, Any]:
    """Return a run as the viewer reads it; the arrays are in base64."""
    run = replay.contender.run
    grid = np.arange(0.0, scale.finish_m, GRID_M)
    grid = np.append(grid, scale.finish_m)
    return {
        "name": replay.contender.name,
        "origin": replay.contender.origin,
        "race_time_ms": run.race_time_ms,
        "ticks": len(replay.x),
        "x": _floats(replay.x),
        "y": _floats(replay.y),
        "heading": _floats(replay.heading),
        "speed": _floats(replay.speed_mps),
        "actions": _base64(replay.actions.tobytes()),
        "progress": _floats(replay.progress_m),
        "times": _floats(replay.time_at(grid)),
        "sectors": [round(seconds, 4) for seconds in replay.sectors_s],
        "sheet": _sheet(replay.frames),
        "frame_ms": replay.frame_ms,
    }


def viewer_json(track: Track, scale: RoadScale, replays: Sequence[Replay]) -> dict[str, Any]:
    """Return everything that the viewer shows."""
    return {
        "tick_ms": TICK_MS,
        "grid_m": GRID_M,
        "keys": list(KEY_NAMES),
        "actions": [
            {"name": name, "keys": keys.tolist()}
            for name, keys in zip(ACTION_NAMES, ACTION_KEYS, strict=True)
        ],
        "track": road_json(track, scale),
        "runs": [replay_json(replay, scale) for replay in replays],
    }


def _sheet(frames: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Return all frames of a run as one gray PNG, `SHEET_COLUMNS` beside each other."""
    count, height, width = frames.shape
    rows = -(-count // SHEET_COLUMNS)
    canvas = np.zeros((rows * SHEET_COLUMNS, height, width), np.uint8)
    canvas[:count] = frames
    canvas = canvas.reshape(rows, SHEET_COLUMNS, height, width).transpose(0, 2, 1, 3)
    picture = io.BytesIO()
    sheet = Image.fromarray(canvas.reshape(rows * height, SHEET_COLUMNS * width))
    sheet.save(picture, format="PNG")
    return {
        "count": count,
        "columns": SHEET_COLUMNS,
        "width": width,
        "height": height,
        "png": _base64(picture.getvalue()),
    }


def _floats(array: npt.NDArray[np.floating]) -> str:
    return _base64(np.ascontiguousarray(array, dtype="<f4").tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
