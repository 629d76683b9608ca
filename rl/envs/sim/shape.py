"""Smooth curves: the small numerical tools that roads and lines are made with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def smooth(values: F64, sigma: float) -> F64:
    """Gaussian smoothing along the first axis; `sigma` in samples, the ends are held."""
    reach = max(1, int(np.ceil(3.0 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    columns = values.reshape(len(values), -1)
    padded = np.pad(columns, ((reach, reach), (0, 0)), mode="edge")
    result = np.stack([np.convolve(c, kernel, mode="valid") for c in padded.T], axis=1)
    return result.reshape(values.shape)


def wander(rng: np.random.Generator, n: int, spacing: int) -> F64:
    """(n,) smooth random curve in [-1, 1] that changes about every `spacing` samples."""
    knots = rng.uniform(-1.0, 1.0, n // spacing + 3)
    curve = np.interp(np.arange(n), np.arange(len(knots)) * spacing, knots)
    return smooth(curve, spacing / 4.0)


def resample(points: F64, spacing: float, horizontal: bool = False) -> F64:
    """Points (N, 3) at even spacing (near `spacing`, so that both ends stay) along the curve."""
    steps = np.diff(points, axis=0)
    if horizontal:
        steps = steps[:, [0, 2]]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(steps, axis=1))])
    n = max(2, round(along[-1] / spacing) + 1)
    at = np.linspace(0.0, along[-1], n)
    return np.stack([np.interp(at, along, points[:, axis]) for axis in range(3)], axis=1)


def left_vectors(center: F64) -> F64:
    """(M, 2) unit vectors (x, z) that point to the left of the path `center` (M, 3)."""
    forward = np.gradient(center[:, [0, 2]], axis=0)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    return np.stack([forward[:, 1], -forward[:, 0]], axis=1)


def curvature(center: F64) -> F64:
    """(M,) horizontal curvature in 1/m, left turns > 0."""
    forward = np.gradient(center[:, [0, 2]], axis=0)
    length = np.linalg.norm(forward, axis=1)
    # Yaw grows to the left and forward is (sin yaw, cos yaw).
    yaw = np.unwrap(np.arctan2(forward[:, 0], forward[:, 1]))
    return np.asarray(np.gradient(yaw) / length)
