"""Collectors in Ray actors, on this machine and others.

Each collector is asked for a bounded number of rollouts in advance and drives nothing beyond them:
that is the back-pressure. A rollout is received once or never: one that a collector had not
finished, or that lay on a node that is gone, is dropped with it.
"""

import logging
import pickle
import time
from collections import Counter, deque
from dataclasses import replace
from typing import Any, Final

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from rl.collecting import worker as collector_setup
from rl.collecting.collector import CollectorPlan
from rl.collecting.ray.actor import News, ObjectRef, RayCollector, RayGuide, RaySetup, Sign
from rl.collecting.ray.session import RaySession
from rl.collecting.shared_weights import flat_size, to_flat
from rl.collecting.worker import Restarts, forwarded, is_hanging
from rl.config.sections import GuideConfig, PerformanceConfig
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)

PULSE_S: Final = 0.25
"""Seconds between two signs of life, and the longest that news wait."""
PLACE_S: Final = 60.0
"""Seconds without a first sign of life after which it is said."""


class _Worker:
    """The learner's side of one actor."""

    def __init__(self, index: int, actor: Any, in_advance: int) -> None:
        self.index, self.actor = index, actor
        self.drives: deque[ObjectRef] = deque(actor.drive.remote() for _ in range(in_advance))
        self.sign: Sign | None = None
        self._answer: ObjectRef | None = None
        self._asked = self._created = time.monotonic()
        self._told_of_no_place = False

    def attend(self, news: News) -> str | None:
        """Tell news and read the last sign of life; why the actor is lost, None if it is not."""
        now = time.monotonic()
        if self._answer is None:
            self._answer, self._asked = self._tell(news), now
            return None
        if not ray.wait([self._answer], timeout=0)[0]:
            return self._without_answer(now)
        try:
            sign: Sign = ray.get(self._answer)
        except RayError as error:
            return _reason(error)
        if self.sign is None:
            logger.info("collector %d drives on %s", self.index, sign.host)
        self.sign = sign
        self._answer, self._asked = self._tell(news), now
        if is_hanging(sign.idle_s, has_stepped=sign.has_stepped):
            return f"no step for {sign.idle_s:.0f} s"
        return None

    def _tell(self, news: News) -> ObjectRef:
        return self.actor.hear.options(concurrency_group="control").remote(news)

    def _without_answer(self, now: float) -> str | None:
        if self.sign is not None:
            waited = now - self._asked
            return f"no answer for {waited:.0f} s" if waited > collector_setup.HANG_S else None
        if now - self._created > PLACE_S and not self._told_of_no_place:
            self._told_of_no_place = True
            logger.warning(
                "collector %d has not started: its node is slow, or none has a free CPU", self.index
            )
        return None


