"""Small tracks and drives for the simulator's tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_NAMES
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.pieces import Piece, Straight, build_track
from rl.envs.sim.road import Track

GAS = ACTION_NAMES.index("accelerate")
GAS_LEFT = ACTION_NAMES.index("accelerate+left")
GAS_RIGHT = ACTION_NAMES.index("accelerate+right")
GAS_BRAKE_LEFT = ACTION_NAMES.index("accelerate+brake+left")
COAST = ACTION_NAMES.index("coast")
BRAKE = ACTION_NAMES.index("brake")


def clean_track(pieces: Sequence[Piece] = (Straight(400),), seed: int = 0) -> Track:
    """A track without surfaces on its road."""
    track = build_track("clean", pieces, seed)
    bare = np.zeros_like(track.road.patch_kind)
    return dataclasses.replace(track, road=dataclasses.replace(track.road, patch_kind=bare))


def covered_track(kind: int, pieces: Sequence[Piece] = (Straight(400),)) -> Track:
    """A track whose whole road is of one surface."""
    track = clean_track(pieces)
    road = track.road
    span = np.stack([-road.edges[:, 1], road.edges[:, 0]], axis=1)
    kinds = np.full_like(road.patch_kind, kind)
    return dataclasses.replace(
        track, road=dataclasses.replace(road, patch_kind=kinds, patch_span=span)
    )


def one_car(track: Track, no_progress_ms: int = 2000, max_race_ms: int = 300_000) -> RaceBatch:
    """A batch of one car, exactly at the start, without frames."""
    return RaceBatch(
        [track], [0], render=False, no_progress_ms=no_progress_ms, max_race_ms=max_race_ms
    )


def hold(batch: RaceBatch, action: int, ms: int) -> None:
    """Every car holds `action` for `ms`."""
    actions = np.full(batch.num_cars, action, np.uint8)
    for _ in range(ms // 10):
        batch.tick(actions)
    batch.observe()


def figure_eight(bridge_m: float) -> npt.NDArray[np.float64]:
    """(N, 3) line of an eight of 0.5 m steps, whose second pass is `bridge_m` above the first."""
    t = np.linspace(-0.5, np.pi + 0.8, 4000)  # through the crossing at 0 and at pi
    u = np.clip((t - 0.5) / 2.0, 0.0, 1.0)
    height = bridge_m * u * u * (3.0 - 2.0 * u)
    line = np.stack([90.0 * np.sin(t), 10.0 + height, 60.0 * np.sin(2.0 * t)], axis=1)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0.0, along[-1], 0.5)
    return np.stack([np.interp(at, along, line[:, axis]) for axis in range(3)], axis=1)
