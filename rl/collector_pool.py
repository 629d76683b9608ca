"""Collectors in processes of their own.

Each process has its own pipe, so that one that is killed in the middle of a message can hold no
lock that others need: its half message is dropped and it is replaced. A full queue blocks the
reader thread, the pipe, and with it the collector: that is the back-pressure. No process outlives
the learner.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

import numpy as np
import torch

from datasets.contract.errors import UserError
from rl.collector import Collector, CollectorPlan
from rl.config_run import GuideConfig, PerformanceConfig
from rl.guide import Guide
from rl.network.config import NetworkConfig
from rl.network.iqn import IQN
from rl.policy import Policy
from rl.rollout import Rollout
from rl.weights import SharedWeights

logger = logging.getLogger(__name__)

HANG_S: Final = 120.0
"""Seconds without a step after which a collector counts as hanging."""
START_S: Final = 900.0
"""Seconds until the first step: the first start on a machine compiles the simulator."""
DEATHS_IN_A_ROW: Final = 5
"""Deaths of collectors without a rollout between them after which the run gives up."""


class CollectorError(RuntimeError):
    """A collector failed in a way that a replacement would repeat."""


@dataclass(frozen=True)
class GuideSetup:
    """What a process needs to build the guide driver."""

    config: GuideConfig
    network: NetworkConfig
    weights: SharedWeights
    typical_race_ms: int


@dataclass(frozen=True)
class CollectorSetup:
    """What a collector process is given at its start."""

    network: NetworkConfig
    online: SharedWeights
    averaged: SharedWeights | None
    guide: GuideSetup | None
    frames_played: Any
    """Shared integer: observations that the learner has received."""
    stop: Any
    """Shared integer: not 0 once collectors are to end."""
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


def _run_process(
    setup: CollectorSetup, plan: CollectorPlan, connection: Connection, beat: Any
) -> None:
    """Body of a collector process: drive, send rollouts, end with the learner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the learner decides what Ctrl-C means
    torch.set_num_threads(setup.threads)
    threading.Thread(target=_end_with_parent, name="orphan-watch", daemon=True).start()
    try:
        _drive(setup, plan, connection, beat)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return  # the learner is gone
    except UserError as error:
        connection.send_bytes(pickle.dumps(error))
    except Exception as error:  # forwarded whole: the learner raises it
        logger.exception("collector failed")
        text = f"a collector failed: {type(error).__name__}: {error}"
        connection.send_bytes(pickle.dumps(CollectorError(text)))


def _end_with_parent() -> None:
    """End this process when the learner is gone, be it still compiling or waiting."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _drive(setup: CollectorSetup, plan: CollectorPlan, connection: Connection, beat: Any) -> None:
    parent = multiprocessing.parent_process()
    collector = setup.build(plan)
    actions = 0
    while not setup.stop.value and (parent is None or parent.is_alive()):
        if actions % setup.look_every_actions == 0:
            setup.refresh(collector)
        rollouts = collector.step(setup.frames_played.value)
        actions += 1
        for rollout in rollouts:
            beat.value = -time.time()  # negative: waiting for the learner is not hanging
            connection.send_bytes(pickle.dumps(rollout, protocol=pickle.HIGHEST_PROTOCOL))
        beat.value = time.time()


class _Worker:
    """A collector process, its pipe's end, and when it last gave a sign of life."""

    def __init__(self, index: int, process: BaseProcess, connection: Connection, beat: Any):
        self.index = index
        self.process = process
        self.connection = connection
        self.beat = beat
        self.started = time.time()
        self.reader: threading.Thread | None = None

    def hangs(self, now: float, queue_is_empty: bool) -> bool:
        last = float(self.beat.value)
        if last == 0.0:
            return now - self.started > START_S
        return now - abs(last) > HANG_S and (last > 0.0 or queue_is_empty)


