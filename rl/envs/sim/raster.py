"""Filling road strips and walls on a gray canvas: compiled, scalar, without near-plane clipping.

Points are homogeneous canvas coordinates (x, y, z): z is metres in front of the camera, x / z the
column and y / z the row. A strip of road is convex, and each of its four sides spans a plane with
the camera: a pixel belongs to the strip if it lies on the inner side of all four. On one row each
plane is a bound for the column, linear in the row, so a row costs a few multiplications and a fill.
That holds for corners behind the camera too, hence no strip has to be clipped or subdivided.

The rows down to the view's `split`, where the road is far and small, are a pixel of the canvas
high. Those below are two pixels high: there nothing is so thin, and they cost as much each.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from rl.envs.jit import compiled
from rl.envs.sim.projection import (
    IN_FRONT_M,
    Borders,
    Bound,
    Point,
    Section,
    View,
    bound,
    point_at,
)

U8 = npt.NDArray[np.uint8]
Ends = tuple[float, float]
Strip = tuple[Bound, Bound]  # left, right
FourStrips = tuple[Strip, Strip, Strip, Strip]
Four = tuple[int, int, int, int]

MIN_COLUMNS: Final = 128  # of a canvas; so many are painted at once, if it is not wider


@compiled
def _row_at(view: View, y: float) -> int:
    """Return the first canvas row whose centre is at `y` or below, from 0 to the last + 1."""
    y = min(max(y, 0.0), float(view.height))
    return int(y + 0.5) if y <= view.split else view.split + int(0.5 * (y - view.split) + 0.5)


@compiled
def _center_of(view: View, row: int) -> float:
    """Return the y of a row's centre."""
    return row + 0.5 if row < view.split else 2.0 * row + 1.0 - view.split


@compiled
def fill_row(canvas: U8, row: int, start: float, stop: float, gray: int) -> None:
    """Set the pixels of a row between two columns; unsigned indices allow for a memset."""
    value = np.uint8(gray)
    first, last = np.uint64(start + 0.5), np.uint64(stop + 0.5)
    if canvas.shape[1] != MIN_COLUMNS:
        for column in range(first, last):
            canvas[np.uint64(row), column] = value
        return
    begin, count = np.uint8(first), np.uint8(last - first)
    for index in range(MIN_COLUMNS):
        old = canvas[np.uint64(row), np.uint64(index)]
        inside = np.uint8(np.uint8(index) - begin) < count
        canvas[np.uint64(row), np.uint64(index)] = value if inside else old


@compiled
def fill_rectangle(
    canvas: U8, view: View, left: float, top: float, right: float, bottom: float, gray: int
) -> None:
    """Fill the pixels whose centres lie inside; anything outside the canvas is cut off."""
    start, stop = min(max(left, 0.0), float(view.width)), min(max(right, 0.0), float(view.width))
    for row in range(_row_at(view, top), _row_at(view, bottom)):
        fill_row(canvas, row, start, stop, gray)


@compiled
def _paint_block(canvas: U8, row: int, starts: Four, counts: Four, grays: Four) -> None:
    """Paints four spans over each other on the first MIN_COLUMNS columns of a row.

    Every pixel is chosen anew without a branch: 64 at once, where the processor can.
    """
    a0, a1 = np.uint8(starts[0]), np.uint8(starts[1])
    a2, a3 = np.uint8(starts[2]), np.uint8(starts[3])
    n0, n1 = np.uint8(counts[0]), np.uint8(counts[1])
    n2, n3 = np.uint8(counts[2]), np.uint8(counts[3])
    g0, g1, g2, g3 = np.uint8(grays[0]), np.uint8(grays[1]), np.uint8(grays[2]), np.uint8(grays[3])
    for index in range(MIN_COLUMNS):
        column = np.uint8(index)
        value = canvas[np.uint64(row), np.uint64(index)]
        value = g0 if np.uint8(column - a0) < n0 else value  # unsigned: columns before wrap round
        value = g1 if np.uint8(column - a1) < n1 else value
        value = g2 if np.uint8(column - a2) < n2 else value
        value = g3 if np.uint8(column - a3) < n3 else value
        canvas[np.uint64(row), np.uint64(index)] = value


