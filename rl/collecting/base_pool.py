"""A pool of collectors: what the pools of processes and of Ray actors have in common.

A pool starts one collector per plan, hands their rollouts to the learner, and replaces collectors
that die or hang.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from rl.collecting.guide import GuideDriver
from rl.collecting.plan import CollectorPlan
from rl.collecting.prior_cars import FrozenPrior
from rl.collecting.worker import CollectorSetup, Restarts
from rl.config.sections import PerformanceConfig
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout

WorkerT = TypeVar("WorkerT")


@dataclass(frozen=True, eq=False)
class PoolSetup:
    """What a pool starts with.

    Attributes:
        plans: one for each collector.
        performance: threads, rollouts in advance and how often weights are looked for.
        online: network whose weights the collectors start with.
        averaged: network that drives a share of the cars, None without averaging.
        guide: the guide driver, None without one.
        prior: on the choice of actions, None without one.
        prior_level: place on the ladder of the prior's weight at which the first runs start.
        weights_version: of the networks' weights.
    """

    plans: list[CollectorPlan]
    performance: PerformanceConfig
    online: IQN
    averaged: IQN | None = None
    guide: GuideDriver | None = None
    prior: FrozenPrior | None = None
    prior_level: int = 0
    weights_version: int = 0

    @property
    def collector(self) -> CollectorSetup:
        """The part that each collector receives."""
        return CollectorSetup(
            network=self.online.config,
            guide=self.guide,
            prior=self.prior,
            look_every_actions=self.performance.update_inference_network_every_n_actions,
            threads=self.performance.collector_threads,
        )


class CollectorPool(ABC, Generic[WorkerT]):
    """Runs collectors outside the learner's process and receives their rollouts.

    A subclass calls `_start_all` at the end of its constructor.
    """

    def __init__(self, setup: PoolSetup) -> None:
        """Note the plans; nothing is started yet."""
        self._plans = setup.plans
        self._restarts = Restarts(setup.plans)
        self._workers: list[WorkerT] = []

    @property
    def replaced(self) -> int:
        """Collectors that died or hung and were started again."""
        return self._restarts.replaced

    def receive(
        self, frames_played: int, timeout_s: float, *, prior_level: int = 0
    ) -> list[Rollout]:
        """Return the next rollout, or an empty list if none came in time.

        Args:
            frames_played: observations received so far, for the collectors' schedules.
            timeout_s: longest wait.
            prior_level: place on the ladder of the prior's weight, for runs that start now.

        Raises:
            CollectorError: a collector failed, or collectors die again and again.
            UserError: a collector was given something unusable.
        """
        self._check_workers(frames_played, prior_level)
        item = self._next_item(timeout_s)
        if item is None:
            return []
        if isinstance(item, Exception):
            raise item
        self._restarts.note_rollout()
        return [item]

    def state_dict(self) -> None:
        """Return None: a resumed run starts the collectors of a pool anew."""

    @abstractmethod
    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Make new weights available to the collectors."""

    @abstractmethod
    def close(self) -> None:
        """End all collectors."""

    @abstractmethod
    def _start(self, index: int, plan: CollectorPlan) -> WorkerT:
        """Start a collector."""

    @abstractmethod
    def _end(self, worker: WorkerT) -> None:
        """End one collector, also one that does not answer."""

    @abstractmethod
    def _check_workers(self, frames_played: int, prior_level: int) -> None:
        """Send both numbers to the collectors and replace those that hang."""

    @abstractmethod
    def _next_item(self, timeout_s: float) -> Rollout | Exception | None:
        """Wait for a rollout, or for the error of a collector; None if neither came in time."""

    def _start_all(self) -> None:
        self._workers = [self._start(index, plan) for index, plan in enumerate(self._plans)]

    def _replace(self, worker: WorkerT, index: int, reason: str) -> None:
        """End a lost collector and start another one with a new seed in its place.

        Args:
            worker: the lost one; a worker that was replaced before is left alone.
            index: of its plan.
            reason: how it was lost, for the log.
        """
        if worker not in self._workers:
            return
        self._end(worker)
        place = self._workers.index(worker)
        self._workers[place] = self._start(index, self._restarts.next_plan(index, reason))
