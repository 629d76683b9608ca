"""The picture that a driver sees: a third-person view of the road, in gray.

The road is painted from far to near in pieces between two cross-sections, on a canvas of twice the
frame's resolution that is averaged down, so that edges move smoothly; near the car the rows are as
in the frame, for speed. Pieces and their bands lie fixed in
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
from rl.envs.sim.projection import Borders, Section, View, make_section, point_at
from rl.envs.sim.raster import MIN_COLUMNS, fill_rectangle, fill_road, fill_wall, shrink
from rl.envs.sim.road import PackedTracks

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

OVERSAMPLING: Final = 2  # canvas pixels per frame pixel, each way
FAR_ROWS: Final = 16  # a piece of road far away; the car's place counts in these too
LONG_ROWS: Final = 32  # one so far away that it is hardly a pixel high
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
    own_rows: int = 4  # behind the car that are seen looking along the road
    along: float = 0.9  # cosine of the turn from the road up to which no more is seen behind
    middle_rows: int = 64  # within it a piece of road is BAND_ROWS long, beyond it FAR_ROWS
    far_rows: int = 112  # beyond it a piece may be LONG_ROWS long
    near_rows: int = 40  # within it, and in the far, a piece in a tight turn is cut in two
    dense_rows: float = 0.125  # share of the height below the horizon that has twice the rows
    tight_turn: float = 0.97  # cosine of the turn over a piece
    line_width: float = 0.5
    line_pixels: float = 1.3  # of the canvas, that a line is wide however far it is
    wall_range: float = 42.0  # a piece of wall that begins nearer is shown
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
_NO_PATCH: Final = (0.0, 0.0, 0.0, 0.0)


@compiled
def _make_view(state: F64, width: int, height: int) -> View:
    """Build the camera behind a car, for a canvas of width x height pixels."""
    sin_yaw, cos_yaw = math.sin(state[YAW]), math.cos(state[YAW])
    pitch = math.tan(min(max(CAMERA.pitch_share * state[PITCH], -0.5), 0.5))
    focal_x, focal_y = 0.5 * width / CAMERA.half_fov_x, 0.5 * height / CAMERA.half_fov_y
    flying = max(state[Y] - state[GROUND_Y], 0.0) * state[AIRBORNE]
    return View(
        state[X] - CAMERA.behind * sin_yaw,
        state[Y] + CAMERA.above + CAMERA.air_rise * flying - CAMERA.behind * pitch,
        state[Z] - CAMERA.behind * cos_yaw,
        sin_yaw,
        cos_yaw,
        focal_x,
        focal_y,
        0.5 * width,
        CAMERA.horizon * height + focal_y * pitch,
        width,
        height,
        2 * int(0.5 * height * (CAMERA.horizon + CAMERA.dense_rows)),
        CAMERA.line_width,
        CAMERA.line_pixels / focal_x,
    )


@compiled
def _bare_section(
    view: View, center: F64, left: F64, row: int, step: int, borders: Borders
) -> Section:
    """Return the cross-section at a row, seen along `step`: -1 is against the road's direction."""
    at, x, y, z = np.uint64(row), np.uint64(0), np.uint64(1), np.uint64(2)
    left_x, left_z = step * left[at, x], step * left[at, y]
    return make_section(view, center[at, x], center[at, y], center[at, z], left_x, left_z, borders)


@compiled
def _section(view: View, tracks: PackedTracks, row: int, step: int) -> Section:
    """Return the cross-section at a row with the road's own borders."""
    edges, walls = tracks.road_edges, tracks.road_walls
    at, a, b = np.uint64(row), np.uint64(0 if step > 0 else 1), np.uint64(1 if step > 0 else 0)
    borders = (walls[at, a], edges[at, a], -edges[at, b], -walls[at, b])
    return _bare_section(view, tracks.road_center, tracks.road_left, row, step, borders)


