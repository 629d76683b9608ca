"""Collectors in processes of their own.

Each process has its own pipe, so a process that is killed in the middle of a message holds no lock
that others need: its partial message is dropped and it is replaced. A full queue blocks the reader
thread, the pipe, and then the collector: that is the back-pressure. No process outlives the
learner.
"""

import logging
import multiprocessing
import pickle
import queue
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from datasets.contract.child_process import follow_parent, sigint_ignored
from rl.collecting.base_pool import CollectorPool, PoolSetup
from rl.collecting.plan import CollectorPlan
from rl.collecting.shared_weights import SharedWeights
from rl.collecting.worker import (
    CollectorSetup,
    DrivingCollector,
    WeightsReaders,
    forwarded,
    is_hanging,
)
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Channel:
    """Memory that the learner and all collector processes share."""

    weights: WeightsReaders
    frames_played: Any
    """Shared integer: observations that the learner has received."""
    prior_level: Any
    """Shared integer: place on the ladder of the prior's weight."""
    stop: Any
    """Shared integer: not 0 once collectors are to end."""


def _run_process(
    setup: CollectorSetup,
    channel: _Channel,
    plan: CollectorPlan,
    connection: Connection,
    beat: Any,
) -> None:
    """Drive, send rollouts and end with the learner: the body of a collector process."""
    follow_parent()
    torch.set_num_threads(setup.threads)
    try:
        level = channel.prior_level.value

        alive = partial(note_sign_of_life, beat)
        collector = DrivingCollector(setup, plan, channel.weights, prior_level=level, alive=alive)
        with closing(collector):
            _drive(collector, channel, connection, beat)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return  # the learner is gone
    except Exception as error:  # sent whole: the learner raises it
        connection.send_bytes(pickle.dumps(forwarded(error)))


def _drive(
    collector: DrivingCollector, channel: _Channel, connection: Connection, beat: Any
) -> None:
    while not channel.stop.value:
        # Frames first: a level read after them is that of these frames, or newer.
        frames_played = channel.frames_played.value
        rollouts = collector.step(frames_played, channel.prior_level.value)
        for rollout in rollouts:
            beat.value = -time.monotonic()  # negative: waiting for the learner is not hanging
            connection.send_bytes(pickle.dumps(rollout, protocol=pickle.HIGHEST_PROTOCOL))
        note_sign_of_life(beat)


def note_sign_of_life(beat: Any) -> None:
    """Write the time of now into the number that `_ProcessWorker.hangs` reads."""
    beat.value = time.monotonic()


class _ProcessWorker:
    """A collector process, the reading end of its pipe, and the time of its last step.

    `beat` is a shared number: the monotonic time in s of the last step, which all processes of a
    machine share, negated while the process waits for room in its pipe, 0 before the first step.
    """

    def __init__(self, index: int, process: BaseProcess, connection: Connection, beat: Any):
        self.index = index
        self.process = process
        self.connection = connection
        self.beat = beat
        self.started = time.monotonic()
        self.reader: threading.Thread | None = None

    def hangs(self, now: float, queue_is_empty: bool) -> bool:
        """Return whether the process makes no progress and is not waiting for the learner."""
        last = float(self.beat.value)
        if last == 0.0:
            return is_hanging(now - self.started, has_stepped=False)
        return is_hanging(now - abs(last), has_stepped=True) and (last > 0.0 or queue_is_empty)


class ProcessPool(CollectorPool[_ProcessWorker]):
    """Runs collectors in processes of this machine."""

    def __init__(self, setup: PoolSetup) -> None:
        """Start one process per plan."""
        super().__init__(setup)
        self._context = multiprocessing.get_context("spawn")
        version = setup.weights_version
        self._online = SharedWeights(setup.online, self._context, version)
        self._averaged: SharedWeights | None = None
        if setup.averaged is not None:
            self._averaged = SharedWeights(setup.averaged, self._context, version)
        self._setup = setup.collector
        self._channel = _Channel(
            WeightsReaders(self._online, self._averaged),
            self._context.RawValue("q", 0),
            self._context.RawValue("q", setup.prior_level),
            self._context.RawValue("b", 0),
        )
        size = setup.performance.max_rollout_queue_size * len(setup.plans)
        self._queue: queue.Queue[Rollout | Exception | _ProcessWorker] = queue.Queue(size)
        self._closing = threading.Event()
        self._start_all()

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Write new weights into the memory that all collectors read."""
        if self._averaged is not None and averaged is not None:
            self._averaged.publish(averaged, version)
        self._online.publish(online, version)

    def close(self) -> None:
        """End all processes; those that do not stop by themselves are killed."""
        self._closing.set()
        self._channel.stop.value = 1
        deadline = time.monotonic() + 3.0
        for worker in self._workers:
            worker.process.join(max(deadline - time.monotonic(), 0.05))
        for worker in self._workers:
            self._end(worker)

    def _start(self, index: int, plan: CollectorPlan) -> _ProcessWorker:
        receiver, sender = self._context.Pipe(duplex=False)
        beat = self._context.RawValue("d", 0.0)
        process = self._context.Process(
            target=_run_process,
            args=(self._setup, self._channel, plan, sender, beat),
            name=f"collector-{index}",
            daemon=True,
        )
        with sigint_ignored():
            process.start()
        sender.close()  # so that the pipe ends when the process does
        worker = _ProcessWorker(index, process, receiver, beat)
        worker.reader = threading.Thread(
            target=self._read, args=(worker,), name=f"reader-{index}", daemon=True
        )
        worker.reader.start()
        return worker

    def _read(self, worker: _ProcessWorker) -> None:
        """Move items from the worker's pipe into the queue: the body of a reader thread."""
        item: Rollout | Exception | _ProcessWorker
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

    def _check_workers(self, frames_played: int, prior_level: int) -> None:
        self._channel.prior_level.value = prior_level
        self._channel.frames_played.value = frames_played
        now = time.monotonic()
        for worker in self._workers:
            if worker.hangs(now, self._queue.empty()):
                logger.warning("collector %d hangs; ending it", worker.index)
                worker.process.kill()  # its reader then reports the closed pipe
                worker.beat.value = now

    def _next_item(self, timeout_s: float) -> Rollout | Exception | None:
        try:
            item = self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, _ProcessWorker):  # its pipe has ended
            item.process.join(1.0)  # so that there is an exit code
            self._replace(item, item.index, f"exit code {item.process.exitcode}")
            return None
        return item

    def _end(self, worker: _ProcessWorker) -> None:
        if worker.process.is_alive():
            worker.process.terminate()
            worker.process.join(1.0)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join(5.0)
        if worker.reader is not None:
            worker.reader.join(5.0)
        worker.connection.close()
