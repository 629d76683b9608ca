"""The picture that a driver sees: a third-person view of the road, in gray.

The road is painted from far to near in pieces between two cross-sections, on a canvas of twice the
frame's size that is averaged down, so that edges move smoothly. Pieces and their bands lie fixed in
the world: what moves on the picture is the car's own motion. Only the stretch of road around the
car is drawn, so a road may pass over itself.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import ASPHALT, DIRT, TURBO
from rl.envs.jit import compiled
from rl.envs.sim.car import AIRBORNE, BRAKING, GROUND_Y, PITCH, STEER, VX, VZ, YAW, X, Y, Z
from rl.envs.sim.raster import (
    Section,
    Spans,
    View,
    fill_rectangle,
    fill_road,
    fill_strip,
    fill_wall,
    make_section,
    point_at,
    shrink,
)
from rl.envs.sim.road import PackedTracks

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

OVERSAMPLING: Final = 2  # canvas pixels per frame pixel, each way
FAR_ROWS: Final = 16  # a piece of road far away; the car's place counts in these too
BAND_ROWS: Final = 8  # a piece nearer than that, and the bands by which speed is seen


class CameraSpec(NamedTuple):
    """Where the camera is and what it shows. Metres, radians, gray levels 0..255."""

    behind: float = 6.5  # behind the car's centre
    above: float = 3.8  # above the ground under the car
    air_rise: float = 0.3  # share of a flying car's height by which the camera rises further
    half_fov_x: float = 1.05  # tangent of half the horizontal field of view
    half_fov_y: float = 0.5  # vertical: a wide picture squeezed into a square, as a game's is
    horizon: float = 0.28  # share of the height above the horizon on level ground
    pitch_share: float = 0.6  # of the car's pitch that the camera follows
    view_rows: int = 176  # road rows shown ahead
    middle_rows: int = 64  # within it a piece of road is BAND_ROWS long, beyond it FAR_ROWS
    near_rows: int = 40  # within it, and in the far, a piece in a tight turn is cut in two
    tight_turn: float = 0.97  # cosine of the turn over a piece
    line_width: float = 0.5
    line_pixels: float = 1.3  # of the canvas, that a line is wide however far it is
    wall_height: float = 0.8
    banner_above: float = 3.0  # bottom of the finish banner above the road
    banner_height: float = 0.9  # of each of its two rows
    sky: int = 200
    plain: int = 78
    grass: tuple[int, int] = (92, 66)  # alternating along the road
    asphalt: tuple[int, int] = (142, 126)
    edge_line: int = 250
    wall: tuple[int, int] = (20, 50)
    dirt: tuple[int, int] = (48, 40)
    grass_patch: tuple[int, int] = (92, 82)
    turbo: tuple[int, int] = (255, 196)
    car_body: int = 16
    car_roof: int = 225


CAMERA: Final = CameraSpec()


@compiled
def _make_view(state: F64, width: int, height: int) -> View:
    """The camera behind a car, for a canvas of width x height pixels."""
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    pitch = math.tan(min(max(CAMERA.pitch_share * state[PITCH], -0.5), 0.5))
    focal_y = 0.5 * height / CAMERA.half_fov_y
    flying = max(state[Y] - state[GROUND_Y], 0.0) * state[AIRBORNE]
    return View(
        state[X] - CAMERA.behind * sin_yaw,
        state[Y] + CAMERA.above + CAMERA.air_rise * flying - CAMERA.behind * pitch,
        state[Z] - CAMERA.behind * cos_yaw,
        sin_yaw,
        cos_yaw,
        0.5 * width / CAMERA.half_fov_x,
        focal_y,
        0.5 * width,
        CAMERA.horizon * height + focal_y * pitch,
        width,
    )


@compiled
def _section(view: View, center: F64, left: F64, row: int) -> Section:
    return make_section(
        view, center[row, 0], center[row, 1], center[row, 2], left[row, 0], left[row, 1]
    )


@compiled
def _patch_gray(kind: int, row: int, length: int) -> int:
    band = (row // BAND_ROWS) & 1
    if kind == TURBO:
        return CAMERA.turbo[(row >> 1) & 1 if length <= BAND_ROWS else band]
    if kind == DIRT:
        return CAMERA.dirt[band]
    return CAMERA.grass_patch[band]


@compiled
def _borders(view: View, edges: F64, walls: F64, row: int, depth: float) -> Spans:
    """Lateral metres of walls, edges and the lines' inner sides; a far line is a pixel wide."""
    pixel = depth / view.focal_x
    line = min(max(CAMERA.line_width, CAMERA.line_pixels * pixel), 0.4 * edges[row, 0])
    return (
        walls[row, 0],
        edges[row, 0],
        edges[row, 0] - line,
        line - edges[row, 1],
        -edges[row, 1],
        -walls[row, 1],
    )