@compiled
def _patch_gray(kind: int, row: int, detailed: bool) -> int:
    band = (row // BAND_ROWS) & 1
    if kind == TURBO:
        return CAMERA.turbo[(row >> 1) & 1 if detailed else band]
    if kind == DIRT:
        return CAMERA.dirt[band]
    return CAMERA.grass_patch[band]


@compiled
def _patch_end(kinds: U8, first: int, here: int, there: int, step: int, striped: int) -> int:
    """Return the first row from `here` to `there` where the kind of patch changes.

    striped: a kind that is cut at every other row too, counted from `first`.
    """
    back = 1 if step > 0 else 0  # a piece's kind is that of its lower row
    kind = kinds[here - back]
    row = here - step
    while row != there and kinds[row - back] == kind and (kind != striped or (row - first) & 1):
        row -= step
    return row


@compiled
def _patch_border(
    kinds: U8, span: F64, row: int, kind: int, step: int, section: Section
) -> tuple[float, float]:
    """Lateral metres of a patch's left and right border at a section, inside the edge lines."""
    at = row if kinds[row] == kind else row - 1
    low, high = span[at, 0], span[at, 1]
    if step < 0:
        low, high = -high, -low
    return min(high, section.spans[2]), max(low, section.spans[3])


@compiled
def _draw_finish(canvas: U8, view: View, tracks: PackedTracks, row: int, step: int) -> None:
    """Draw the finish: a white bar on the road and a checkered banner over it."""
    center, across = tracks.road_center, tracks.road_left
    left, right = tracks.road_edges[row, 0], tracks.road_edges[row, 1]
    borders = (left, left, -right, -right) if step > 0 else (right, right, -left, -left)
    at = _bare_section(view, center, across, row, step, borders)
    after = _bare_section(view, center, across, row + 2, step, borders)
    near, far = (at, after) if step > 0 else (after, at)
    white = CAMERA.edge_line
    fill_road(canvas, view, near, far, _NO_PATCH, (white, white, white, white))
    rise = view.focal_y * CAMERA.banner_height
    pieces = 8
    for piece in range(pieces):
        d = borders[0] - (left + right) * piece / pieces
        px, py, pz = point_at(at, d)
        qx, qy, qz = point_at(at, d - (left + right) / pieces)
        if px * qz > qx * pz:  # seen from the other side
            px, py, pz, qx, qy, qz = qx, qy, qz, px, py, pz
        for level in range(2):
            lift = view.focal_y * (CAMERA.banner_above + CAMERA.banner_height * level)
            gray = CAMERA.edge_line if (piece + level) & 1 else CAMERA.car_body
            fill_wall(canvas, view, (px, py - lift, pz), (qx, qy - lift, qz), rise, gray)


@compiled
def _draw_piece(
    canvas: U8,
    view: View,
    near: Section,
    far: Section,
    patch: Borders,
    patch_gray: int,
    band: int,
    detailed: bool,
) -> None:
    """Ground, walls and road between two cross-sections."""
    if detailed and near.z < CAMERA.wall_range:
        rise = view.focal_y * CAMERA.wall_height
        gray = CAMERA.wall[band]
        for right in range(2):  # a wall is seen from the right of the line from p to q
            p = point_at(near, near.spans[5 if right else 0])
            q = point_at(far, far.spans[5 if right else 0])
            if right:
                p, q = q, p
            fill_wall(canvas, view, p, q, rise, gray)
    if detailed:
        grays = (CAMERA.grass[band], CAMERA.edge_line, CAMERA.asphalt[band], patch_gray)
    else:  # bands that far away would only flicker
        middle = (CAMERA.asphalt[0] + CAMERA.asphalt[1]) // 2
        grays = (CAMERA.plain, CAMERA.edge_line, middle, patch_gray)
    fill_road(canvas, view, near, far, patch, grays)


@compiled
def _draw_block(
    canvas: U8,
    view: View,
    tracks: PackedTracks,
    first: int,
    here: int,
    there: int,
    step: int,
    outer: Section,
    detailed: bool,
) -> Section:
    """Draw the road from `here` to `there`, cut at patches, and return the last section.

    Args:
        first: the road's first row, from which bands are counted.
        outer: the section at `here`.
    """
    kinds, span = tracks.patch_kind, tracks.patch_span
    band = ((min(here, there) - first) // BAND_ROWS) & 1
    striped = TURBO if detailed else -1
    while here != there:
        stop = _patch_end(kinds, first, here, there, step, striped)
        inner = _section(view, tracks, stop, step)
        kind, patch, gray = kinds[min(here, stop)], _NO_PATCH, 0
        if kind != ASPHALT:
            near = _patch_border(kinds, span, stop, kind, step, inner)
            far = _patch_border(kinds, span, here, kind, step, outer)
            patch = (near[0], near[1], far[0], far[1])
            gray = _patch_gray(kind, min(here, stop) - first, detailed)
        if max(inner.farthest, outer.farthest) > 0.0:
            _draw_piece(canvas, view, inner, outer, patch, gray, band, detailed)
        here, outer = stop, inner
    return outer


@compiled
def _own_block(row: int) -> int:
    """First row of the block of road at a car, with what a driver sees beside and behind it."""
    return row - CAMERA.own_rows - (row - CAMERA.own_rows) % FAR_ROWS


@compiled
def _piece_length(row: int, distance: int) -> int:
    """Rows of the piece of road that begins at `row`, `distance` rows away."""
    if distance > CAMERA.far_rows and row % LONG_ROWS == 0:  # pieces lie fixed in the world
        return LONG_ROWS
    return FAR_ROWS if distance > CAMERA.middle_rows else BAND_ROWS


@compiled
def _is_split(left: F64, here: int, there: int, distance: int, length: int) -> bool:
    """Return whether a piece is cut in two where the road turns, or is a half of such a cut."""
    if length < LONG_ROWS and distance % length > 0:
        return True
    if CAMERA.near_rows < distance <= CAMERA.middle_rows:
        return False
    turn = left[here, 0] * left[there, 0] + left[here, 1] * left[there, 1]
    return bool(turn < CAMERA.tight_turn)


@compiled
def _draw_side(
    canvas: U8, view: View, tracks: PackedTracks, track: int, row: int, reach: int, step: int
) -> None:
    """Draw the road from `reach` rows away to the block of `row`, far to near.

    step: 1 for the road ahead, with the car's own block, -1 for the road behind.
    """
    first = tracks.road_offset[track]
    last = tracks.road_offset[track + 1] - 1
    finish = tracks.finish_row[track]
    left = tracks.road_left
    base = _own_block(row)
    distance = reach - reach % FAR_ROWS
    here = min(max(first + base + step * distance, first), last)
    outer = _section(view, tracks, here, step)
    while distance > 0:
        length = _piece_length(base + step * distance, distance)
        there = min(max(first + base + step * (distance - length), first), last)
        if _is_split(left, here, there, distance, length):
            length //= 2
            there = min(max(first + base + step * (distance - length), first), last)
        detailed = distance <= CAMERA.middle_rows
        distance -= length
        if there == here:
            continue
        outer = _draw_block(canvas, view, tracks, first, here, there, step, outer, detailed)
        if min(here, there) <= finish < max(here, there):
            _draw_finish(canvas, view, tracks, finish, step)
        here = there


@compiled
def _draw_background(canvas: U8, view: View) -> None:
    width, height = float(view.width), float(view.height)
    fill_rectangle(canvas, view, 0.0, 0.0, width, view.horizon, CAMERA.sky)
    fill_rectangle(canvas, view, 0.0, view.horizon, width, height, CAMERA.plain)


@compiled
def _draw_car(canvas: U8, view: View, state: F64) -> None:
    """Draw the car from behind: its nose points where it steers, its tail swings in a slide."""
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
        top, bottom = base - high * py, base - low * py
        fill_rectangle(canvas, view, x + left * px, top, x + right * px, bottom, int(gray))


@compiled
def _draw(
    canvas: U8, view: View, tracks: PackedTracks, track: int, road_index: int, state: F64
) -> None:
    """Draw one car's view at the canvas' own resolution, without averaging.

    Args:
        canvas: uint8, a row for each of the view's, at least as wide; overwritten.
        road_index: row of the car within its own road.
        state: (S,) the car's state row.
    """
    _draw_background(canvas, view)
    row = tracks.road_offset[track] + road_index
    left = tracks.road_left
    facing = view.cos_yaw * left[row, 0] - view.sin_yaw * left[row, 1]
    half = 0.5 * CAMERA.view_rows
    # The side that the camera looks at is painted last, over the other one.
    step = -1 if facing >= 0.0 else 1
    for _ in range(2):
        if step > 0 or facing < CAMERA.along:
            reach = max(half * (1.0 + facing * step), float(LONG_ROWS))
            _draw_side(canvas, view, tracks, track, road_index, int(reach), step)
        step = -step
    _draw_car(canvas, view, state)


@compiled
def render_all(
    frames: U8, tracks: PackedTracks, track_of_car: I64, road_index: I64, state: F64
) -> None:
    """Render every car's view; each frame depends on its own car alone.

    Args:
        frames: (B, H, W) uint8, overwritten.
        track_of_car, road_index: (B,) int64.
        state: (B, S) float64.
    """
    cars, height, width = frames.shape
    columns = max(OVERSAMPLING * width, MIN_COLUMNS)
    canvas = np.empty((OVERSAMPLING * height, columns), np.uint8)
    for car in range(cars):
        view = _make_view(state[car], OVERSAMPLING * width, OVERSAMPLING * height)
        _draw(canvas, view, tracks, track_of_car[car], road_index[car], state[car])
        shrink(canvas, view.split, frames[car])


def render(frame: U8, tracks: PackedTracks, track: int, road_index: int, state: F64) -> None:
    """Render one car's view into `frame` (H, W) uint8; see `render_all` for the arguments."""
    one_track = np.array([track], dtype=np.int64)
    render_all(frame[None], tracks, one_track, np.array([road_index], dtype=np.int64), state[None])
