"""What collectors in processes and collectors on other machines have in common.

How a collector is built from weights that the learner sends, when it looks for newer ones, when it
counts as hanging, and how a lost one is replaced.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from torch import nn

from datasets.contract.errors import UserError, one_line_of
from rl.collecting.collector import Collector
from rl.collecting.guide import GuideDriver
from rl.collecting.plan import CollectorPlan
from rl.collecting.prior_cars import FrozenPrior
from rl.config.network import NetworkConfig
from rl.envs.factory import do_nothing
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)

HANG_S: Final = 120.0
"""Seconds without a step after which a collector counts as hanging."""
START_S: Final = 900.0
"""Seconds until the first step: the first start on a machine compiles the simulator."""
DEATHS_IN_A_ROW: Final = 5
"""Deaths of one collector and its replacements, without a rollout of any collector in between,
after which the run stops."""


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
class WeightsReaders:
    """Where a collector finds the weights of its networks.

    Attributes:
        online: of the online network.
        averaged: of the averaged network, None without one.
    """

    online: WeightsReader
    averaged: WeightsReader | None = None

    def pull(self, online: IQN, averaged: IQN | None) -> int:
        """Copy the newest weights into a collector's networks.

        Returns:
            The version of the online network's weights.
        """
        if self.averaged is not None and averaged is not None:
            self.averaged.pull_into(averaged)
        return self.online.pull_into(online)


@dataclass(frozen=True)
class CollectorSetup:
    """What every collector of a run is built from, in whichever process or machine.

    Attributes:
        network: description of the online network, and of the averaged one.
        guide: the policy that drives the first part of some runs, None without one.
        prior: on the choice of actions, None without one.
        look_every_actions: actions between two looks for new weights.
        threads: CPU threads of a collector.
    """

    network: NetworkConfig
    guide: GuideDriver | None
    prior: FrozenPrior | None
    look_every_actions: int
    threads: int


class DrivingCollector:
    """A collector that looks for newer weights every `look_every_actions` actions."""

    def __init__(
        self,
        setup: CollectorSetup,
        plan: CollectorPlan,
        weights: WeightsReaders,
        *,
        prior_level: int = 0,
        alive: Callable[[], None] = do_nothing,
    ) -> None:
        """Build the collector, with networks of its own; its cars stand at their starts.

        Args:
            setup: what it shares with the other collectors.
            plan: what it drives.
            weights: where its weights come from, the first ones too.
            prior_level: place on the ladder of the prior's weight when the first runs start.
            alive: called during long waits, as a sign that nothing hangs.
        """
        self._look_every_actions = setup.look_every_actions
        self._weights = weights
        online = IQN(setup.network)
        averaged = None if weights.averaged is None else IQN(setup.network)
        version = weights.pull(online, averaged)
        guide = None if setup.guide is None else setup.guide.guide(plan.guide, plan.cars)
        self._collector = Collector(
            plan,
            online,
            averaged,
            guide,
            prior=None if setup.prior is None else setup.prior.policy,
            prior_level=prior_level,
            weights_version=version,
            alive=alive,
        )
        self._actions = 0

    def step(self, frames_played: int, prior_level: int = 0) -> list[Rollout]:
        """Let each car act once.

        Args:
            frames_played: observations that the learner has received, for the schedules.
            prior_level: place on the ladder of the prior's weight, for runs that start now.

        Returns:
            The runs that ended with this action.
        """
        if self._actions % self._look_every_actions == 0:
            self._refresh()
        self._actions += 1
        return self._collector.step(frames_played, prior_level)

    def close(self) -> None:
        """Let go of what the cars drive in."""
        self._collector.close()

    def _refresh(self) -> None:
        """Take the newest weights if they are newer than the collector's, and none is measured."""
        collector = self._collector
        is_newer = collector.weights_version != self._weights.online.version
        if is_newer and not collector.is_measuring:
            version = self._weights.pull(collector.online, collector.averaged)
            collector.weights_version = version


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
        """Forget the deaths so far: a rollout came, so collectors do work."""
        self._deaths.clear()

    def next_plan(self, index: int, reason: str) -> CollectorPlan:
        """Return the plan of the replacement of collector `index`: the same with a new seed.

        A machine that fails takes many collectors with it, so deaths are counted per index.

        Args:
            index: of the lost collector.
            reason: how it was lost, for the log.

        Raises:
            UserError: more than `DEATHS_IN_A_ROW` collectors of this index were lost without
                a rollout in between.
        """
        self.replaced += 1
        self._deaths[index] += 1
        if self._deaths[index] > DEATHS_IN_A_ROW:
            deaths = self._deaths.total()
            raise UserError(
                f"collectors were lost {deaths} times without driving a run (last: {reason}); "
                f"is there enough memory? performance.cars_per_collector lowers the need"
            )
        logger.warning("collector %d was lost (%s); starting another", index, reason)
        plan = self._plans[index]
        seed = int(np.random.SeedSequence([plan.seed, self.replaced]).generate_state(1)[0])
        return replace(plan, seed=seed)


def is_hanging(idle_s: float, *, has_stepped: bool) -> bool:
    """Return whether a collector without a step for `idle_s` seconds is to be replaced."""
    return idle_s > (HANG_S if has_stepped else START_S)


def forwarded(error: Exception) -> Exception:
    """Return the error of a collector in the form that the learner raises."""
    if isinstance(error, UserError):
        return error
    logger.error("collector failed", exc_info=error)
    return CollectorError(f"a collector failed: {one_line_of(error)}")