@compiled
def _draw_patches(
    canvas: U8,
    view: View,
    center: F64,
    left: F64,
    edges: F64,
    walls: F64,
    kinds: U8,
    span: F64,
    first: int,
    a: int,
    b: int,
    start: Section,
    end: Section,
    start_spans: Spans,
    end_spans: Spans,
) -> None:
    """The patches on rows [a, b), inside the edge lines; a near turbo has stripes.

    The arrays are those of PackedTracks: it costs time to hand all of them on.

    Args:
        first: the road's first row, from which bands are counted.
        start, end: the sections at rows a and b, with their borders.
    """
    row, here, here_spans = a, start, start_spans
    while row < b:
        kind = kinds[row]
        limit = min(b, row + 2) if kind == TURBO and b - a <= BAND_ROWS else b
        stop = row + 1
        while stop < limit and kinds[stop] == kind:
            stop += 1
        there, there_spans = end, end_spans
        if stop < b:
            there = _section(view, center, left, stop)
            there_spans = _borders(view, edges, walls, stop, there.z)
        if kind != ASPHALT:
            last = stop if kinds[stop] == kind else stop - 1
            corners = (
                min(span[row, 1], here_spans[2]),
                max(span[row, 0], here_spans[3]),
                min(span[last, 1], there_spans[2]),
                max(span[last, 0], there_spans[3]),
            )
            gray = _patch_gray(kind, row - first, b - a)
            fill_strip(canvas, here, there, corners, view.horizon, gray)
        row, here, here_spans = stop, there, there_spans


@compiled
def _draw_finish(canvas: U8, view: View, tracks: PackedTracks, row: int) -> None:
    """A white bar on the road and a checkered banner over it."""
    center, across = tracks.road_center, tracks.road_left
    at, after = _section(view, center, across, row), _section(view, center, across, row + 2)
    left, right = tracks.road_edges[row, 0], tracks.road_edges[row, 1]
    bar = (left, -right, left, -right)
    fill_strip(canvas, at, after, bar, view.horizon, CAMERA.edge_line)
    rise = view.focal_y * CAMERA.banner_height
    pieces = 8
    for piece in range(pieces):
        d = left - (left + right) * piece / pieces
        px, py, pz = point_at(at, d)
        qx, qy, qz = point_at(at, d - (left + right) / pieces)
        if px * qz > qx * pz:  # seen from the other side
            px, py, pz, qx, qy, qz = qx, qy, qz, px, py, pz
        for level in range(2):
            lift = view.focal_y * (CAMERA.banner_above + CAMERA.banner_height * level)
            gray = CAMERA.edge_line if (piece + level) & 1 else CAMERA.car_body
            fill_wall(canvas, (px, py - lift, pz), (qx, qy - lift, qz), rise, gray)