class RayCollectorPool:
    """Runs collectors in Ray actors and receives their rollouts.

    Attributes:
        rollouts_by_node: rollouts received from each node, by Ray's id of it.
    """

    def __init__(
        self,
        session: RaySession,
        plans: list[CollectorPlan],
        performance: PerformanceConfig,
        online: IQN,
        averaged: IQN | None = None,
        guide: IQN | None = None,
        guide_config: GuideConfig | None = None,
        typical_race_ms: int = 0,
        weights_version: int = 0,
    ) -> None:
        """Ask for one actor per plan; each starts where and when there is room.

        Args:
            session: the connection to Ray; closed with the pool.
            plans: one for each collector.
            performance: threads, rollouts in advance and how often weights are looked for.
            online: whose weights the collectors start with.
            averaged: drives a share of the cars, None without averaging.
            guide: the guide driver's network, None without a guide.
            guide_config: needed with a guide.
            typical_race_ms: longest drive of the guide where its configuration names none.
            weights_version: of the networks' weights.

        Raises:
            UserError: a map that cannot be loaded.
        """
        self._session = session
        # Other machines may lack the files of the maps.
        self._tracks = ray.put(plans[0].tracks())
        ray_guide = None
        if guide is not None and guide_config is not None:
            weights = _put(guide)
            ray_guide = RayGuide(guide_config, guide.config, weights, typical_race_ms)
        look_every = performance.update_inference_network_every_n_actions
        threads = performance.collector_threads
        setup = RaySetup(online.config, ray_guide, look_every, threads)
        self._setup = ray.put(setup)
        self._in_advance = performance.max_rollout_queue_size
        self._actor_class = ray.remote(
            num_cpus=threads,
            max_restarts=0,  # replaced here, with another seed
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"control": 1},
        )(RayCollector)
        self._news = _news(online, averaged, weights_version, frames_played=0)
        self._attended = 0.0
        self._restarts = Restarts(plans)
        self.rollouts_by_node: Counter[str] = Counter()
        self._workers = [self._start(index, plan) for index, plan in enumerate(plans)]

    @property
    def replaced(self) -> int:
        """Collectors that died or hung and were started again."""
        return self._restarts.replaced

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Put new weights into the object store; collectors fetch them when they look."""
        if self._news.averaged is None:
            averaged = None
        self._news = _news(online, averaged, version, self._news.frames_played)
        self._attend()

    def state_dict(self) -> None:
        """Return None: what runs in other processes is driven anew after a resume."""

    def receive(self, frames_played: int, timeout_s: float) -> list[Rollout]:
        """The next rollout; none if none came in time.

        Args:
            frames_played: observations received so far, for the collectors' schedules.
            timeout_s: longest wait.

        Raises:
            CollectorError: a collector failed, or they die again and again.
            UserError: a collector was given something unusable.
        """
        self._news = replace(self._news, frames_played=frames_played)
        if time.monotonic() - self._attended > PULSE_S:
            self._attend()
        waiting = {worker.drives[0]: worker for worker in self._workers}
        ready, _ = ray.wait(list(waiting), timeout=max(timeout_s, 0.0))
        if not ready:
            return []
        worker = waiting[ready[0]]
        self._workers.remove(worker)  # to the end, so that all have their turn
        self._workers.append(worker)
        rollout = self._take(worker)
        return [] if rollout is None else [rollout]

    def close(self) -> None:
        """End all collectors, and the connection to Ray."""
        for worker in self._workers:
            ray.kill(worker.actor)
        for node, count in self.rollouts_by_node.items():
            logger.info("%d rollouts received from node %s", count, node[:8])
        self._session.close()

    def _take(self, worker: _Worker) -> Rollout | None:
        """The rollout that is ready, None if it is lost and with it the collector."""
        try:
            node, payload = ray.get(worker.drives[0], timeout=collector_setup.HANG_S)
        except RayTaskError as error:
            raise forwarded(error) from error
        except RayError as error:
            self._replace(worker, _reason(error))
            return None
        worker.drives.popleft()
        worker.drives.append(worker.actor.drive.remote())
        item: Rollout | Exception = pickle.loads(payload)
        if isinstance(item, Exception):
            raise item
        self._restarts.note_rollout()
        self.rollouts_by_node[node] += 1
        return item

    def _attend(self) -> None:
        self._attended = time.monotonic()
        for worker in list(self._workers):
            reason = worker.attend(self._news)
            if reason is not None:
                self._replace(worker, reason)

    def _start(self, index: int, plan: CollectorPlan) -> _Worker:
        actor = self._actor_class.remote(self._setup, plan, self._tracks, self._news)
        return _Worker(index, actor, self._in_advance)

    def _replace(self, worker: _Worker, reason: str) -> None:
        ray.kill(worker.actor)
        self._workers.remove(worker)
        plan = self._restarts.next_plan(worker.index, reason)
        self._workers.append(self._start(worker.index, plan))


def _put(network: IQN) -> ObjectRef:
    """Put a network's state into the object store, once for all that read it."""
    flat = np.empty(flat_size(network), dtype=np.float32)
    to_flat(network, flat)
    return ray.put(flat)


def _news(online: IQN, averaged: IQN | None, version: int, frames_played: int) -> News:
    references = [None if network is None else _put(network) for network in (online, averaged)]
    return News(version, frames_played, *references)


def _reason(error: Exception) -> str:
    """The first line of what Ray says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"