@compiled
def _paint(canvas: U8, row: int, starts: Four, counts: Four, grays: Four) -> None:
    """Paints four spans over each other: their first columns, widths and gray levels."""
    if canvas.shape[1] == MIN_COLUMNS:
        _paint_block(canvas, row, starts, counts, grays)
        return
    for start, count, gray in zip(starts, counts, grays):  # noqa: B905 (numba knows no strict)
        fill_row(canvas, row, float(start), float(start + count), gray)


@compiled
def _faces_camera(near: Section, far: Section) -> bool:
    """Return whether a surface is seen from above: its near point is inside the far plane."""
    nx = far.y * far.left_z - far.z * far.left_y
    ny = far.z * far.left_x - far.x * far.left_z
    nz = far.x * far.left_y - far.y * far.left_x
    return nx * near.x + ny * near.y + nz * near.z < 0.0


@compiled
def _rows_between(view: View, near: Section, far: Section) -> tuple[int, int]:
    """First and last + 1 row that the ground between two sections may cover; empty if unseen."""
    if (
        max(near.farthest, far.farthest) < IN_FRONT_M
        or max(near.left_out, far.left_out) < 0.0
        or min(near.right_out, far.right_out) > 0.0
    ):
        return 0, 0
    first, last = min(near.highest, far.highest), max(near.lowest, far.lowest)
    if near.beyond > 0.0:
        first = max(first, near.top)
    else:
        last = min(last, near.bottom)
    if far.beyond > 0.0:
        last = min(last, far.bottom)
    else:
        first = max(first, far.top)
    return _row_at(view, first), _row_at(view, last)


@compiled
def _cut(low: float, high: float, left: Bound, right: Bound, y: float) -> tuple[float, float]:
    """Return the part of columns low..high right of `left` and left of `right`, on row y."""
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
    return bound(a[0], a[1], a[2], b[0], b[1], b[2])


@compiled
def _strip(near: Section, far: Section, left: Ends, right: Ends) -> Strip:
    """Return the bounds of a strip; left, right: lateral metres of its borders, near and far."""
    return _side(near, far, left[0], left[1]), _side(near, far, right[0], right[1])


@compiled
def _ordered(strip: Strip) -> tuple[float, float, float, float, bool]:
    """Offset and slope of the lower and of the upper bound; False if both are of one kind.

    A strip seen against its direction has its left border on the right. Offsets are half a pixel
    more, so that cutting a column off leaves the first pixel whose centre is beyond it.
    """
    a, b = strip
    if a[2] <= 0.0:
        a, b = b, a
    return a[0] + 0.5, a[1], b[0] + 0.5, b[1], (strip[0][2] > 0.0) == (strip[1][2] > 0.0)


@compiled
def _fill_slowly(
    canvas: U8, view: View, rows: tuple[int, int], ends: Strip, strips: FourStrips, grays: Four
) -> None:
    """Fill nested strips, some of them seen along their ground, as beside the road."""
    for row in range(rows[0], rows[1]):
        y = _center_of(view, row)
        low, high = _cut(0.0, float(view.width), ends[0], ends[1], y)
        for k in range(4):
            low, high = _cut(low, high, strips[k][0], strips[k][1], y)
            if low < high:
                fill_row(canvas, row, low, high, grays[k])


