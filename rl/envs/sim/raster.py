"""Filling road strips and walls on a gray canvas: compiled, scalar, without near-plane clipping.

Points are homogeneous canvas coordinates (x, y, z): z is metres in front of the camera, x / z the
column and y / z the row. A strip of road is convex, and each of its four sides spans a plane with
the camera: a pixel belongs to the strip if it lies on the inner side of all four. On one row each
plane is a bound for the column, linear in the row, so a row costs a few multiplications and a fill.
That holds for corners behind the camera too, hence no strip has to be clipped or subdivided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rl.envs.jit import compiled

U8 = npt.NDArray[np.uint8]
Bound = tuple[float, float, float]  # column = offset + slope * row; side: the plane's sign
Point = tuple[float, float, float]
Spans = tuple[float, float, float, float, float, float]

_IN_FRONT_M = 0.05  # a corner nearer than this has no usable projection
_TINY = 1e-9  # keeps a horizontal side's bound finite: it lies far outside the picture


class View(NamedTuple):
    """A camera in the world and its canvas. Units: metres, canvas pixels."""

    x: float
    y: float
    z: float
    sin_yaw: float
    cos_yaw: float
    focal_x: float
    focal_y: float
    center_x: float
    horizon: float  # row of the infinitely far ground; pitch moves it, planes stay vertical
    width: int


class Section(NamedTuple):
    """A cross-section on the canvas: a point (x, y, z) and what a metre to the left adds to it."""

    x: float
    y: float
    z: float
    left_x: float
    left_y: float
    left_z: float
    offset: float  # the bound of the section's own line
    slope: float
    side: float
    top: float  # rows between which that line crosses the picture from border to border
    bottom: float
    beyond: float  # > 0 if what lies beyond the section is below the line


@compiled
def make_section(view: View, x: float, y: float, z: float, left_x: float, left_z: float) -> Section:
    """The cross-section through world point (x, y, z) with the unit vector (left_x, left_z)."""
    dx, dz = x - view.x, z - view.z
    depth = dx * view.sin_yaw + dz * view.cos_yaw
    px = view.center_x * depth - view.focal_x * (dx * view.cos_yaw - dz * view.sin_yaw)
    py = view.horizon * depth - view.focal_y * (y - view.y)
    turn = left_x * view.sin_yaw + left_z * view.cos_yaw
    lx = view.center_x * turn - view.focal_x * (left_x * view.cos_yaw - left_z * view.sin_yaw)
    ly = view.horizon * turn
    offset, slope, side = _bound(px, py, depth, lx, ly, turn)
    inverse = 1.0 / (slope if abs(slope) > _TINY else _TINY)
    at_left, at_right = -offset * inverse, (view.width - offset) * inverse
    top, bottom = min(at_left, at_right), max(at_left, at_right)
    beyond = -side * slope
    return Section(px, py, depth, lx, ly, turn, offset, slope, side, top, bottom, beyond)


@compiled
def point_at(section: Section, d: float) -> Point:
    """The point `d` metres to the left of the section's own."""
    return (
        section.x + d * section.left_x,
        section.y + d * section.left_y,
        section.z + d * section.left_z,
    )


@compiled
def _bound(ax: float, ay: float, az: float, bx: float, by: float, bz: float) -> Bound:
    """The plane through the camera, a and b. To the right of a -> b on the ground lies, with
    side > 0, column >= offset + slope * row, else column <= it.
    """
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    if abs(nx) < _TINY:
        nx = _TINY if nx >= 0.0 else -_TINY
    inverse = -1.0 / nx
    return nz * inverse, ny * inverse, nx


@compiled
def _clamped(position: float, limit: int) -> int:
    """The first pixel whose centre is at `position` or beyond, between 0 and `limit`."""
    return int(min(max(position, 0.0), float(limit)) + 0.5)


@compiled
def fill_row(canvas: U8, row: int, start: float, stop: float, gray: int) -> None:
    """Sets the pixels of a row between two columns; unsigned indices allow for a memset."""
    value = np.uint8(gray)
    for column in range(np.uint64(start + 0.5), np.uint64(stop + 0.5)):
        canvas[np.uint64(row), column] = value


@compiled
def fill_rectangle(
    canvas: U8, left: float, top: float, right: float, bottom: float, gray: int
) -> None:
    """Fills the pixels whose centres lie inside; anything outside the canvas is cut off."""
    height, width = canvas.shape
    start, stop = min(max(left, 0.0), float(width)), min(max(right, 0.0), float(width))
    for row in range(_clamped(top, height), _clamped(bottom, height)):
        fill_row(canvas, row, start, stop, gray)


