"""Periodic evaluations in a process of their own: it drives while the learner goes on.

One evaluation at a time. The process gets a snapshot of the weights and the champion so far, and
sends back the results and the champion after them; it holds nothing that a later evaluation needs,
so one that dies is replaced and given the same snapshot again. Messages are pickled whole: the
tensors of `Connection.send` lie in files that the sender must still hold.
"""

import logging
import multiprocessing
import pickle
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import torch
from torch import Tensor

from datasets.contract.child_process import follow_parent, sigint_ignored
from datasets.contract.errors import one_line_of
from rl.config.sections import EnvironmentConfig, EvaluationConfig
from rl.envs.cars import RaceMap
from rl.envs.factory import RaceFactory
from rl.evaluation.champion import Champion
from rl.evaluation.evaluator import Evaluation, Evaluator
from rl.network.prior import build_driver

logger = logging.getLogger(__name__)

MOST_DEATHS: Final = 3
"""Deaths during one evaluation after which it is given up; the next one is tried again."""
SILENT_S: Final = 1800.0
"""Seconds without an answer after which the process counts as hanging."""


@dataclass(frozen=True)
class EvaluatorSetup:
    """What an `Evaluator` is built from, as plain data for another process.

    Attributes:
        tracks: maps by short name.
        description: of the policies (`rl.network.prior.describe`).
        evaluation: number of starts, and how the champion is chosen.
        environment: cut-offs and variation of the starts.
        races: builds the cars.
        seed: of the run.
        device: of the networks.
        threads: CPU threads.
    """

    tracks: dict[str, RaceMap]
    description: dict[str, Any]
    evaluation: EvaluationConfig
    environment: EnvironmentConfig
    races: RaceFactory
    seed: int
    device: str
    threads: int

    def build(self, champion: Champion) -> Evaluator:
        """Build the evaluator of `champion`."""
        driver = build_driver(self.description).to(self.device)
        return Evaluator(
            champion,
            self.tracks,
            driver,
            self.evaluation,
            self.environment,
            self.races,
            seed=self.seed,
        )


@dataclass(frozen=True)
class EvaluationTask:
    """One evaluation to be done.

    Attributes:
        policy: state dict of the policy on the CPU, of the setup's form.
        weights: its name in logs.
        number: of this evaluation within the run, which selects the starts.
        notes: plain values to keep with a new champion.
        champion: state of the champion so far.
    """

    policy: dict[str, Tensor]
    weights: str
    number: int
    notes: Mapping[str, Any]
    champion: dict[str, Any]


@dataclass(frozen=True)
class EvaluationReply:
    """What a finished task yields.

    Attributes:
        evaluation: its results.
        champion: state of the champion afterwards.
        cpu_s: CPU seconds that it took.
    """

    evaluation: Evaluation
    champion: dict[str, Any]
    cpu_s: float


@dataclass(frozen=True)
class EvaluationFailure:
    """Why the process ends: an exception in one line."""

    reason: str


class EvaluationProcess:
    """Evaluates one policy at a time beside the learner."""

    def __init__(self, setup: EvaluatorSetup) -> None:
        """Start the process; it needs some seconds until it can evaluate.

        Args:
            setup: of its evaluator.
        """
        self._setup = setup
        self._context = multiprocessing.get_context("spawn")
        self._task: EvaluationTask | None = None
        self._deaths = 0
        self._start_process()

    @property
    def busy(self) -> bool:
        """Whether an evaluation has begun that `poll` has not yet returned."""
        return self._task is not None

    def start(self, task: EvaluationTask) -> None:
        """Begin an evaluation.

        Args:
            task: what to evaluate.

        Raises:
            ValueError: one is under way.
        """
        if self.busy:
            raise ValueError("an evaluation is under way")
        self._task, self._deaths = task, 0
        self._last_answer = time.monotonic()
        if self._ready:
            self._send_task()

    def poll(self, timeout_s: float = 0.0) -> EvaluationReply | None:
        """Return the result of the evaluation that was begun, once it is there.

        A process that died is replaced and evaluates again; after `MOST_DEATHS` the evaluation is
        given up, and `busy` is false.

        Args:
            timeout_s: longest wait in s.
        """
        if not self.busy:
            return None
        try:
            if not self._connection.poll(timeout_s):
                if time.monotonic() - self._last_answer > SILENT_S:
                    self._replace(f"no answer for {SILENT_S:.0f} s")
                return None
            answer = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._replace("its pipe ended")
            return None
        if isinstance(answer, EvaluationFailure):
            self._replace(answer.reason)
            return None
        self._last_answer = time.monotonic()
        self._ready = True
        if isinstance(answer, EvaluationReply):
            self._task = None
            return answer
        self._send_task()  # it has just started
        return None

    def close(self) -> None:
        """End the process; an evaluation under way is lost."""
        self._connection.close()
        if self._process.pid is None:  # it could not be started
            return
        self._process.join(0.2)  # an idle one ends by itself
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _start_process(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_run_process, args=(self._setup, theirs), name="evaluation", daemon=True
        )
        with sigint_ignored():
            self._process.start()
        theirs.close()  # so that the pipe ends when the process does
        self._ready, self._last_answer = False, time.monotonic()

    def _send_task(self) -> None:
        """Send the task to a process that waits for one."""
        self._ready = False
        try:
            self._connection.send_bytes(pickle.dumps(self._task))
        except OSError:
            self._replace("its pipe ended")

    def _replace(self, reason: str) -> None:
        self.close()
        self._deaths += 1
        logger.warning(
            "the evaluation process died (%s, exit code %s); starting another",
            reason,
            self._process.exitcode,
        )
        if self._deaths >= MOST_DEATHS:
            logger.warning("evaluation given up after %d deaths of its process", self._deaths)
            self._task = None
        self._start_process()


def _run_process(setup: EvaluatorSetup, connection: Connection) -> None:
    """Evaluate what comes until the pipe ends: the body of the process."""
    follow_parent()
    torch.set_num_threads(setup.threads)
    champion = Champion()
    evaluator = setup.build(champion)
    policy = build_driver(setup.description).to(setup.device)
    try:
        connection.send_bytes(pickle.dumps("ready"))
        while True:
            task: EvaluationTask = pickle.loads(connection.recv_bytes())
            started = time.process_time()
            champion.load_state_dict(task.champion)
            policy.load_state_dict(task.policy)
            evaluation = evaluator.challenge(
                policy, task.weights, number=task.number, notes=task.notes
            )
            cpu_s = time.process_time() - started
            reply = EvaluationReply(evaluation, champion.state_dict(), cpu_s)
            connection.send_bytes(pickle.dumps(reply))
    except EOFError:
        return  # the learner has closed the pipe, or is gone
    except Exception as error:
        with suppress(OSError):
            connection.send_bytes(pickle.dumps(EvaluationFailure(one_line_of(error))))