@compiled
def _draw_piece(
    canvas: U8,
    view: View,
    start: Section,
    end: Section,
    start_spans: Spans,
    end_spans: Spans,
    band: int,
    detailed: bool,
) -> bool:
    """Ground, walls and road between two cross-sections; False if it is not seen."""
    if detailed:
        rise = view.focal_y * CAMERA.wall_height
        gray = CAMERA.wall[band]
        for right in range(2):  # a wall is seen from the right of the line from p to q
            p = point_at(start, start_spans[5 if right else 0])
            q = point_at(end, end_spans[5 if right else 0])
            if right:
                p, q = q, p
            fill_wall(canvas, p, q, rise, gray)
        grays = (CAMERA.grass[band], CAMERA.edge_line, CAMERA.asphalt[band])
    else:  # walls and bands that far away would only flicker
        grays = (CAMERA.plain, CAMERA.edge_line, (CAMERA.asphalt[0] + CAMERA.asphalt[1]) // 2)
    return fill_road(canvas, start, end, start_spans, end_spans, view.horizon, grays)


@compiled
def _is_split(left: F64, here: int, there: int, distance: int, length: int) -> bool:
    """True if a piece is cut in two because the road turns, or is what such a cut left over."""
    if distance % length > 0:
        return True
    if CAMERA.near_rows < distance <= CAMERA.middle_rows:
        return False
    turn = left[here, 0] * left[there, 0] + left[here, 1] * left[there, 1]
    return bool(turn < CAMERA.tight_turn)


@compiled
def _draw_side(
    canvas: U8, view: View, tracks: PackedTracks, track: int, row: int, reach: int, step: int
) -> None:
    """The road from `reach` rows away to the block of `row`, far to near.

    step: 1 for the road ahead, with the car's own block, -1 for the road behind.
    """
    first = tracks.road_offset[track]
    last = tracks.road_offset[track + 1] - 1
    finish = tracks.finish_row[track]
    center, left = tracks.road_center, tracks.road_left
    edges, walls, kinds = tracks.road_edges, tracks.road_walls, tracks.patch_kind
    span = tracks.patch_span
    base = row - row % FAR_ROWS
    distance = reach - reach % FAR_ROWS
    here = min(max(first + base + step * distance, first), last)
    outer = _section(view, center, left, here)
    outer_spans = _borders(view, edges, walls, here, outer.z)
    while distance > 0:
        length = FAR_ROWS if distance > CAMERA.middle_rows else BAND_ROWS
        there = min(max(first + base + step * (distance - length), first), last)
        if _is_split(left, here, there, distance, length):
            length //= 2
            there = min(max(first + base + step * (distance - length), first), last)
        detailed = distance <= CAMERA.middle_rows
        distance -= length
        if there == here:
            continue
        inner = _section(view, center, left, there)
        inner_spans = _borders(view, edges, walls, there, inner.z)
        low, high = min(here, there), max(here, there)
        band = ((low - first) // BAND_ROWS) & 1
        start, end, start_spans, end_spans = inner, outer, inner_spans, outer_spans
        if step < 0:
            start, end, start_spans, end_spans = outer, inner, outer_spans, inner_spans
        if _draw_piece(canvas, view, start, end, start_spans, end_spans, band, detailed):
            patched = 0
            for k in range(low, high):
                patched |= kinds[k]
            if patched:
                _draw_patches(
                    canvas,
                    view,
                    center,
                    left,
                    edges,
                    walls,
                    kinds,
                    span,
                    first,
                    low,
                    high,
                    start,
                    end,
                    start_spans,
                    end_spans,
                )
        if low <= finish < high:
            _draw_finish(canvas, view, tracks, finish)
        here, outer, outer_spans = there, inner, inner_spans


@compiled
def _draw_background(canvas: U8, view: View) -> None:
    height, width = canvas.shape
    fill_rectangle(canvas, 0.0, 0.0, width, view.horizon, CAMERA.sky)
    fill_rectangle(canvas, 0.0, view.horizon, width, height, CAMERA.plain)


@compiled
def _draw_car(canvas: U8, view: View, state: F64) -> None:
    """The car from behind: its nose points where it steers, its tail hangs out in a slide."""
    forward = state[VX] * view.sin_yaw + state[VZ] * view.cos_yaw
    lateral = state[VX] * view.cos_yaw - state[VZ] * view.sin_yaw
    slip = min(max(lateral / max(abs(forward), 8.0), -0.6), 0.6)
    px = view.focal_x / CAMERA.behind  # canvas pixels per metre at the car
    py = view.focal_y / CAMERA.behind
    ground = (view.y - state[GROUND_Y]) * py + view.horizon
    tyres = (view.y - state[Y]) * py + view.horizon
    roof = (1.2 * slip - 0.25 * state[STEER]) * px
    light = 255.0 if state[BRAKING] > 0.0 else 120.0
    body = float(CAMERA.car_body)
    # Metres from the middle to the left and the right, metres below and above, gray; from where.
    for left, right, low, high, gray, shift, base in (
        (-1.0, 1.0, -0.1, 0.15, 50.0, 0.0, ground),  # shadow
        (-1.0, -0.65, 0.0, 0.5, 0.0, 0.0, tyres),
        (0.65, 1.0, 0.0, 0.5, 0.0, 0.0, tyres),
        (-0.95, 0.95, 0.25, 0.75, body, 0.0, tyres),
        (-0.92, -0.52, 0.45, 0.65, light, 0.0, tyres),
        (0.52, 0.92, 0.45, 0.65, light, 0.0, tyres),
        (-0.6, 0.6, 0.7, 1.15, float(CAMERA.car_roof), roof, tyres),
        (-0.42, 0.42, 0.75, 1.0, body, roof, tyres),  # rear window
    ):
        x = view.center_x + shift
        fill_rectangle(
            canvas, x + left * px, base - high * py, x + right * px, base - low * py, int(gray)
        )


@compiled
def draw(canvas: U8, tracks: PackedTracks, track: int, road_index: int, state: F64) -> None:
    """Draws one car's view at the canvas' own resolution, without averaging.

    Args:
        canvas: (H, W) uint8, overwritten.
        road_index: row of the car within its own road.
        state: (S,) the car's state row.
    """
    height, width = canvas.shape
    view = _make_view(state, width, height)
    _draw_background(canvas, view)
    row = tracks.road_offset[track] + road_index
    left = tracks.road_left
    facing = view.cos_yaw * left[row, 0] - view.sin_yaw * left[row, 1]
    half = 0.5 * CAMERA.view_rows
    # The side that the camera looks at is painted last, over the other one.
    step = -1 if facing >= 0.0 else 1
    for _ in range(2):
        reach = half * (1.2 + 0.8 * facing * step)
        _draw_side(canvas, view, tracks, track, road_index, int(reach), step)
        step = -step
    _draw_car(canvas, view, state)


@compiled
def render_all(
    frames: U8, tracks: PackedTracks, track_of_car: I64, road_index: I64, state: F64
) -> None:
    """Renders every car's view; each frame depends on its own car alone.

    Args:
        frames: (B, H, W) uint8, overwritten.
        track_of_car, road_index: (B,) int64.
        state: (B, S) float64.
    """
    cars, height, width = frames.shape
    canvas = np.empty((OVERSAMPLING * height, OVERSAMPLING * width), np.uint8)
    for car in range(cars):
        draw(canvas, tracks, track_of_car[car], road_index[car], state[car])
        shrink(canvas, frames[car])


def render(frame: U8, tracks: PackedTracks, track: int, road_index: int, state: F64) -> None:
    """Renders one car's view into `frame` (H, W) uint8; see `draw` for the arguments."""
    one_track = np.array([track], dtype=np.int64)
    render_all(frame[None], tracks, one_track, np.array([road_index], dtype=np.int64), state[None])
