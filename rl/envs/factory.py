"""Builds maps and cars of the environment that a run drives in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from datasets.contract.race import MAX_RACE_MS
from rl.config.sections import MapCycleEntry
from rl.envs.cars import CarBatch, RaceMap
from rl.envs.registry import make_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.road import Track


@dataclass(frozen=True)
class RaceFactory:
    """Where a collector or an evaluation drives. Plain data that a new process can be given."""

    def maps(self, entries: Sequence[MapCycleEntry]) -> dict[str, RaceMap]:
        """Build each map of some entries once, named and keyed by its short name.

        Raises:
            UserError: an unknown map or an unusable line.
        """
        first = {entry.short_name: entry for entry in reversed(entries)}
        return {name: self._map(name, entry) for name, entry in sorted(first.items())}

    def cars_at_once(self, wanted: int) -> int:
        """Return how many of `wanted` cars one batch holds."""
        return wanted

    def cars(
        self,
        maps: Sequence[RaceMap],
        count: int,
        *,
        image_size: tuple[int, int] = (64, 64),
        render: bool = True,
        start_noise: float | npt.ArrayLike = 1.0,
        no_progress_ms: int = 2000,
        max_race_ms: int = MAX_RACE_MS,
    ) -> CarBatch:
        """Put cars at the start of the first map.

        Args:
            maps: T maps, all of this environment.
            count: number of cars B, at most `cars_at_once(count)`.
            image_size: (H, W) pixels of the frames.
            render: whether frames are drawn; without it they stay black.
            start_noise: scale of the start variation, one for all cars or (B,) one for each.
            no_progress_ms: a car without a new furthest zone for longer is cut off.
            max_race_ms: race time at which a car is cut off.

        Raises:
            TypeError: a map of another environment.
        """
        tracks = [each for each in maps if isinstance(each, Track)]
        if len(tracks) < len(maps):
            raise TypeError("a map without a road cannot be driven in the simulator")
        return RaceBatch(
            tracks,
            np.zeros(count, dtype=np.int64),
            image_size=image_size,
            render=render,
            start_noise=start_noise,
            no_progress_ms=no_progress_ms,
            max_race_ms=max_race_ms,
        )

    def _map(self, name: str, entry: MapCycleEntry) -> RaceMap:
        return replace(make_track(entry.map_path, entry.reference_line_path), name=name)


SIMULATOR = RaceFactory()
"""The built-in simulator."""
