"""What a collector is given to drive: plain data for a process, a Ray actor or the learner."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.config.prior_options import PriorConfig
from rl.config.schedules import ScheduleConfig
from rl.config.sections import EnvironmentConfig, GuideConfig, MapCycleEntry
from rl.envs.cars import CarBatch, RaceMap
from rl.envs.factory import SIMULATOR, RaceFactory


@dataclass(frozen=True)
class CollectorPlan:
    """What a collector drives and how; plain data that a new process can be given."""

    cycle: tuple[MapCycleEntry, ...]
    """One round of the map cycle, repetitions written out."""
    environment: EnvironmentConfig
    schedules: ScheduleConfig
    guide: GuideConfig
    tau_epsilon_boltzmann: float
    cars: int
    averaged_share: float
    """Share of the cars that averaged weights drive."""
    seed: int
    first_entry: int = 0
    """Where in the cycle this collector starts, so that several do not all evaluate at once."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """How a prior is used, where there is one."""
    races: RaceFactory = SIMULATOR
    """Builds maps and cars."""
    built: dict[str, RaceMap] | None = None
    """The maps of the cycle, for machines that may lack their files; None: built where needed."""

    @classmethod
    def from_config(
        cls, cfg: RLConfig, index: int = 0, count: int = 1, *, progress: int = 0
    ) -> "CollectorPlan":
        """Build the plan of collector `index` of `count`; `progress` of a run varies the seed."""
        cycle = tuple(entry for entry in cfg.map_cycle.entries for _ in range(entry.repeat))
        return cls(
            cycle=cycle,
            environment=cfg.environment,
            schedules=cfg,
            guide=cfg.guide,
            tau_epsilon_boltzmann=cfg.tau_epsilon_boltzmann,
            cars=cfg.performance.cars_per_collector,
            averaged_share=cfg.averaging.collector_share if cfg.averaging.decay > 0 else 0.0,
            seed=int(np.random.SeedSequence([cfg.seed, index, progress]).generate_state(1)[0]),
            first_entry=index * len(cycle) // max(count, 1),
            prior=cfg.prior,
            races=RaceFactory.from_config(cfg, index),
        )

    def tracks(self) -> dict[str, RaceMap]:
        """Return the maps of the cycle by short name."""
        if self.built is not None:
            return self.built
        return self.races.maps(self.cycle)

    def cars_on(
        self, tracks: Iterable[RaceMap], network: NetworkConfig, alive: Callable[[], None]
    ) -> CarBatch:
        """Build the cars; they have pictures of the size that the network takes, or none.

        Args:
            tracks: the maps of the cycle.
            network: that drives.
            alive: called during long waits, as a sign that nothing hangs.
        """
        return self.races.cars(
            list(tracks),
            self.cars,
            image_size=network.image_hw,
            render=network.use_image_head,
            alive=alive,
            **self.environment.cut_offs,
        )
