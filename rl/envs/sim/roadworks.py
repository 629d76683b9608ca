"""Builds a road along a path: width, run-off, walls and the surfaces that lie on it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.surfaces import ASPHALT, DIRT, GRASS, TURBO
from rl.envs.sim.road import Road
from rl.envs.sim.shape import curvature, left_vectors, smooth, wander

F64 = npt.NDArray[np.float64]

HALF_WIDTH_M: Final = (5.0, 9.0)
RUN_OFF_M: Final = (12.0, 16.0)
INSIDE_EDGE_SHARE: Final = 0.55  # of the turn's radius
INSIDE_WALL_SHARE: Final = 0.8  # beyond the centre of a turn cross-sections would intersect
PATCH_GAP_M: Final = (25, 46)
PATCH_LENGTH_M: Final = (8, 17)
PATCH_SHARE: Final = (0.4, 0.6)  # of the road's width
TURBO_LENGTH_M: Final = (6, 11)
TURBO_WIDTH_M: Final = (2.5, 3.5)
PATCH_KINDS: Final = ((DIRT, 0.45), (GRASS, 0.25), (TURBO, 0.3))
CLEAN_WIDTH_M: Final = 3.5  # of road is always left beside a patch
LINE_MARGIN_M: Final = 1.0  # from the reference line to the edge, at least


def inside_limits(center: F64) -> F64:
    """(M, 2) metres to the centre of the turn on the left and on the right, huge if none."""
    bend = curvature(center)
    limits = np.full((len(center), 2), 1e6)
    for column, toward in enumerate((bend, -bend)):
        sharpest = np.maximum(toward, 0.0)
        # The sharpest bend of the neighbourhood counts, so that walls close in before it.
        reach = 4
        stacked = [np.roll(sharpest, shift) for shift in range(-reach, reach + 1)]
        limits[:, column] = 1.0 / np.maximum(np.max(stacked, axis=0), 1e-6)
    return limits


def lay_edges(center: F64, rng: np.random.Generator) -> F64:
    """(M, 2) metres from the centre to the left and right edge; width varies slowly."""
    low, high = HALF_WIDTH_M
    middle, swing = (low + high) / 2, (high - low) / 2
    sides = [middle + 1.2 * swing * wander(rng, len(center), 45) for _ in range(2)]
    edges = np.clip(np.stack(sides, axis=1), low, high)
    return np.minimum(edges, INSIDE_EDGE_SHARE * inside_limits(center))


def build_road(center: F64, edges: F64, line_d: F64, first: int, last: int, seed: int) -> Road:
    """Walls and patches along `center` (M, 3).

    Args:
        edges: (M, 2) metres to the left and right edge.
        line_d: (M,) lateral place of the reference line on each section; patches seek it.
        first: row of the start. `last`: row of the finish.
    """
    rng = np.random.default_rng([seed, 77])
    limits = inside_limits(center)
    edges = np.maximum(edges, np.stack([line_d, -line_d], axis=1) + LINE_MARGIN_M)
    low, high = RUN_OFF_M
    run_off = (low + high) / 2 + (high - low) / 2 * wander(rng, len(center), 60)
    walls = np.minimum(edges + run_off[:, None], INSIDE_WALL_SHARE * limits)
    kind, span = _lay_patches(edges, line_d, first, last, rng)
    return Road(center, left_vectors(center), edges, walls, kind, span)


def _lay_patches(
    edges: F64, line_d: F64, first: int, last: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], F64]:
    kinds = np.full(len(edges), ASPHALT, dtype=np.uint8)
    spans = np.zeros((len(edges), 2))
    row = first + int(rng.integers(*PATCH_GAP_M))
    names, shares = zip(*PATCH_KINDS, strict=True)
    while True:
        kind = int(rng.choice(names, p=shares))
        length = int(rng.integers(*(TURBO_LENGTH_M if kind == TURBO else PATCH_LENGTH_M)))
        if row + length > last - 5:
            return kinds, spans
        rows = slice(row, row + length)
        kinds[rows] = kind
        if kind == TURBO:
            spans[rows] = _turbo_span(edges[rows], line_d[rows], rng)
        else:
            spans[rows] = _patch_span(edges[rows], line_d[rows], rng)
        row += int(rng.integers(*PATCH_GAP_M))


def _patch_span(edges: F64, line_d: F64, rng: np.random.Generator) -> F64:
    """From one edge over 40 to 60 % of the road; half of the time on the line's side."""
    width = edges.sum(axis=1)
    on_line = rng.random() < 0.5
    middle = (edges[:, 0] - edges[:, 1]) / 2
    left = bool(line_d.mean() > middle.mean()) if on_line else bool(rng.random() < 0.5)
    covered = rng.uniform(*PATCH_SHARE) * width
    covered = np.minimum(covered, width - CLEAN_WIDTH_M)
    if left:
        return np.stack([edges[:, 0] - covered, edges[:, 0]], axis=1)
    return np.stack([-edges[:, 1], -edges[:, 1] + covered], axis=1)


def _turbo_span(edges: F64, line_d: F64, rng: np.random.Generator) -> F64:
    """Return the (M, 2) borders of a random narrow strip, which may lie on the line."""
    half = rng.uniform(*TURBO_WIDTH_M) / 2
    low, high = (-edges[:, 1] + half).max(), (edges[:, 0] - half).min()
    at = float(line_d.mean()) if rng.random() < 0.3 else rng.uniform(low, high)
    at = min(max(at, low), high)
    return np.repeat([[at - half, at + half]], len(edges), axis=0)


def driven_offsets(
    center: F64, edges: F64, first: int, rng: np.random.Generator, wander_m: float = 1.5
) -> F64:
    """(M,) lateral place of a driven line: wide before a turn, inside at its apex, wandering."""
    bend = curvature(center)
    cut = 260.0 * (smooth(bend, 8.0) - 0.6 * smooth(bend, 30.0))
    offset = np.clip(cut, -4.0, 4.0) + wander_m * wander(rng, len(center), 35)
    ahead = np.arange(len(center)) - first
    offset *= np.clip(ahead / 25.0, 0.0, 1.0)  # races start in the middle, straight ahead
    margin = LINE_MARGIN_M + 0.5
    offset = np.clip(offset, margin - edges[:, 1], edges[:, 0] - margin)
    return smooth(offset, 4.0)
