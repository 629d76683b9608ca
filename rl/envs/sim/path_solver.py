"""Smoothest path through a corridor: a box-constrained quadratic programme over lateral offsets.

The path is `center[i] + offset[i] * left[i]`. Its curvature is linear in three neighbouring offsets
once headings and spacings are frozen, so the sum of squared curvature (plus a share of length) is a
pentadiagonal quadratic form. It is minimised inside the corridor by a primal-dual interior-point
method; headings and spacings are then renewed and the programme is solved again.
"""

import math

import numpy as np
import numpy.typing as npt

from rl.envs.jit import compiled

Floats = npt.NDArray[np.float64]

# Curvature squared is about 1e-4 / m^2; the solver's tolerances are meant for values near 1.
_OBJECTIVE_SCALE = 1e3
_BARRIER_SHRINK = 0.15
_STEP_SHARE = 0.97
_LEAST_SLACK_M = 1e-9


@compiled
def wrap_angle(angle: float) -> float:
    """Return the same angle in [-pi, pi)."""
    return angle - 2.0 * math.pi * math.floor(angle / (2.0 * math.pi) + 0.5)


@compiled
def path_points(center: Floats, left: Floats, offset: Floats, out: Floats) -> None:
    """World points of a path given by its lateral offsets.

    Args:
        center: (M, 3) m; left: (M, 2) unit (x, z); offset: (M,) m, positive to the left.
        out: (M, 3) m, written. The height is the road's centre height.
    """
    for i in range(offset.shape[0]):
        out[i, 0] = center[i, 0] + offset[i] * left[i, 0]
        out[i, 1] = center[i, 1]
        out[i, 2] = center[i, 2] + offset[i] * left[i, 1]


@compiled
def path_geometry(points: Floats, heading: Floats, curvature: Floats, spacing: Floats) -> None:
    """Heading, curvature and horizontal spacing of a path.

    Args:
        points: (M, 3) m.
        heading: (M,) rad, yaw of the path, continuous (not wrapped); written.
        curvature: (M,) 1/m, positive to the left; written.
        spacing: (M,) m to the next point, last repeated; written.
    """
    n = points.shape[0]
    previous = 0.0
    for i in range(n - 1):
        dx = points[i + 1, 0] - points[i, 0]
        dz = points[i + 1, 2] - points[i, 2]
        spacing[i] = max(math.sqrt(dx * dx + dz * dz), 1e-3)
        yaw = math.atan2(dx, dz)
        if i > 0:
            yaw = previous + wrap_angle(yaw - previous)
        heading[i] = yaw
        previous = yaw
    spacing[n - 1] = spacing[n - 2]
    heading[n - 1] = heading[n - 2]
    curvature[0] = 0.0
    for i in range(1, n):
        curvature[i] = (heading[i] - heading[i - 1]) / (0.5 * (spacing[i] + spacing[i - 1]))
    # A node's heading is the mean of its two segments; done last, curvature needs the segments.
    for i in range(n - 2, 0, -1):
        heading[i] = 0.5 * (heading[i] + heading[i - 1])


@compiled
def _quadratic_form(
    center: Floats,
    left: Floats,
    points: Floats,
    weight: Floats,
    length_weight: float,
    band: Floats,
    linear: Floats,
) -> None:
    """Write the pentadiagonal matrix `band` (3, M) and vector `linear` (M,) around `points`."""
    n = points.shape[0]
    band[:] = 0.0
    linear[:] = 0.0
    row = np.empty(3)
    for i in range(1, n - 1):
        ax, az = points[i, 0] - points[i - 1, 0], points[i, 2] - points[i - 1, 2]
        bx, bz = points[i + 1, 0] - points[i, 0], points[i + 1, 2] - points[i, 2]
        ha = max(math.sqrt(ax * ax + az * az), 1e-2)
        hb = max(math.sqrt(bx * bx + bz * bz), 1e-2)
        hm = 0.5 * (ha + hb)
        tx, tz = ax / ha + bx / hb, az / ha + bz / hb
        norm = max(math.sqrt(tx * tx + tz * tz), 1e-6)
        nx, nz = tz / norm, -tx / norm
        fa, fb = 1.0 / (ha * hm), 1.0 / (hb * hm)
        row[0] = fa * (left[i - 1, 0] * nx + left[i - 1, 1] * nz)
        row[1] = -(fa + fb) * (left[i, 0] * nx + left[i, 1] * nz)
        row[2] = fb * (left[i + 1, 0] * nx + left[i + 1, 1] * nz)
        sx = fa * center[i - 1, 0] - (fa + fb) * center[i, 0] + fb * center[i + 1, 0]
        sz = fa * center[i - 1, 2] - (fa + fb) * center[i, 2] + fb * center[i + 1, 2]
        constant = sx * nx + sz * nz
        w = _OBJECTIVE_SCALE * weight[i] * hm
        for j in range(3):
            linear[i - 1 + j] += w * constant * row[j]
            for k in range(j, 3):
                band[k - j, i - 1 + j] += w * row[j] * row[k]
    for i in range(n - 1):
        bx, bz = points[i + 1, 0] - points[i, 0], points[i + 1, 2] - points[i, 2]
        hb = max(math.sqrt(bx * bx + bz * bz), 1e-2)
        w = _OBJECTIVE_SCALE * length_weight / hb
        cx, cz = center[i + 1, 0] - center[i, 0], center[i + 1, 2] - center[i, 2]
        cross = left[i, 0] * left[i + 1, 0] + left[i, 1] * left[i + 1, 1]
        band[0, i] += w
        band[0, i + 1] += w
        band[1, i] -= w * cross
        linear[i] -= w * (cx * left[i, 0] + cz * left[i, 1])
        linear[i + 1] += w * (cx * left[i + 1, 0] + cz * left[i + 1, 1])


