"""Filling road strips on a gray canvas: compiled, scalar, free of near-plane clipping.

A strip is a convex piece of surface between two cross-sections. Each of its four sides and the
camera span a plane; a pixel is inside if its ray is on the inner side of all four. On one row each
plane is a bound for x, linear in y, so a row costs four multiplications and one fill. The test
holds for corners behind the camera too, hence nothing has to be clipped or subdivided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rl.envs.sim.jit import compiled

U8 = npt.NDArray[np.uint8]

_IN_FRONT_M = 0.05  # a corner nearer than this has no usable projection
_TINY = 1e-9  # keeps a horizontal side's bound finite: it lies far outside the picture


class View(NamedTuple):
    """A camera in the world and its canvas. Units: metres, radians, canvas pixels."""

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
    height: int


class Section(NamedTuple):
    """A cross-section as the camera sees it: a point `c` and the direction `l` to the left.

    c and l are scaled by the focal lengths, so that a point projects to
    (center_x - x / z, horizon - y / z). x at row y of the section's own line is offset + slope * y.
    """

    cx: float
    cy: float
    cz: float
    lx: float
    lz: float
    offset: float
    slope: float
    sign: float


@compiled
def fill_row(canvas: U8, row: int, start: int, stop: int, gray: int) -> None:
    """Sets canvas[row, start:stop]; unsigned indices let the compiler emit a memset."""
    line = canvas[row]
    value = np.uint8(gray)
    for column in range(np.uint64(start), np.uint64(stop)):
        line[column] = value


@compiled
def fill_rectangle(
    canvas: U8, left: float, top: float, right: float, bottom: float, gray: int
) -> None:
    """Fills the pixels whose centres lie inside; anything outside the canvas is cut off."""
    height, width = canvas.shape
    start = int(min(max(left, 0.0), float(width)) + 0.5)
    stop = int(min(max(right, 0.0), float(width)) + 0.5)
    first = int(min(max(top, 0.0), float(height)) + 0.5)
    last = int(min(max(bottom, 0.0), float(height)) + 0.5)
    if start < stop:
        for row in range(first, last):
            fill_row(canvas, row, start, stop, gray)


@compiled
def make_section(
    view: View, x: float, y: float, z: float, left_x: float, left_z: float
) -> Section:
    """The cross-section through world point (x, y, z) with the unit vector (left_x, left_z)."""
    dx, dz = x - view.x, z - view.z
    cx = view.focal_x * (dx * view.cos_yaw - dz * view.sin_yaw)
    cy = view.focal_y * (y - view.y)
    cz = dx * view.sin_yaw + dz * view.cos_yaw
    lx = view.focal_x * (left_x * view.cos_yaw - left_z * view.sin_yaw)
    lz = left_x * view.sin_yaw + left_z * view.cos_yaw
    # The plane through the camera and the section has the normal c x l.
    offset, slope, sign = _bound(view, cy * lz, cz * lx - cx * lz, -cy * lx)
    return Section(cx, cy, cz, lx, lz, offset, slope, sign)


@compiled
def _bound(view: View, nx: float, ny: float, nz: float) -> tuple[float, float, float]:
    """A plane's bound on x: x <= offset + slope * y if sign > 0, else x >= it."""
    if abs(nx) < _TINY:
        nx = _TINY if nx >= 0.0 else -_TINY
    inverse = 1.0 / nx
    slope = -ny * inverse
    return view.center_x + nz * inverse - slope * view.horizon, slope, nx


@compiled
def is_visible(near: Section, far: Section, left: float, right: float, view: View) -> bool:
    """False if a strip from `left` to `right` metres is out of the picture or seen from below."""
    slack = view.center_x
    alx, alz = near.cx + left * near.lx, near.cz + left * near.lz
    arx, arz = near.cx - right * near.lx, near.cz - right * near.lz
    blx, blz = far.cx + left * far.lx, far.cz + left * far.lz
    brx, brz = far.cx - right * far.lx, far.cz - right * far.lz
    out_left = min(
        min(alx - slack * alz, arx - slack * arz), min(blx - slack * blz, brx - slack * brz)
    )
    slack = view.center_x - view.width
    out_right = max(
        max(alx - slack * alz, arx - slack * arz), max(blx - slack * blz, brx - slack * brz)
    )
    return out_left < 0.0 and out_right > 0.0 and _faces_camera(near, far)


