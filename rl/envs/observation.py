"""What a car knows of itself and of the line: one scalar definition for simulator and game.

Everything here is compiled for one car, so that a batch gives the same bits as single cars do.
"""

import math

import numpy as np
import numpy.typing as npt

from datasets.contract import floats as layout
from datasets.contract.line import EXTENSION_ZONES, ZONE_REACH_M
from rl.envs.jit import compiled

FloatArray = npt.NDArray[np.float64]

_UP = layout.UP.start
_WAYPOINTS = layout.WAYPOINTS.start
_ANGULAR = layout.ANGULAR_VELOCITY.start
_VELOCITY = layout.VELOCITY.start
_N_WAYPOINTS = layout.N_WAYPOINTS
_STRIDE = layout.WAYPOINT_STRIDE_ZONES
_CAP = layout.MARGIN_CAP_M


@compiled
def distance(points: FloatArray, row: int, x: float, y: float, z: float) -> float:
    """Metres between (x, y, z) and a row of `points` (n, 3)."""
    dx, dy, dz = points[row, 0] - x, points[row, 1] - y, points[row, 2] - z
    return math.sqrt(dx * dx + dy * dy + dz * dz)


@compiled
def advance_zone(
    zone: int,
    x: float,
    y: float,
    z: float,
    centers: FloatArray,
    radius: FloatArray,
    first: int,
    n_zones: int,
) -> int:
    """Return the new zone of a car at (x, y, z); the search is local, since lines overlap.

    Args:
        zone: 0-based zone within the car's line.
        centers: (rows, 3) zone centres of all lines; `first` is the row of this line's zone 0.
        radius: (rows,) checkpoint radius of each zone.
        n_zones: zones of this line.

    Returns:
        The new zone, between 1 and the last one before the finish.
    """
    last = n_zones - 1 - EXTENSION_ZONES
    here = distance(centers, first + zone, x, y, z)
    while zone < last:
        ahead = distance(centers, first + zone + 1, x, y, z)
        if ahead > here or ahead > ZONE_REACH_M or here >= radius[first + zone]:
            break
        zone += 1
        here = ahead
    while zone >= 2:
        behind = distance(centers, first + zone - 1, x, y, z)
        if behind >= here or behind > ZONE_REACH_M:
            break
        zone -= 1
        here = behind
    return zone


@compiled
def meters_along(
    zone: int,
    x: float,
    y: float,
    z: float,
    transitions: FloatArray,
    axes: FloatArray,
    lengths: FloatArray,
    cumulative: FloatArray,
    first: int,
) -> float:
    """Metres of progress on the line: the last transition's plus the projection on its segment."""
    row = first + zone - 1
    along = (
        (x - transitions[row, 0]) * axes[row, 0]
        + (y - transitions[row, 1]) * axes[row, 1]
        + (z - transitions[row, 2]) * axes[row, 2]
    )
    return float(cumulative[row] + min(max(along, 0.0), lengths[row]))


@compiled
def write_waypoints(
    out: npt.NDArray[np.float32],
    position: FloatArray,
    rotation: FloatArray,
    zone: int,
    centers: FloatArray,
    first: int,
) -> None:
    """Write floats 62 to 181: every 20th zone centre from the current one on, in the car frame.

    Args:
        out: (184,) float32.
        position: (3,) metres, world.
        rotation: (3, 3); its rows are the car's left, up and forward axes in the world.
    """
    for i in range(_N_WAYPOINTS):
        row = first + zone + i * _STRIDE
        dx = centers[row, 0] - position[0]
        dy = centers[row, 1] - position[1]
        dz = centers[row, 2] - position[2]
        for axis in range(3):
            out[_WAYPOINTS + 3 * i + axis] = (
                rotation[axis, 0] * dx + rotation[axis, 1] * dy + rotation[axis, 2] * dz
            )


@compiled
def write_motion(
    out: npt.NDArray[np.float32], rotation: FloatArray, velocity: FloatArray, angular: FloatArray
) -> None:
    """Write floats 53 to 61: angular velocity, velocity and the world's up, in the car frame.

    Args:
        rotation: (3, 3); its rows are the car's left, up and forward axes in the world.
        velocity: (3,) m/s, world.
        angular: (3,) rad/s, world.
    """
    for axis in range(3):
        out[_ANGULAR + axis] = (
            rotation[axis, 0] * angular[0]
            + rotation[axis, 1] * angular[1]
            + rotation[axis, 2] * angular[2]
        )
        out[_VELOCITY + axis] = (
            rotation[axis, 0] * velocity[0]
            + rotation[axis, 1] * velocity[1]
            + rotation[axis, 2] * velocity[2]
        )
        out[_UP + axis] = rotation[axis, 1]


@compiled
def margin_to_finish(meters: float, cumulative: FloatArray, first: int, n_zones: int) -> float:
    """Metres left along the line, capped at 700."""
    return float(min(cumulative[first + n_zones - EXTENSION_ZONES] - meters, _CAP))
