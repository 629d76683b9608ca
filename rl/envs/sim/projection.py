"""Where points and cross-sections of the road are on the canvas.

Points are homogeneous canvas coordinates (x, y, z): z is metres in front of the camera, x / z the
column and y / z the row. Two points span a plane with the camera, which on a picture is a line.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rl.envs.jit import compiled

Bound = tuple[float, float, float]  # column = offset + slope * row; side: the plane's sign
Point = tuple[float, float, float]
Borders = tuple[float, float, float, float]
Spans = tuple[float, float, float, float, float, float]

IN_FRONT_M: Final = 0.05  # a corner nearer than this has no usable projection
_FAR_OUT: Final = 1e9  # a row below any picture
_TINY: Final = 1e-9  # keeps a horizontal side's bound finite: it lies far outside the picture


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
    height: int
    split: int  # row below which rows are two pixels high
    line_width: float  # metres of an edge line
    line_share: float  # of the depth: a line is at least as wide


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
    spans: Spans  # lateral metres of walls, edges and edge lines, from left to right
    highest: float  # rows between which the section lies from wall to wall
    lowest: float
    farthest: float  # largest z
    left_out: float  # < 0: wholly to the left of the picture
    right_out: float  # > 0: wholly to the right of it


@compiled
def make_section(
    view: View, x: float, y: float, z: float, left_x: float, left_z: float, borders: Borders
) -> Section:
    """Return the cross-section through world point (x, y, z) with the unit vector (left_x, left_z).

    Args:
        borders: lateral metres of left wall, left edge, right edge, right wall.
    """
    dx, dz = x - view.x, z - view.z
    depth = dx * view.sin_yaw + dz * view.cos_yaw
    px = view.center_x * depth - view.focal_x * (dx * view.cos_yaw - dz * view.sin_yaw)
    py = view.horizon * depth - view.focal_y * (y - view.y)
    turn = left_x * view.sin_yaw + left_z * view.cos_yaw
    lx = view.center_x * turn - view.focal_x * (left_x * view.cos_yaw - left_z * view.sin_yaw)
    ly = view.horizon * turn
    offset, slope, side = bound(px, py, depth, lx, ly, turn)
    inverse = 1.0 / (slope if abs(slope) > _TINY else _TINY)
    at_left, at_right = -offset * inverse, (view.width - offset) * inverse
    top, bottom = min(at_left, at_right), max(at_left, at_right)
    beyond = -side * slope
    wall_left, edge_left, edge_right, wall_right = borders
    line = min(max(view.line_width, view.line_share * depth), 0.4 * edge_left)
    spans = (wall_left, edge_left, edge_left - line, edge_right + line, edge_right, wall_right)
    ax, ay, az = px + wall_left * lx, py + wall_left * ly, depth + wall_left * turn
    bx, by, bz = px + wall_right * lx, py + wall_right * ly, depth + wall_right * turn
    if min(az, bz) > IN_FRONT_M:
        row_a, row_b = ay / az, by / bz
        highest, lowest = min(row_a, row_b), max(row_a, row_b)
    else:  # one end is behind the camera
        below = min(ay - view.horizon * az, by - view.horizon * bz) > 0.0
        highest, lowest = view.horizon if below else 0.0, _FAR_OUT
    left_out, right_out = max(ax, bx), min(ax - view.width * az, bx - view.width * bz)
    return Section(
        px,
        py,
        depth,
        lx,
        ly,
        turn,
        offset,
        slope,
        side,
        top,
        bottom,
        beyond,
        spans,
        highest,
        lowest,
        max(az, bz),
        left_out,
        right_out,
    )


@compiled
def point_at(section: Section, d: float) -> Point:
    """Return the point `d` metres to the left of the section's own."""
    return (
        section.x + d * section.left_x,
        section.y + d * section.left_y,
        section.z + d * section.left_z,
    )


@compiled
def bound(ax: float, ay: float, az: float, bx: float, by: float, bz: float) -> Bound:
    """Return the plane through the camera, a and b, as (offset, slope, side) on the canvas.

    Points to the right of a -> b on the ground have column >= offset + slope * row if side > 0,
    else column <= that.
    """
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    if abs(nx) < _TINY:
        nx = _TINY if nx >= 0.0 else -_TINY
    inverse = -1.0 / nx
    return nz * inverse, ny * inverse, nx