@compiled
def _faces_camera(near: Section, far: Section) -> bool:
    """True if the camera is above the surface: the near side is on the inner side of the far one."""
    nx = far.cy * far.lz
    ny = far.cz * far.lx - far.cx * far.lz
    nz = -far.cy * far.lx
    return nx * near.cx + ny * near.cy + nz * near.cz < 0.0


@compiled
def fill_strip(
    canvas: U8,
    view: View,
    near: Section,
    far: Section,
    near_left: float,
    near_right: float,
    far_left: float,
    far_right: float,
    gray: int,
) -> None:
    """Fills the surface between two cross-sections, between lateral metres (left is positive)."""
    alx, alz = near.cx + near_left * near.lx, near.cz + near_left * near.lz
    arx, arz = near.cx + near_right * near.lx, near.cz + near_right * near.lz
    blx, blz = far.cx + far_left * far.lx, far.cz + far_left * far.lz
    brx, brz = far.cx + far_right * far.lx, far.cz + far_right * far.lz
    ay, by = near.cy, far.cy
    # Rows: between the projected corners, or up to a border where a corner is behind the camera.
    if min(min(alz, arz), min(blz, brz)) > _IN_FRONT_M:
        y0, y1, y2, y3 = -ay / alz, -ay / arz, -by / blz, -by / brz
        top = view.horizon + min(min(y0, y1), min(y2, y3))
        bottom = view.horizon + max(max(y0, y1), max(y2, y3))
    else:
        top, bottom = 0.0, float(view.height)
        if max(ay, by) < 0.0:
            top = view.horizon
    first = int(min(max(top, 0.0), float(view.height)) + 0.5)
    last = int(min(max(bottom, 0.0), float(view.height)) + 0.5)
    if first >= last:
        return
    left = _bound(view, ay * blz - alz * by, alz * blx - alx * blz, alx * by - ay * blx)
    right = _bound(view, by * arz - brz * ay, brz * arx - brx * arz, brx * ay - by * arx)
    entry = (near.offset, near.slope, near.sign)
    exit = (far.offset, far.slope, -far.sign)
    _fill_between(canvas, first, last, left, right, entry, exit, gray)


@compiled
def fill_wall(
    canvas: U8,
    view: View,
    a: tuple[float, float, float],
    b: tuple[float, float, float],
    height_m: float,
    gray: int,
) -> None:
    """Fills an upright rectangle over the ground line a -> b (scaled camera space), seen from its
    right-hand side only.
    """
    ax, ay, az = a
    bx, by, bz = b
    rise = view.focal_y * height_m
    at, bt = ay + rise, by + rise
    # Volume of camera, a, b and a point above a: its sign tells which side is seen.
    if az * bx - ax * bz >= 0.0 or max(az, bz) < _IN_FRONT_M:
        return
    if min(az, bz) > _IN_FRONT_M:
        top = view.horizon - max(at / az, bt / bz)
        bottom = view.horizon - min(ay / az, by / bz)
    else:
        top, bottom = 0.0, float(view.height)
    first = int(min(max(top, 0.0), float(view.height)) + 0.5)
    last = int(min(max(bottom, 0.0), float(view.height)) + 0.5)
    if first >= last:
        return
    side_a = _bound(view, -az, 0.0, ax)
    side_b = _bound(view, bz, 0.0, -bx)
    upper = _bound(view, at * bz - az * bt, az * bx - ax * bz, ax * bt - at * bx)
    lower = _bound(view, by * az - bz * ay, bz * ax - bx * az, bx * ay - by * ax)
    _fill_between(canvas, first, last, side_a, side_b, upper, lower, gray)


@compiled
def _fill_between(
    canvas: U8,
    first: int,
    last: int,
    p: tuple[float, float, float],
    q: tuple[float, float, float],
    r: tuple[float, float, float],
    s: tuple[float, float, float],
    gray: int,
) -> None:
    """Fills rows first..last - 1 where all four bounds hold."""
    width = float(canvas.shape[1])
    for row in range(first, last):
        y = row + 0.5
        low, high = 0.0, width
        for offset, slope, sign in (p, q, r, s):
            x = offset + slope * y
            if sign > 0.0:
                high = min(high, x)
            else:
                low = max(low, x)
        if low < high:
            fill_row(canvas, row, int(low + 0.5), int(high + 0.5), gray)


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