@compiled
def _solve_pentadiagonal(band: Floats, extra: Floats, rhs: Floats, factor: Floats) -> None:
    """Solve (band + diag(extra)) x = rhs in place by LDL^T; `factor` is (3, M) scratch."""
    n = rhs.shape[0]
    for i in range(n):
        d = band[0, i] + extra[i]
        l1, l2 = 0.0, 0.0
        if i >= 2:
            l2 = band[2, i - 2] / factor[0, i - 2]
            d -= l2 * l2 * factor[0, i - 2]
        if i >= 1:
            entry = band[1, i - 1]
            if i >= 2:
                entry -= l2 * factor[0, i - 2] * factor[1, i - 1]
            l1 = entry / factor[0, i - 1]
            d -= l1 * l1 * factor[0, i - 1]
        factor[0, i], factor[1, i], factor[2, i] = d, l1, l2
        if i >= 1:
            rhs[i] -= l1 * rhs[i - 1]
        if i >= 2:
            rhs[i] -= l2 * rhs[i - 2]
    for i in range(n - 1, -1, -1):
        rhs[i] /= factor[0, i]
        if i + 1 < n:
            rhs[i] -= factor[1, i + 1] * rhs[i + 1]
        if i + 2 < n:
            rhs[i] -= factor[2, i + 2] * rhs[i + 2]


@compiled
def _interior_point(
    band: Floats, linear: Floats, low: Floats, high: Floats, x: Floats, iterations: int
) -> None:
    """Minimises 0.5 x'Px + q'x with low < x < high; `x` (M,) is the start and the result."""
    n = x.shape[0]
    z_low, z_high = np.full(n, 0.1), np.full(n, 0.1)
    extra, step, factor = np.empty(n), np.empty(n), np.empty((3, n))
    for i in range(n):
        gap = 0.05 * (high[i] - low[i])
        x[i] = min(max(x[i], low[i] + gap), high[i] - gap)
    for _ in range(iterations):
        gap_sum = 0.0
        for i in range(n):
            gap_sum += z_low[i] * (x[i] - low[i]) + z_high[i] * (high[i] - x[i])
        mu = _BARRIER_SHRINK * gap_sum / (2 * n)
        for i in range(n):
            gradient = linear[i] + band[0, i] * x[i]
            if i >= 1:
                gradient += band[1, i - 1] * x[i - 1]
            if i >= 2:
                gradient += band[2, i - 2] * x[i - 2]
            if i + 1 < n:
                gradient += band[1, i] * x[i + 1]
            if i + 2 < n:
                gradient += band[2, i] * x[i + 2]
            s_low = max(x[i] - low[i], _LEAST_SLACK_M)
            s_high = max(high[i] - x[i], _LEAST_SLACK_M)
            extra[i] = z_low[i] / s_low + z_high[i] / s_high
            step[i] = -gradient + mu / s_low - mu / s_high
        _solve_pentadiagonal(band, extra, step, factor)
        share = 1.0
        for i in range(n):
            s_low = max(x[i] - low[i], _LEAST_SLACK_M)
            s_high = max(high[i] - x[i], _LEAST_SLACK_M)
            d_low = (mu - z_low[i] * step[i]) / s_low - z_low[i]
            d_high = (mu + z_high[i] * step[i]) / s_high - z_high[i]
            if step[i] < 0.0:
                share = min(share, -_STEP_SHARE * s_low / step[i])
            elif step[i] > 0.0:
                share = min(share, _STEP_SHARE * s_high / step[i])
            if d_low < 0.0:
                share = min(share, -_STEP_SHARE * z_low[i] / d_low)
            if d_high < 0.0:
                share = min(share, -_STEP_SHARE * z_high[i] / d_high)
        for i in range(n):
            s_low = max(x[i] - low[i], _LEAST_SLACK_M)
            s_high = max(high[i] - x[i], _LEAST_SLACK_M)
            z_low[i] += share * ((mu - z_low[i] * step[i]) / s_low - z_low[i])
            z_high[i] += share * ((mu + z_high[i] * step[i]) / s_high - z_high[i])
            x[i] = min(max(x[i] + share * step[i], low[i]), high[i])


@compiled
def smoothest_path(
    center: Floats,
    left: Floats,
    low: Floats,
    high: Floats,
    weight: Floats,
    length_weight: float,
    offset: Floats,
    rounds: int,
    iterations: int,
) -> None:
    """Offsets that minimise sum(weight * curvature^2 ds) + length_weight * length in a corridor.

    Args:
        center: (M, 3) m; left: (M, 2) unit (x, z).
        low, high: (M,) m, bounds of the offset, low < high.
        weight: (M,) share of each section in the curvature cost.
        length_weight: 1/m^2, how much curvature squared a metre of path is worth.
        offset: (M,) m, the start, and the result.
        rounds: how often headings and spacings are renewed; iterations: interior-point steps each.
    """
    n = offset.shape[0]
    points, band, linear = np.empty((n, 3)), np.empty((3, n)), np.empty(n)
    for _ in range(rounds):
        path_points(center, left, offset, points)
        _quadratic_form(center, left, points, weight, length_weight, band, linear)
        _interior_point(band, linear, low, high, offset, iterations)
