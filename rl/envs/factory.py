"""Builds maps and cars of the environment that a run drives in: the one place that asks which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from datasets.contract.race import MAX_RACE_MS
from rl.config.experiment import RLConfig
from rl.config.game import GameConfig
from rl.config.sections import MapCycleEntry
from rl.envs.cars import CarBatch, RaceMap
from rl.envs.registry import make_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.road import Track

if TYPE_CHECKING:
    from rl.envs.tmnf.game_batch import GameMap


def do_nothing() -> None:
    """Give no sign of life: nobody waits for one."""


@dataclass(frozen=True)
class RaceFactory:
    """Where a collector or an evaluation drives. Plain data that a new process can be given.

    Attributes:
        env: the simulator, or the game.
        game: how the game is reached and set up.
        instance: number of the game that is driven in, from 0.
    """

    env: Literal["sim", "game"] = "sim"
    game: GameConfig = field(default_factory=GameConfig)
    instance: int = 0

    @classmethod
    def from_config(cls, cfg: RLConfig, instance: int = 0) -> RaceFactory:
        """Return the factory of a run's collector number `instance`."""
        return cls(cfg.env, cfg.game, instance)

    @property
    def varies_starts(self) -> bool:
        """Whether starts can be varied."""
        return self.env == "sim"

    @property
    def has_room(self) -> bool:
        """Whether any number of cars can drive at any time, beside those of the collectors."""
        return self.env == "sim"

    def maps(self, entries: Sequence[MapCycleEntry]) -> dict[str, RaceMap]:
        """Build each map of some entries once, named and keyed by its short name.

        Raises:
            UserError: an unknown map or an unusable line.
        """
        first = {entry.short_name: entry for entry in reversed(entries)}
        return {name: self._map(name, entry) for name, entry in sorted(first.items())}

    def cars_at_once(self, wanted: int) -> int:
        """Return how many of `wanted` cars one batch holds."""
        return wanted if self.env == "sim" else 1

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
        alive: Callable[[], None] = do_nothing,
    ) -> CarBatch:
        """Put cars at the start of the first map; in the game the first `reset` does that.

        Args:
            maps: T maps, all of this environment.
            count: number of cars B, at most `cars_at_once(count)`.
            image_size: (H, W) pixels of the frames.
            render: whether frames are drawn; without it they stay black.
            start_noise: scale of the start variation, one for all cars or (B,) one for each.
            no_progress_ms: a car without a new furthest zone for longer is cut off.
            max_race_ms: race time at which a car is cut off.
            alive: called during long waits, as a sign that nothing hangs.

        Raises:
            TypeError: a map of another environment.
            UserError: no such map of the simulated game.
        """
        limits = {"no_progress_ms": no_progress_ms, "max_race_ms": max_race_ms}
        if self.env == "game":
            from rl.envs.tmnf.game_cars import game_cars  # the simulator needs none of it

            cars = game_cars(
                maps, self.game, self.instance, image_size, renders=render, alive=alive, **limits
            )
            cars.start_noise[:] = start_noise
            return cars
        tracks = [each for each in maps if isinstance(each, Track)]
        if len(tracks) < len(maps):
            raise TypeError("a map without a road cannot be driven in the simulator")
        return RaceBatch(
            tracks,
            np.zeros(count, dtype=np.int64),
            image_size=image_size,
            render=render,
            start_noise=start_noise,
            **limits,
        )

    def release(self) -> None:
        """Let go of what this process has started to drive in, before other processes drive."""
        if self.env == "game":
            from rl.envs.tmnf.machine.game_process import end_games

            end_games()

    def _map(self, name: str, entry: MapCycleEntry) -> Track | GameMap:
        if self.env == "game":
            from rl.envs.tmnf.game_cars import game_map

            return game_map(name, entry)
        return replace(make_track(entry.map_path, entry.reference_line_path), name=name)


SIMULATOR: Final = RaceFactory()
"""The built-in simulator."""