class CollectorPool:
    """Runs collectors in processes and receives their rollouts.

    Attributes:
        replaced: collectors that died or hung and were started again.
    """

    def __init__(
        self,
        plans: list[CollectorPlan],
        performance: PerformanceConfig,
        online: IQN,
        averaged: IQN | None = None,
        guide: IQN | None = None,
        guide_config: GuideConfig | None = None,
        typical_race_ms: int = 0,
        weights_version: int = 0,
    ) -> None:
        """Start one process per plan.

        Args:
            plans: one for each collector.
            performance: threads, queue size and how often weights are looked for.
            online: whose weights the collectors start with.
            averaged: drives a share of the cars, None without averaging.
            guide: the guide driver's network, None without a guide.
            guide_config: needed with a guide.
            typical_race_ms: longest drive of the guide where its configuration names none.
            weights_version: of the networks' weights.
        """
        self._context = multiprocessing.get_context("spawn")
        self._plans = plans
        guide_setup = None
        if guide is not None and guide_config is not None:
            weights = SharedWeights(guide, self._context)
            guide_setup = GuideSetup(guide_config, guide.config, weights, typical_race_ms)
        self._setup = CollectorSetup(
            network=online.config,
            online=SharedWeights(online, self._context, weights_version),
            averaged=(
                None
                if averaged is None
                else SharedWeights(averaged, self._context, weights_version)
            ),
            guide=guide_setup,
            frames_played=self._context.RawValue("q", 0),
            stop=self._context.RawValue("b", 0),
            look_every_actions=performance.update_inference_network_every_n_actions,
            threads=performance.collector_threads,
        )
        size = performance.max_rollout_queue_size * len(plans)
        self._queue: queue.Queue[Rollout | Exception | _Worker] = queue.Queue(size)
        self._closing = threading.Event()
        self._deaths = 0
        self.replaced = 0
        self._workers = [self._start(index, plan) for index, plan in enumerate(plans)]

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Let collectors drive with new weights."""
        if self._setup.averaged is not None and averaged is not None:
            self._setup.averaged.publish(averaged, version)
        self._setup.online.publish(online, version)

    def receive(self, frames_played: int, timeout_s: float) -> list[Rollout]:
        """The next rollout; none if none came in time.

        Args:
            frames_played: observations received so far, for the collectors' schedules.
            timeout_s: longest wait.

        Raises:
            CollectorError: a collector failed, or they die again and again.
            UserError: a collector was given something unusable.
        """
        self._setup.frames_played.value = frames_played
        self._replace_hanging()
        try:
            item = self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return []
        if isinstance(item, Rollout):
            self._deaths = 0
            return [item]
        if isinstance(item, _Worker):
            self._replace(item)
            return []
        raise item

    def close(self) -> None:
        """End all processes; those that do not listen are killed."""
        self._closing.set()
        self._setup.stop.value = 1
        deadline = time.monotonic() + 3.0
        for worker in self._workers:
            worker.process.join(max(deadline - time.monotonic(), 0.05))
        for worker in self._workers:
            _end(worker)

    def _start(self, index: int, plan: CollectorPlan) -> _Worker:
        receiver, sender = self._context.Pipe(duplex=False)
        beat = self._context.RawValue("d", 0.0)
        process = self._context.Process(
            target=_run_process,
            args=(self._setup, plan, sender, beat),
            name=f"collector-{index}",
            daemon=True,
        )
        with _interrupts_ignored():
            process.start()
        sender.close()  # so that the pipe ends when the process does
        worker = _Worker(index, process, receiver, beat)
        worker.reader = threading.Thread(
            target=self._read, args=(worker,), name=f"reader-{index}", daemon=True
        )
        worker.reader.start()
        return worker

    def _read(self, worker: _Worker) -> None:
        """Body of a reader thread: from the worker's pipe into the queue."""
        item: Rollout | Exception | _Worker
        while True:
            try:
                item = pickle.loads(worker.connection.recv_bytes())
            except (EOFError, OSError, pickle.UnpicklingError):
                item = worker
            while not self._closing.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if item is worker:
                return

    def _replace(self, worker: _Worker) -> None:
        if self._closing.is_set() or worker not in self._workers:
            return
        _end(worker)
        self.replaced += 1
        self._deaths += 1
        code = worker.process.exitcode
        if self._deaths > DEATHS_IN_A_ROW:
            raise CollectorError(
                f"collectors died {self._deaths} times without driving a run (last exit code "
                f"{code}); is there enough memory? performance.cars_per_collector lowers the need"
            )
        logger.warning("collector %d died (exit code %s); starting another", worker.index, code)
        plan = self._plans[worker.index]
        seed = int(np.random.SeedSequence([plan.seed, self.replaced]).generate_state(1)[0])
        self._workers[worker.index] = self._start(worker.index, replace(plan, seed=seed))

    def _replace_hanging(self) -> None:
        now = time.time()
        for worker in list(self._workers):
            if worker.hangs(now, self._queue.empty()):
                logger.warning("collector %d hangs; ending it", worker.index)
                worker.process.kill()  # its reader then reports the closed pipe
                worker.beat.value = now


def _end(worker: _Worker) -> None:
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join(1.0)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join(5.0)
    if worker.reader is not None:
        worker.reader.join(5.0)
    worker.connection.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let a child be born deaf to Ctrl-C, which would otherwise interrupt its imports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
