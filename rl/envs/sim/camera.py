"""The picture that a driver sees: a third-person view of the road, in gray.

The road is painted from far to near in blocks of `BLOCK_ROWS` cross-sections, on a canvas of twice
the frame's size that is averaged down, so that edges move smoothly. Blocks and their bands lie fixed
in the world: what the eye follows on them is the car's own motion. Only the stretch of road around
the car is drawn, so a road may pass over itself.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import ASPHALT, DIRT, TURBO
from rl.envs.sim.car import AIRBORNE, BRAKING, GROUND_Y, PITCH, STEER, VX, VZ, YAW, X, Y, Z
from rl.envs.sim.jit import compiled
from rl.envs.sim.raster import (
    Section,
    View,
    fill_rectangle,
    fill_row,
    fill_strip,
    fill_wall,
    is_visible,
    make_section,
    shrink,
)
from rl.envs.sim.road import LEAD_OUT_M, PackedTracks

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

OVERSAMPLING: Final = 2  # canvas pixels per frame pixel, each way
BLOCK_ROWS: Final = 8


class CameraSpec(NamedTuple):
    """Where the camera is and what it shows. Metres, radians, gray levels 0..255."""

    behind: float = 6.5  # behind the car's centre
    above: float = 3.4  # above the ground under the car
    air_rise: float = 0.8  # share of a flying car's height by which the camera rises further
    half_fov_x: float = 1.05  # tangent of half the horizontal field of view
    half_fov_y: float = 0.52  # vertical: a wide picture squeezed into a square, as a game's is
    horizon: float = 0.3  # share of the height above the horizon on level ground
    pitch_share: float = 0.6  # of the car's pitch that the camera follows
    view_rows: int = 176  # road rows shown ahead
    near_rows: int = 24  # within it a strip is 2 rows long
    middle_rows: int = 64  # within it a strip is 4 rows long, beyond it 8
    line_width: float = 0.5
    wall_height: float = 1.0
    sky: int = 200
    plain: int = 78
    grass: tuple[int, int] = (92, 66)  # alternating from block to block
    asphalt: tuple[int, int] = (142, 126)
    edge_line: int = 250
    wall: tuple[int, int] = (40, 168)
    dirt: tuple[int, int] = (48, 40)
    grass_patch: tuple[int, int] = (92, 82)
    turbo: tuple[int, int] = (255, 196)
    car_body: int = 20


CAMERA: Final = CameraSpec()
_FINISH_FROM_END: Final = int(LEAD_OUT_M)


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
        height,
    )


@compiled
def _section(view: View, tracks: PackedTracks, row: int) -> Section:
    center, left = tracks.road_center, tracks.road_left
    return make_section(
        view, center[row, 0], center[row, 1], center[row, 2], left[row, 0], left[row, 1]
    )


@compiled
def _draw_walls(
    canvas: U8, view: View, tracks: PackedTracks, a: int, b: int, start: Section, end: Section, gray: int
) -> None:
    walls = tracks.road_walls
    for side in range(2):
        da = walls[a, side] if side == 0 else -walls[a, side]
        db = walls[b, side] if side == 0 else -walls[b, side]
        at_a = (start.cx + da * start.lx, start.cy, start.cz + da * start.lz)
        at_b = (end.cx + db * end.lx, end.cy, end.cz + db * end.lz)
        if side == 0:
            fill_wall(canvas, view, at_a, at_b, CAMERA.wall_height, gray)
        else:
            fill_wall(canvas, view, at_b, at_a, CAMERA.wall_height, gray)


@compiled
def _draw_patches(
    canvas: U8, view: View, tracks: PackedTracks, a: int, b: int, band: int
) -> None:
    """The stretches of [a, b) that have a patch; a is the lower row whatever the view."""
    row = a
    while row < b:
        kind = tracks.patch_kind[row]
        stop = row + 1
        while stop < b and tracks.patch_kind[stop] == kind:
            stop += 1
        if kind != ASPHALT:
            if kind == TURBO:
                gray = CAMERA.turbo[(row >> 1) & 1 if b - a < BLOCK_ROWS else band]
            elif kind == DIRT:
                gray = CAMERA.dirt[band]
            else:
                gray = CAMERA.grass_patch[band]
            end_row = stop if tracks.patch_kind[stop] == kind else stop - 1
            span = tracks.patch_span
            fill_strip(
                canvas,
                view,
                _section(view, tracks, row),
                _section(view, tracks, stop),
                span[row, 1],
                span[row, 0],
                span[end_row, 1],
                span[end_row, 0],
                gray,
            )
        row = stop


@compiled
def _draw_asphalt(
    canvas: U8,
    view: View,
    tracks: PackedTracks,
    a: int,
    b: int,
    start: Section,
    end: Section,
    gray: int,
) -> None:
    """Road between its two edge lines; far lines are as wide as a canvas pixel."""
    edges = tracks.road_edges
    fill_strip(
        canvas, view, start, end, edges[a, 0], -edges[a, 1], edges[b, 0], -edges[b, 1], CAMERA.edge_line
    )
    line_a = max(CAMERA.line_width, start.cz / view.focal_x)
    line_b = max(CAMERA.line_width, end.cz / view.focal_x)
    fill_strip(
        canvas,
        view,
        start,
        end,
        edges[a, 0] - line_a,
        line_a - edges[a, 1],
        edges[b, 0] - line_b,
        line_b - edges[b, 1],
        gray,
    )


@compiled
def _draw_finish(canvas: U8, view: View, tracks: PackedTracks, row: int) -> None:
    """A checkered banner over the road and a white bar on it."""
    at = _section(view, tracks, row)
    left, right = tracks.road_edges[row, 0], tracks.road_edges[row, 1]
    pieces = 8
    for high in range(3):
        for piece in range(pieces):
            d0 = left - (left + right) * piece / pieces
            d1 = left - (left + right) * (piece + 1) / pieces
            y = at.cy + view.focal_y * (3.0 + 0.9 * high if high < 2 else 0.0)
            gray = 250 if (piece + high) & 1 else 10
            p = (at.cx + d0 * at.lx, y, at.cz + d0 * at.lz)
            q = (at.cx + d1 * at.lx, y, at.cz + d1 * at.lz)
            if high < 2:
                fill_wall(canvas, view, p, q, 0.9, gray)
                fill_wall(canvas, view, q, p, 0.9, gray)
    fill_strip(
        canvas, view, at, _section(view, tracks, row + 2), left, -right, left, -right, 250
    )


@compiled
def _draw_block(
    canvas: U8,
    view: View,
    tracks: PackedTracks,
    first: int,
    last: int,
    block: int,
    stride: int,
    ahead: bool,
) -> None:
    """One block of the road whose rows are first..last, strips ordered from far to near."""
    a = first + block * BLOCK_ROWS
    b = min(a + BLOCK_ROWS, last)
    if a >= b:
        return
    start, end = _section(view, tracks, a), _section(view, tracks, b)
    walls = tracks.road_walls
    if not is_visible(
        start, end, max(walls[a, 0], walls[b, 0]), max(walls[a, 1], walls[b, 1]), view
    ):
        return
    band = block & 1
    _draw_walls(canvas, view, tracks, a, b, start, end, CAMERA.wall[band])
    fill_strip(
        canvas,
        view,
        start,
        end,
        walls[a, 0],
        -walls[a, 1],
        walls[b, 0],
        -walls[b, 1],
        CAMERA.grass[band],
    )
    steps = (b - a + stride - 1) // stride
    for step in range(steps):
        i = a + stride * (steps - 1 - step if ahead else step)
        j = min(i + stride, b)
        here, there = _section(view, tracks, i), _section(view, tracks, j)
        _draw_asphalt(canvas, view, tracks, i, j, here, there, CAMERA.asphalt[band])
        _draw_patches(canvas, view, tracks, i, j, band)
    finish = last - _FINISH_FROM_END
    if a <= finish < b:
        _draw_finish(canvas, view, tracks, finish)


@compiled
def _draw_side(
    canvas: U8,
    view: View,
    tracks: PackedTracks,
    track: int,
    road_index: int,
    reach_rows: int,
    ahead: bool,
) -> None:
    """The road before (ahead) or behind the car's block, from far to near."""
    first = tracks.road_offset[track]
    last = tracks.road_offset[track + 1] - 1
    base = road_index // BLOCK_ROWS
    for k in range(reach_rows // BLOCK_ROWS, -1 if ahead else 0, -1):
        block = base + k if ahead else base - k
        if block < 0:
            continue
        distance = k * BLOCK_ROWS
        stride = 2 if distance < CAMERA.near_rows else 4
        if distance >= CAMERA.middle_rows:
            stride = BLOCK_ROWS
        _draw_block(canvas, view, tracks, first, last, block, stride, ahead)


@compiled
def _draw_background(canvas: U8, view: View) -> None:
    horizon = int(min(max(view.horizon, 0.0), float(view.height)) + 0.5)
    for row in range(view.height):
        fill_row(canvas, row, 0, view.width, CAMERA.sky if row < horizon else CAMERA.plain)


@compiled
def _draw_car(canvas: U8, view: View, state: F64) -> None:
    """The car from behind: its nose points where it steers, its tail hangs out in a slide."""
    forward = state[VX] * view.sin_yaw + state[VZ] * view.cos_yaw
    lateral = state[VX] * view.cos_yaw - state[VZ] * view.sin_yaw
    slip = min(max(lateral / max(abs(forward), 8.0), -0.6), 0.6)
    px = view.focal_x / CAMERA.behind  # canvas pixels per metre at the car
    py = view.focal_y / CAMERA.behind
    x0 = view.center_x
    y0 = view.horizon + (view.y - state[Y]) * py
    shade = view.horizon + (view.y - state[GROUND_Y]) * py
    fill_rectangle(canvas, x0 - 1.0 * px, shade - 0.15 * py, x0 + 1.0 * px, shade + 0.1 * py, 50)
    nose = -0.25 * state[STEER] * px
    lean = 1.2 * slip * px
    fill_rectangle(canvas, x0 - 1.0 * px, y0 - 0.5 * py, x0 - 0.65 * px, y0, 0)
    fill_rectangle(canvas, x0 + 0.65 * px, y0 - 0.5 * py, x0 + 1.0 * px, y0, 0)
    body = CAMERA.car_body
    fill_rectangle(canvas, x0 - 0.95 * px, y0 - 0.75 * py, x0 + 0.95 * px, y0 - 0.25 * py, body)
    light = 255 if state[BRAKING] > 0.0 else 120
    for side in (-1.0, 1.0):
        x = x0 + side * 0.72 * px
        fill_rectangle(canvas, x - 0.2 * px, y0 - 0.65 * py, x + 0.2 * px, y0 - 0.45 * py, light)
    x1 = x0 + nose + lean
    fill_rectangle(canvas, x1 - 0.6 * px, y0 - 1.15 * py, x1 + 0.6 * px, y0 - 0.75 * py, body)
    fill_rectangle(canvas, x1 - 0.45 * px, y0 - 1.05 * py, x1 + 0.45 * px, y0 - 0.8 * py, 170)


@compiled
def draw(canvas: U8, tracks: PackedTracks, track: int, road_index: int, state: F64) -> None:
    """Draws one car's view at the canvas' own resolution, without averaging.

    Args:
        canvas: (H, W) uint8, overwritten.
        road_index: row of the car within its own road.
        state: (S,) the car's state row.
    """
    view = _make_view(state, canvas.shape[1], canvas.shape[0])
    _draw_background(canvas, view)
    row = tracks.road_offset[track] + road_index
    left = tracks.road_left
    facing = view.cos_yaw * left[row, 0] - view.sin_yaw * left[row, 1]
    half = 0.5 * CAMERA.view_rows
    ahead_rows = int(half * 1.2 + half * 0.8 * facing)
    behind_rows = int(half * 1.2 - half * 0.8 * facing)
    # The side that the camera looks at is painted last, over the other.
    if facing >= 0.0:
        _draw_side(canvas, view, tracks, track, road_index, behind_rows, False)
        _draw_side(canvas, view, tracks, track, road_index, ahead_rows, True)
    else:
        _draw_side(canvas, view, tracks, track, road_index, ahead_rows, True)
        _draw_side(canvas, view, tracks, track, road_index, behind_rows, False)
    _draw_car(canvas, view, state)


@compiled
def render(frame: U8, tracks: PackedTracks, track: int, road_index: int, state: F64) -> None:
    """Renders one car's view into `frame` (H, W) uint8; see `draw` for the arguments."""
    height, width = frame.shape
    canvas = np.empty((OVERSAMPLING * height, OVERSAMPLING * width), np.uint8)
    draw(canvas, tracks, track, road_index, state)
    shrink(canvas, frame)


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
