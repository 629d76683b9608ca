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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from rl.collecting.collector import CollectorPlan
from rl.collecting.shared_weights import SharedWeights
from rl.collecting.worker import (
    CollectorSetup,
    DrivingCollector,
    GuideSetup,
    Restarts,
    forwarded,
    is_hanging,
)
from rl.config.sections import GuideConfig, PerformanceConfig
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Channel:
    """What the learner and all collector processes share, next to the weights."""

    frames_played: Any
    """Shared integer: observations that the learner has received."""
    stop: Any
    """Shared integer: not 0 once collectors are to end."""


def _run_process(
    setup: CollectorSetup,
    channel: _Channel,
    plan: CollectorPlan,
    connection: Connection,
    beat: Any,
) -> None:
    """Body of a collector process: drive, send rollouts, end with the learner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the learner decides what Ctrl-C means
    torch.set_num_threads(setup.threads)
    threading.Thread(target=_end_with_parent, name="orphan-watch", daemon=True).start()
    try:
        _drive(DrivingCollector(setup, plan), channel, connection, beat)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return  # the learner is gone
    except Exception as error:  # sent whole: the learner raises it
        connection.send_bytes(pickle.dumps(forwarded(error)))


def _end_with_parent() -> None:
    """End this process when the learner is gone, be it still compiling or waiting."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _drive(
    collector: DrivingCollector, channel: _Channel, connection: Connection, beat: Any
) -> None:
    while not channel.stop.value:
        rollouts = collector.step(channel.frames_played.value)
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
            return is_hanging(now - self.started, has_stepped=False)
        return is_hanging(now - abs(last), has_stepped=True) and (last > 0.0 or queue_is_empty)


class CollectorPool:
    """Runs collectors in processes and receives their rollouts."""

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
        guide_setup = None
        if guide is not None and guide_config is not None:
            weights = SharedWeights(guide, self._context)
            guide_setup = GuideSetup(guide_config, guide.config, weights, typical_race_ms)
        self._online = SharedWeights(online, self._context, weights_version)
        self._averaged: SharedWeights | None = None
        if averaged is not None:
            self._averaged = SharedWeights(averaged, self._context, weights_version)
        self._setup = CollectorSetup(
            network=online.config,
            online=self._online,
            averaged=self._averaged,
            guide=guide_setup,
            look_every_actions=performance.update_inference_network_every_n_actions,
            threads=performance.collector_threads,
        )
        self._channel = _Channel(self._context.RawValue("q", 0), self._context.RawValue("b", 0))
        size = performance.max_rollout_queue_size * len(plans)
        self._queue: queue.Queue[Rollout | Exception | _Worker] = queue.Queue(size)
        self._closing = threading.Event()
        self._restarts = Restarts(plans)
        self._workers = [self._start(index, plan) for index, plan in enumerate(plans)]

    @property
    def replaced(self) -> int:
        """Collectors that died or hung and were started again."""
        return self._restarts.replaced

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Let collectors drive with new weights."""
        if self._averaged is not None and averaged is not None:
            self._averaged.publish(averaged, version)
        self._online.publish(online, version)

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
        self._channel.frames_played.value = frames_played
        self._replace_hanging()
        try:
            item = self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return []
        if isinstance(item, Rollout):
            self._restarts.note_rollout()
            return [item]
        if isinstance(item, _Worker):
            self._replace(item)
            return []
        raise item

    def close(self) -> None:
        """End all processes; those that do not listen are killed."""
        self._closing.set()
        self._channel.stop.value = 1
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
            args=(self._setup, self._channel, plan, sender, beat),
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
        reason = f"exit code {worker.process.exitcode}"
        plan = self._restarts.next_plan(worker.index, reason)
        self._workers[worker.index] = self._start(worker.index, plan)

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
