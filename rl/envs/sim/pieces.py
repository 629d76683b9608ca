"""Tracks as readable lists of pieces, and the path that such a list describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.contract.line import LINE_SPACING_M, ReferenceLine
from rl.envs.sim.road import LEAD_IN_M, LEAD_OUT_M, ROAD_SPACING_M, Track
from rl.envs.sim.roadworks import build_road, driven_offsets, lay_edges
from rl.envs.sim.shape import left_vectors, resample, smooth

F64 = npt.NDArray[np.float64]

_EASE_M = 5.0  # turns begin and end over about twice this length


@dataclass(frozen=True)
class Straight:
    """`length` metres straight on, climbing `climb` metres in all."""

    length: float
    climb: float = 0.0


@dataclass(frozen=True)
class Turn:
    """A bend of `radius` metres over `degrees`, left > 0, climbing `climb` metres in all."""

    radius: float
    degrees: float
    climb: float = 0.0

    @property
    def length(self) -> float:
        """Metres along the middle."""
        return abs(math.radians(self.degrees)) * self.radius


@dataclass(frozen=True)
class Crest:
    """A smooth hump (or a dip, if `height` < 0) on a straight."""

    length: float
    height: float


@dataclass(frozen=True)
class Jump:
    """A ramp of `length` metres up to `height`, which ends in a short steep drop."""

    length: float
    height: float
    drop_length: float = 4.0


Piece = Straight | Turn | Crest | Jump


def _length(piece: Piece) -> float:
    return piece.length + (piece.drop_length if isinstance(piece, Jump) else 0.0)


def _height(piece: Piece, at: F64) -> F64:
    """Metres above the piece's beginning, `at` metres into it."""
    u = np.clip(at / piece.length, 0.0, 1.0)
    if isinstance(piece, Crest):
        return np.asarray(piece.height * 0.5 * (1.0 - np.cos(2.0 * np.pi * u)))
    if isinstance(piece, Jump):
        ramp = piece.height * u * u
        fall = np.clip((at - piece.length) / piece.drop_length, 0.0, 1.0)
        return np.asarray(ramp - piece.height * fall)
    return np.asarray(piece.climb * u * u * (3.0 - 2.0 * u))


def center_of(pieces: Sequence[Piece]) -> tuple[F64, int, int]:
    """Return the road's middle (M, 3) every metre, and the rows of start and finish."""
    parts: list[Piece] = [Straight(LEAD_IN_M), *pieces, Straight(LEAD_OUT_M)]
    lengths = [_length(piece) for piece in parts]
    ends = np.cumsum(lengths)
    s = np.arange(0.0, ends[-1], ROAD_SPACING_M)
    which = np.searchsorted(ends, s, side="right")
    bend, height = np.zeros(len(s)), np.zeros(len(s))
    base = 0.0
    for index, piece in enumerate(parts):
        mine = which == index
        begin = ends[index] - lengths[index]
        height[mine] = base + _height(piece, s[mine] - begin)
        base += float(_height(piece, np.array([lengths[index]]))[0])
        if isinstance(piece, Turn):
            bend[mine] = math.copysign(1.0 / piece.radius, piece.degrees)
    yaw = np.cumsum(smooth(bend, _EASE_M)) * ROAD_SPACING_M
    x = np.cumsum(np.sin(yaw)) * ROAD_SPACING_M
    z = np.cumsum(np.cos(yaw)) * ROAD_SPACING_M
    center = np.stack([x, height, z], axis=1)
    first, last = round(LEAD_IN_M), round((ends[-1] - LEAD_OUT_M) / ROAD_SPACING_M)
    return center - center[first], first, last


def build_track(name: str, pieces: Sequence[Piece], seed: int) -> Track:
    """Return a track from its pieces; width, surfaces and the driven line come from `seed`."""
    center, first, last = center_of(pieces)
    rng = np.random.default_rng([seed, 11])
    edges = lay_edges(center, rng)
    line_d = driven_offsets(center, edges, first, rng)
    road = build_road(center, edges, line_d, first, last, seed)
    path = center.copy()
    path[:, [0, 2]] += left_vectors(center) * line_d[:, None]
    points = resample(path[first : last + 1], LINE_SPACING_M)
    return Track(name, road, ReferenceLine.from_points(points, name))
