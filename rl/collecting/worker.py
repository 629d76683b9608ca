"""What collectors in processes and collectors on other machines have in common.

How one is built from weights that travel, when it looks for newer ones, when it counts as hanging,
and how one that is gone is replaced.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from torch import nn

from datasets.contract.errors import UserError
from rl.collecting.collector import Collector, CollectorPlan
from rl.collecting.guide import Guide
from rl.config.network import NetworkConfig
from rl.config.sections import GuideConfig
from rl.network.iqn import IQN
from rl.network.policy import Policy
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)

HANG_S: Final = 120.0
"""Seconds without a step after which a collector counts as hanging."""
START_S: Final = 900.0
"""Seconds until the first step: the first start on a machine compiles the simulator."""
DEATHS_IN_A_ROW: Final = 5
"""Deaths in one collector's place, without a rollout of any between, that a run puts up with."""


class CollectorError(RuntimeError):
    """A collector failed in a way that a replacement would repeat."""


class WeightsReader(Protocol):
    """Where a collector finds the learner's newest weights of one network."""

    @property
    def version(self) -> int:
        """Version of the newest weights."""

    def pull_into(self, module: nn.Module) -> int:
        """Copy the newest weights into `module`, all of one version, which is returned."""


@dataclass(frozen=True)
class GuideSetup:
    """What a collector needs to build the guide driver."""

    config: GuideConfig
    network: NetworkConfig
    weights: WeightsReader
    typical_race_ms: int


@dataclass(frozen=True)
class CollectorSetup:
    """What a collector is built from, wherever it runs."""

    network: NetworkConfig
    online: WeightsReader
    averaged: WeightsReader | None
    guide: GuideSetup | None
    look_every_actions: int
    threads: int

    def build(self, plan: CollectorPlan) -> Collector:
        """The collector, with networks of its own."""
        online = IQN(self.network)
        averaged = None if self.averaged is None else IQN(self.network)
        version = self._pull(online, averaged)
        guide = None
        if self.guide is not None:
            driver = IQN(self.guide.network)
            self.guide.weights.pull_into(driver)
            guide = Guide(Policy(driver), self.guide.config, plan.cars, self.guide.typical_race_ms)
        return Collector(plan, online, averaged, guide, weights_version=version)

    def refresh(self, collector: Collector) -> None:
        """Take the latest weights if they are newer than the collector's."""
        if collector.weights_version != self.online.version:
            collector.weights_version = self._pull(collector.online, collector.averaged)

    def _pull(self, online: IQN, averaged: IQN | None) -> int:
        if self.averaged is not None and averaged is not None:
            self.averaged.pull_into(averaged)
        return self.online.pull_into(online)


class DrivingCollector:
    """A collector that looks for newer weights every `look_every_actions` actions."""

    def __init__(self, setup: CollectorSetup, plan: CollectorPlan) -> None:
        """Build the collector; its cars stand at their starts."""
        self._setup = setup
        self._collector = setup.build(plan)
        self._actions = 0

    def step(self, frames_played: int) -> list[Rollout]:
        """Let each car act once; the runs that ended with it."""
        if self._actions % self._setup.look_every_actions == 0:
            self._setup.refresh(self._collector)
        self._actions += 1
        return self._collector.step(frames_played)


class Restarts:
    """Counts collectors that were lost, and plans those that take their places.

    Attributes:
        replaced: collectors that died or hung and were started again.
    """

    def __init__(self, plans: list[CollectorPlan]) -> None:
        """Start with the collectors of `plans`, none of them lost."""
        self._plans = plans
        self._deaths: Counter[int] = Counter()
        self.replaced = 0

    def note_rollout(self) -> None:
        """A rollout came, so starting collectors is not in vain."""
        self._deaths.clear()

    def next_plan(self, index: int, reason: str) -> CollectorPlan:
        """The plan of a collector that takes the place of `index`: the same with a new seed.

        Many may be lost at once, with a machine, so the deaths in each place count by themselves.

        Args:
            index: of the one that is lost.
            reason: how it was lost, for the log.

        Raises:
            CollectorError: those in this place were lost again and again, without a rollout
                between.
        """
        self.replaced += 1
        self._deaths[index] += 1
        if self._deaths[index] > DEATHS_IN_A_ROW:
            deaths = self._deaths.total()
            raise CollectorError(
                f"collectors died {deaths} times without driving a run (last: {reason}); "
                f"is there enough memory? performance.cars_per_collector lowers the need"
            )
        logger.warning("collector %d died (%s); starting another", index, reason)
        plan = self._plans[index]
        seed = int(np.random.SeedSequence([plan.seed, self.replaced]).generate_state(1)[0])
        return replace(plan, seed=seed)


def is_hanging(idle_s: float, *, has_stepped: bool) -> bool:
    """Whether a collector that has driven nothing for `idle_s` seconds is to be replaced."""
    return idle_s > (HANG_S if has_stepped else START_S)


def forwarded(error: Exception) -> Exception:
    """The error of a collector as the learner is to raise it."""
    if isinstance(error, UserError):
        return error
    logger.error("collector failed", exc_info=error)
    return CollectorError(f"a collector failed: {type(error).__name__}: {error}")