@compiled
def fill_road(
    canvas: U8, view: View, near: Section, far: Section, patch: Borders, grays: Four
) -> None:
    """Fill four nested strips between two cross-sections; a patch is the innermost.

    Args:
        patch: lateral metres left, right of `near`, then left, right of `far`; all 0: none.
        grays: of the ground, the edge lines, the road and the patch.
    """
    rows = _rows_between(view, near, far)
    if rows[0] >= rows[1] or not _faces_camera(near, far):
        return
    a, b = near.spans, far.spans
    strips = (
        _strip(near, far, (a[0], b[0]), (a[5], b[5])),
        _strip(near, far, (a[1], b[1]), (a[4], b[4])),
        _strip(near, far, (a[2], b[2]), (a[3], b[3])),
        _strip(near, far, (patch[0], patch[2]), (patch[1], patch[3])),
    )
    start, end = (near.offset, near.slope, near.side), (far.offset, far.slope, far.side)
    ground, line = _ordered(strips[0]), _ordered(strips[1])
    road, inner = _ordered(strips[2]), _ordered(strips[3])
    has_patch = patch[0] > patch[1] or patch[2] > patch[3]
    if not (ground[4] and line[4] and road[4] and (inner[4] or not has_patch)):
        _fill_slowly(canvas, view, rows, (start, end), strips, grays)
        return
    for row in range(rows[0], rows[1]):
        y = _center_of(view, row)
        low, high = _cut(0.0, float(view.width), start, end, y)
        low = max(low + 0.5, ground[0] + ground[1] * y)
        high = min(high + 0.5, ground[2] + ground[3] * y)
        if low >= high:
            continue
        a0, b0 = int(low), int(high)
        low, high = max(low, line[0] + line[1] * y), min(high, line[2] + line[3] * y)
        a1, b1 = int(low), int(high)
        low, high = max(low, road[0] + road[1] * y), min(high, road[2] + road[3] * y)
        a2, b2, a3, b3 = int(low), int(high), 0, 0
        if has_patch:
            low, high = max(low, inner[0] + inner[1] * y), min(high, inner[2] + inner[3] * y)
            a3, b3 = int(low), int(high)
        counts = (b0 - a0, max(b1 - a1, 0), max(b2 - a2, 0), max(b3 - a3, 0))
        _paint(canvas, row, (a0, a1, a2, a3), counts, grays)


@compiled
def fill_wall(canvas: U8, view: View, a: Point, b: Point, rise: float, gray: int) -> None:
    """Fill an upright rectangle over the ground line a -> b, seen from its right side only.

    rise: height times the vertical focal length.
    """
    ax, ay, az = a
    bx, by, bz = b
    ny = az * bx - ax * bz
    if ny <= 0.0 or max(az, bz) < IN_FRONT_M:
        return
    # An end behind the camera lies beyond the picture's border.
    left = max(ax / az, 0.0) if az > IN_FRONT_M else 0.0
    right = min(bx / bz, float(view.width)) if bz > IN_FRONT_M else float(view.width)
    if left >= right:
        return
    # Planes through the camera and the lower, the upper side: nx * column + ny * row + nz = 0.
    nx, nz = ay * bz - az * by, ax * by - ay * bx
    upper_nx, upper_nz = nx - rise * (bz - az), nz - rise * (ax - bx)
    inverse = -1.0 / ny
    top = inverse * max(upper_nz + upper_nx * left, upper_nz + upper_nx * right)
    bottom = inverse * min(nz + nx * left, nz + nx * right)
    first, last = _row_at(view, top), _row_at(view, bottom)
    if first >= last:
        return
    upper = bound(ax, ay - rise, az, bx, by - rise, bz)
    lower = bound(ax, ay, az, bx, by, bz)
    for row in range(first, last):
        low, high = _cut(left, right, upper, lower, _center_of(view, row))
        if low < high:
            fill_row(canvas, row, low, high, gray)


@compiled
def shrink(canvas: U8, split: int, frame: U8) -> None:
    """Averages pairs of columns into `frame` (H, W), and above row `split` pairs of rows too."""
    height, width = frame.shape
    half = split // 2
    for row in range(half):
        upper, lower, out = canvas[2 * row], canvas[2 * row + 1], frame[row]
        for column in range(width):
            total = (
                np.uint16(upper[2 * column])
                + np.uint16(upper[2 * column + 1])
                + np.uint16(lower[2 * column])
                + np.uint16(lower[2 * column + 1])
            )
            out[column] = np.uint8((total + np.uint16(2)) >> np.uint16(2))
    for row in range(half, height):
        pairs, out = canvas[half + row], frame[row]
        for column in range(width):
            total = np.uint16(pairs[2 * column]) + np.uint16(pairs[2 * column + 1])
            out[column] = np.uint8((total + np.uint16(1)) >> np.uint16(1))
