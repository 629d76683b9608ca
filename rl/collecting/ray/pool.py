"""Collectors in Ray actors, on this machine and others.

Each collector is asked for a bounded number of rollouts in advance and drives nothing beyond them:
that is the back-pressure. A rollout arrives once or never: the unfinished rollout of a lost
collector, and one stored on a lost node, are dropped.
"""

import logging
import pickle
import time
from collections import Counter, deque
from dataclasses import replace
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from datasets.contract.errors import one_line_of
from rl.collecting import worker as limits
from rl.collecting.base_pool import CollectorPool, PoolSetup
from rl.collecting.plan import CollectorPlan
from rl.collecting.ray.actor import Heartbeat, Message, ObjectRef, RayCollector
from rl.collecting.ray.session import RaySession
from rl.collecting.shared_weights import flat_state
from rl.collecting.worker import forwarded, is_hanging
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.25
"""Seconds between two heartbeats, which is also the longest delay of a message."""
START_WARNING_S: Final = 60.0
"""Seconds without a first heartbeat after which a warning is logged."""


class _RayWorker:
    """The learner's side of one actor."""

    def __init__(self, index: int, actor: Any, in_advance: int) -> None:
        self.index, self.actor = index, actor
        self.drives: deque[ObjectRef] = deque(actor.drive.remote() for _ in range(in_advance))
        self.heartbeat: Heartbeat | None = None
        self._answer: ObjectRef | None = None
        self._sent = self._created = time.monotonic()
        self._start_warning_logged = False

    def exchange(self, message: Message) -> str | None:
        """Send a message and read the last heartbeat, without waiting.

        Returns:
            Why the actor is lost, or None if it is not.
        """
        now = time.monotonic()
        if self._answer is None:
            self._send(message, now)
            return None
        if not ray.wait([self._answer], timeout=0)[0]:
            return self._check_overdue(now)
        try:
            heartbeat: Heartbeat = ray.get(self._answer)
        except RayError as error:
            return one_line_of(error)
        if self.heartbeat is None:
            logger.info("collector %d drives on %s", self.index, heartbeat.host)
        self.heartbeat = heartbeat
        self._send(message, now)
        if is_hanging(heartbeat.idle_s, has_stepped=heartbeat.has_stepped):
            return f"no step for {heartbeat.idle_s:.0f} s"
        return None

    def _send(self, message: Message, now: float) -> None:
        call = self.actor.receive_message.options(concurrency_group="control")
        self._answer, self._sent = call.remote(message), now

    def _check_overdue(self, now: float) -> str | None:
        """Return why an actor that has not answered yet counts as lost, None if it does not."""
        if self.heartbeat is not None:
            waited = now - self._sent
            return f"no answer for {waited:.0f} s" if waited > limits.HANG_S else None
        if now - self._created > START_WARNING_S and not self._start_warning_logged:
            self._start_warning_logged = True
            logger.warning(
                "collector %d has not started: its node is slow, or none has a free CPU", self.index
            )
        return None


class RayPool(CollectorPool[_RayWorker]):
    """Runs collectors in Ray actors.

    Attributes:
        rollouts_by_node: rollouts received from each node, by Ray's id of it.
    """

    def __init__(self, session: RaySession, setup: PoolSetup) -> None:
        """Ask for one actor per plan; each starts where and when there is room.

        Args:
            session: the connection to Ray; closed with the pool.
            setup: what the collectors start with.

        Raises:
            UserError: a map that cannot be loaded.
        """
        super().__init__(setup)
        self._session = session
        # Other machines may lack the files of the maps.
        self._tracks = ray.put(setup.plans[0].tracks())
        self._setup = ray.put(setup.collector)
        self._in_advance = setup.performance.max_rollout_queue_size
        self._actor_class = ray.remote(
            num_cpus=setup.performance.collector_threads,
            max_restarts=0,  # replaced here, with another seed
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            concurrency_groups={"control": 1},
        )(RayCollector)
        self._message = _message(
            setup.online, setup.averaged, setup.weights_version, 0, setup.prior_level
        )
        self._exchanged = 0.0
        self.rollouts_by_node: Counter[str] = Counter()
        self._start_all()

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Put new weights into the object store, from which collectors fetch them."""
        if self._message.averaged is None:
            averaged = None
        message = self._message
        self._message = _message(
            online, averaged, version, message.frames_played, message.prior_level
        )
        self._exchange()

    def close(self) -> None:
        """End all collectors, and the connection to Ray."""
        for worker in self._workers:
            self._end(worker)
        for node, count in self.rollouts_by_node.items():
            logger.info("%d rollouts received from node %s", count, node[:8])
        self._session.close()

    def _start(self, index: int, plan: CollectorPlan) -> _RayWorker:
        actor = self._actor_class.remote(self._setup, plan, self._tracks, self._message)
        return _RayWorker(index, actor, self._in_advance)

    def _end(self, worker: _RayWorker) -> None:
        ray.kill(worker.actor)

    def _check_workers(self, frames_played: int, prior_level: int) -> None:
        self._message = replace(self._message, frames_played=frames_played, prior_level=prior_level)
        if time.monotonic() - self._exchanged > HEARTBEAT_S:
            self._exchange()

    def _next_item(self, timeout_s: float) -> Rollout | Exception | None:
        waiting = {worker.drives[0]: worker for worker in self._workers}
        ready, _ = ray.wait(list(waiting), timeout=max(timeout_s, 0.0))
        if not ready:
            return None
        worker = waiting[ready[0]]
        self._workers.remove(worker)  # moved to the end, so that no collector is served first
        self._workers.append(worker)
        return self._take(worker)

    def _take(self, worker: _RayWorker) -> Rollout | Exception | None:
        """Fetch what a collector has ready; None if it is lost, and the collector with it."""
        try:
            node, payload = ray.get(worker.drives[0], timeout=limits.HANG_S)
        except RayTaskError as error:
            raise forwarded(error) from error
        except RayError as error:
            self._replace(worker, worker.index, one_line_of(error))
            return None
        worker.drives.popleft()
        worker.drives.append(worker.actor.drive.remote())
        item: Rollout | Exception = pickle.loads(payload)
        if isinstance(item, Rollout):
            self.rollouts_by_node[node] += 1
        return item

    def _exchange(self) -> None:
        """Send the newest message to all collectors and replace those that are lost."""
        self._exchanged = time.monotonic()
        for worker in list(self._workers):
            reason = worker.exchange(self._message)
            if reason is not None:
                self._replace(worker, worker.index, reason)


def _message(
    online: IQN, averaged: IQN | None, version: int, frames_played: int, prior_level: int
) -> Message:
    """Put weights into the object store, once for all that read them."""
    return Message(
        version=version,
        frames_played=frames_played,
        prior_level=prior_level,
        online=_put(online),
        averaged=None if averaged is None else _put(averaged),
    )


def _put(network: IQN) -> ObjectRef:
    return ray.put(flat_state(network))