@compiled
def _faces_camera(near: Section, far: Section) -> bool:
    """True if the surface is seen from above: the near point is inside the far line's plane."""
    nx = far.y * far.left_z - far.z * far.left_y
    ny = far.z * far.left_x - far.x * far.left_z
    nz = far.x * far.left_y - far.y * far.left_x
    return nx * near.x + ny * near.y + nz * near.z < 0.0


@compiled
def _rows_between(
    near: Section, far: Section, height: int, rows: tuple[int, int]
) -> tuple[int, int]:
    """The part of `rows` on which the picture has pixels between the lines of both sections."""
    first, last = rows
    if near.beyond > 0.0:
        first = max(first, _clamped(near.top, height))
    else:
        last = min(last, _clamped(near.bottom, height))
    if far.beyond > 0.0:
        last = min(last, _clamped(far.bottom, height))
    else:
        first = max(first, _clamped(far.top, height))
    return first, last


@compiled
def _rows_of(
    height: int, width: int, a: Point, b: Point, c: Point, d: Point, horizon: float
) -> tuple[int, int]:
    """First and last + 1 row of the strip with these corners, an empty range if it is not seen.

    Rows reach to the border where a corner is behind the camera.
    """
    nearest = min(min(a[2], b[2]), min(c[2], d[2]))
    if (
        max(max(a[2], b[2]), max(c[2], d[2])) < _IN_FRONT_M
        or max(max(a[0], b[0]), max(c[0], d[0])) < 0.0
        or min(
            min(a[0] - width * a[2], b[0] - width * b[2]),
            min(c[0] - width * c[2], d[0] - width * d[2]),
        )
        > 0.0
    ):
        return 0, 0
    if nearest > _IN_FRONT_M:
        ra, rb, rc, rd = a[1] / a[2], b[1] / b[2], c[1] / c[2], d[1] / d[2]
        top, bottom = min(min(ra, rb), min(rc, rd)), max(max(ra, rb), max(rc, rd))
        return _clamped(top, height), _clamped(bottom, height)
    below = min(
        min(a[1] - horizon * a[2], b[1] - horizon * b[2]),
        min(c[1] - horizon * c[2], d[1] - horizon * d[2]),
    )
    return _clamped(horizon if below > 0.0 else 0.0, height), height


@compiled
def _cut(low: float, high: float, left: Bound, right: Bound, y: float) -> tuple[float, float]:
    """The part of columns low..high to the right of `left` and to the left of `right`, on row y."""
    x = left[0] + left[1] * y
    if left[2] > 0.0:
        low = max(low, x)
    else:
        high = min(high, x)
    x = right[0] + right[1] * y
    if right[2] > 0.0:
        high = min(high, x)
    else:
        low = max(low, x)
    return low, high


@compiled
def _side(near: Section, far: Section, d_near: float, d_far: float) -> Bound:
    a, b = point_at(near, d_near), point_at(far, d_far)
    return _bound(a[0], a[1], a[2], b[0], b[1], b[2])


@compiled
def fill_road(
    canvas: U8,
    near: Section,
    far: Section,
    near_spans: Spans,
    far_spans: Spans,
    horizon: float,
    grays: tuple[int, int, int],
) -> bool:
    """Fills three nested strips, outer to inner, between two cross-sections.

    Args:
        near_spans, far_spans: lateral metres of the six borders, from left to right.
        grays: of the outer, the middle and the inner strip.

    Returns:
        False if nothing of it is in the picture.
    """
    height, width = canvas.shape
    rows = _rows_of(
        height,
        width,
        point_at(near, near_spans[0]),
        point_at(near, near_spans[5]),
        point_at(far, far_spans[0]),
        point_at(far, far_spans[5]),
        horizon,
    )
    first, last = _rows_between(near, far, height, rows)
    if first >= last or not _faces_camera(near, far):
        return False
    outer_left = _side(near, far, near_spans[0], far_spans[0])
    outer_right = _side(near, far, near_spans[5], far_spans[5])
    left = _side(near, far, near_spans[1], far_spans[1])
    right = _side(near, far, near_spans[4], far_spans[4])
    inner_left = _side(near, far, near_spans[2], far_spans[2])
    inner_right = _side(near, far, near_spans[3], far_spans[3])
    start = (near.offset, near.slope, near.side)
    end = (far.offset, far.slope, far.side)
    for row in range(first, last):
        y = row + 0.5
        low, high = _cut(0.0, float(width), start, end, y)
        low, high = _cut(low, high, outer_left, outer_right, y)
        if low >= high:
            continue
        start_x, stop_x = _cut(low, high, left, right, y)
        if start_x > low or stop_x < high:  # else the next strip covers all of it
            fill_row(canvas, row, low, high, grays[0])
        if start_x >= stop_x:
            continue
        low, high = _cut(start_x, stop_x, inner_left, inner_right, y)
        if low > start_x or high < stop_x:
            fill_row(canvas, row, start_x, stop_x, grays[1])
        if low < high:
            fill_row(canvas, row, low, high, grays[2])
    return True


