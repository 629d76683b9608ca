"""When a run is evaluated, where, and what follows: times, log rows, and the champion.

In serial mode and for the first and last evaluation the learner waits. Else a process of its own
evaluates a snapshot of the weights while the learner goes on, one evaluation at a time, and its
results are logged at the observations of the snapshot.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rl.collecting.shared_weights import from_flat
from rl.evaluation.best_runs import run_of_rollout
from rl.evaluation.evaluation_process import (
    EvaluationProcess,
    EvaluationReply,
    EvaluationTask,
)
from rl.evaluation.evaluator import Evaluation, Evaluator
from rl.evaluation.greedy import EvaluationResult
from rl.network.prior import Driver, PriorPolicy, copy_of
from rl.replay.rollout import Rollout
from rl.reporting.progress import duration
from rl.reporting.reporter import Reporter
from rl.run.outputs import keep_best_run, save_champion
from rl.run.save_and_resume import RunSaver
from rl.run.state import Moment, Run
from rl.training.limits import StopSignal

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.2
"""Longest wait in one turn for the results at the end of a run."""


def note_first_finish(run: Run, weights_version: int) -> None:
    """Record the time of the first greedy finish of weights that were trained in this run.

    Args:
        run: whose statistics get it.
        weights_version: updates that the weights have had.
    """
    statistics = run.statistics
    if statistics.first_finish_s is None and weights_version > 0:
        statistics.first_finish_s = statistics.training_seconds
        logger.info("first greedy finish after %s", duration(statistics.training_seconds))


def offer_to_plateau_breaker(run: Run, track: str, race_time_ms: int) -> None:
    """Let the plateau breaker know of a comparable time."""
    seconds = run.statistics.training_seconds
    run.plateau.offer(track, race_time_ms, frames=run.frames, seconds=seconds)


@dataclass(frozen=True)
class _Begun:
    """The run as it was when an evaluation beside training began."""

    moment: Moment
    checkpoint: dict[str, Any]
    """Parts of the checkpoint to write if the policy becomes champion."""


def _result_of(rollout: Rollout) -> EvaluationResult:
    """Return a run from the exact start as the result of an evaluation."""
    exact = run_of_rollout(rollout) if rollout.finished else None
    times = np.array([rollout.race_time_ms], dtype=np.int64)
    return EvaluationResult(rollout.track, times, np.array([rollout.finished]), None, exact)


class Evaluations:
    """Evaluates a run's weights at intervals and acts on the results."""

    def __init__(
        self,
        run: Run,
        evaluator: Evaluator,
        beside: EvaluationProcess | None,
        saver: RunSaver,
        reporter: Reporter,
    ) -> None:
        """Schedule the first evaluation: at once if a resumed run lost one, else after an interval.

        Args:
            run: whose weights are evaluated.
            evaluator: evaluates while the learner waits.
            beside: evaluates beside the learner; None lets it wait each time.
            saver: writes the champion's checkpoint.
            reporter: logs the results.
        """
        self._run, self._evaluator, self._beside = run, evaluator, beside
        self._saver, self._reporter = saver, reporter
        self._begun: _Begun | None = None
        every_s = run.cfg.evaluation.every_s
        wait_s = 0.0 if run.evaluation_pending else every_s
        self._next = None if wait_s is None else time.monotonic() + wait_s

    def turn(self) -> None:
        """Begin an evaluation if one is due, and act on the results that are there."""
        if self._beside is not None:
            self._take(self._beside)
        if self._is_due() and not (self._beside is not None and self._beside.busy):
            if self._beside is None:
                self.evaluate()
            else:
                self._begin(self._beside)
            self._schedule()

    def wait(self, stop: StopSignal) -> None:
        """Wait for the evaluation that is under way.

        Args:
            stop: leaves it; a resumed run then repeats it.
        """
        if self._beside is None or not self._beside.busy:
            return
        self._reporter.say("waiting for the evaluation under way")
        while self._beside.busy and stop.reason is None:
            self._take(self._beside, timeout_s=_POLL_S)

    def evaluate(self, pretrained: Driver | None = None) -> None:
        """Evaluate the current weights here; they become the champion if they are better.

        Args:
            pretrained: evaluate this policy, of the form of the run's, instead. It may become
                champion, but its times are not the run's.
        """
        run, started = self._run, time.monotonic()
        self._reporter.say(f"evaluating at {run.frames:,} frames")
        if pretrained is None:
            driver, weights = self._candidate()
        else:
            driver, weights = pretrained, "pretrained"
        run.evaluations += 1
        moment = run.moment()
        evaluation = self._evaluator.challenge(
            driver, weights, number=run.evaluations, notes=moment.notes()
        )
        run.evaluation_pending = False
        self._use(evaluation, moment, own=pretrained is None)
        self._reporter.spent("testing", time.monotonic() - started)

    def offer(self, rollout: Rollout) -> None:
        """Let the policy that drove a greedy run of a collector become champion.

        Args:
            rollout: an evaluation of the weights that it holds.
        """
        assert rollout.weights is not None
        run = self._run
        driver = copy_of(run.driver(run.learner.online))
        network = driver.network if isinstance(driver, PriorPolicy) else driver
        from_flat(rollout.weights, network)
        if isinstance(driver, PriorPolicy) and rollout.prior is not None:
            driver.weight.fill_(rollout.prior.weight)
        moment = run.moment()
        evaluation = self._evaluator.consider_run(
            driver, _result_of(rollout), "collector", notes=moment.notes()
        )
        self._use(evaluation, moment, own=False)

    def evaluate_champion(self) -> list[EvaluationResult]:
        """Measure the champion on starts that have chosen nothing; empty without a champion."""
        run = self._run
        if run.champion.weights is None:
            return []
        run.evaluations += 1
        evaluation = self._evaluator.measure_champion(number=run.evaluations)
        self._reporter.evaluation(evaluation, run.moment())
        return evaluation.results

    def _candidate(self) -> tuple[Driver, str]:
        """Return what drives with the weights that are evaluated, and their name."""
        run = self._run
        use_averaged = run.cfg.averaging.use_for_evaluation
        network, weights = run.learner.network_to_evaluate(use_averaged=use_averaged)
        return run.driver(network), weights

    # -- when -----------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        """Return whether an evaluation is due, by time or by frames."""
        return (self._next is not None and time.monotonic() >= self._next) or self._due_by_frames()

    def _due_by_frames(self) -> bool:
        run = self._run
        by_frames = run.cfg.evaluation.every_frames is not None
        return by_frames and run.frames >= run.next_evaluation_frames

    def _schedule(self) -> None:
        """Set when the next evaluation is due, after one that has ended or begun just now."""
        run, evaluation = self._run, self._run.cfg.evaluation
        every_s = evaluation.every_s
        self._next = None if every_s is None else time.monotonic() + every_s
        if evaluation.every_frames is not None and self._due_by_frames():
            run.next_evaluation_frames = run.frames + evaluation.every_frames

    # -- beside training ------------------------------------------------------------------------

    def _begin(self, beside: EvaluationProcess) -> None:
        """Hand a snapshot to the process."""
        run = self._run
        driver, weights = self._candidate()
        run.evaluations += 1
        run.evaluation_pending = True
        moment = run.moment()
        self._begun = _Begun(moment, self._saver.champion_parts(run))
        beside.start(
            EvaluationTask(
                policy={n: t.detach().cpu().clone() for n, t in driver.state_dict().items()},
                weights=weights,
                number=run.evaluations,
                notes=moment.notes(),
                champion=run.champion.state_dict(),
            )
        )

    def _take(self, beside: EvaluationProcess, timeout_s: float = 0.0) -> None:
        """Act on the results of the process, if they are there."""
        reply: EvaluationReply | None = beside.poll(timeout_s)
        if reply is None or self._begun is None:
            return
        begun, self._begun = self._begun, None
        run = self._run
        run.evaluation_pending = False
        run.statistics.cpu_seconds += reply.cpu_s
        run.champion.load_state_dict(reply.champion)
        self._use(reply.evaluation, begun.moment, own=True, checkpoint=begun.checkpoint)

    # -- what follows ---------------------------------------------------------------------------

    def _use(
        self,
        evaluation: Evaluation,
        moment: Moment,
        *,
        own: bool,
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        """Count its times, log it, and keep the champion if it is a new one.

        Args:
            evaluation: its results.
            moment: when it began.
            own: whether the times are the learner's.
            checkpoint: `champion_parts` of that moment; None: the run is still as it was.
        """
        if own:
            self._count_times(evaluation, moment)
        self._reporter.evaluation(evaluation, moment)
        if evaluation.is_champion:
            self._keep_champion(moment, checkpoint or self._saver.champion_parts(self._run))

    def _count_times(self, evaluation: Evaluation, moment: Moment) -> None:
        """Take an evaluation's times from the exact start into account."""
        run = self._run
        for result in evaluation.results:
            if result.finished.any():
                note_first_finish(run, moment.grad_steps)
            best = result.exact_run
            if best is None:
                continue
            if not run.cfg.performance.serial:  # a resumed run does not repeat its evaluations
                offer_to_plateau_breaker(run, result.track, best.race_time_ms)
            if run.statistics.offer(result.track, best.race_time_ms):
                keep_best_run(self._saver.folder, run, best)
                self._reporter.write_stats()

    def _keep_champion(self, moment: Moment, checkpoint: dict[str, Any]) -> None:
        run = self._run
        self._saver.save_best(run, checkpoint)
        save_champion(self._saver.folder, run)
        logger.info(
            "best evaluation so far, at %s frames: %s",
            f"{moment.frames:,}",
            run.champion.describe(),
        )