@compiled
def fill_strip(
    canvas: U8,
    near: Section,
    far: Section,
    spans: tuple[float, float, float, float],
    horizon: float,
    gray: int,
) -> None:
    """Fills one strip; spans: lateral metres left, right of `near`, then left, right of `far`."""
    height, width = canvas.shape
    rows = _rows_of(
        height,
        width,
        point_at(near, spans[0]),
        point_at(near, spans[1]),
        point_at(far, spans[2]),
        point_at(far, spans[3]),
        horizon,
    )
    first, last = _rows_between(near, far, height, rows)
    if first >= last or not _faces_camera(near, far):
        return
    left = _side(near, far, spans[0], spans[2])
    right = _side(near, far, spans[1], spans[3])
    start = (near.offset, near.slope, near.side)
    end = (far.offset, far.slope, far.side)
    for row in range(first, last):
        low, high = _cut(0.0, float(width), start, end, row + 0.5)
        low, high = _cut(low, high, left, right, row + 0.5)
        if low < high:
            fill_row(canvas, row, low, high, gray)


@compiled
def _entry(at_a: float, at_b: float) -> float:
    """Share of a line a -> b where a border's signed distance turns positive, 0 if it starts so."""
    if at_a >= 0.0:
        return 0.0
    if at_b <= 0.0:
        return 1.0
    return at_a / (at_a - at_b)


@compiled
def fill_wall(canvas: U8, a: Point, b: Point, rise: float, gray: int) -> None:
    """Fills an upright rectangle over the ground line a -> b, seen from its right-hand side only.

    rise: height times the vertical focal length.
    """
    height, width = canvas.shape
    ax, ay, az = a
    bx, by, bz = b
    if ax * bz - az * bx >= 0.0 or max(az, bz) < _IN_FRONT_M:
        return
    # Seen from above, cut the line off at the left and right borders of the picture.
    start = max(_entry(ax, bx), _entry(width * az - ax, width * bz - bx))
    stop = 1.0 - max(_entry(bx, ax), _entry(width * bz - bx, width * az - ax))
    if start >= stop:
        return
    dx, dy, dz = bx - ax, by - ay, bz - az
    bx, by, bz = ax + stop * dx, ay + stop * dy, az + stop * dz
    ax, ay, az = ax + start * dx, ay + start * dy, az + start * dz
    if min(az, bz) < _IN_FRONT_M:
        return
    inverse_a, inverse_b = 1.0 / az, 1.0 / bz
    left, right = max(ax * inverse_a, 0.0), min(bx * inverse_b, float(width))
    top = min((ay - rise) * inverse_a, (by - rise) * inverse_b)
    bottom = max(ay * inverse_a, by * inverse_b)
    upper = _bound(ax, ay - rise, az, bx, by - rise, bz)
    lower = _bound(ax, ay, az, bx, by, bz)
    for row in range(_clamped(top, height), _clamped(bottom, height)):
        low, high = _cut(left, right, upper, lower, row + 0.5)
        if low < high:
            fill_row(canvas, row, low, high, gray)


@compiled
def shrink(canvas: U8, frame: U8) -> None:
    """Averages each 2 x 2 pixels of `canvas` (2H, 2W) into `frame` (H, W)."""
    height, width = frame.shape
    for row in range(height):
        upper, lower, out = canvas[2 * row], canvas[2 * row + 1], frame[row]
        for column in range(width):
            total = (
                np.uint16(upper[2 * column])
                + np.uint16(upper[2 * column + 1])
                + np.uint16(lower[2 * column])
                + np.uint16(lower[2 * column + 1])
            )
            out[column] = np.uint8((total + np.uint16(2)) >> np.uint16(2))
