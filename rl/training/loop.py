"""The training loop: receive rollouts, learn at their pace, evaluate, save, stop.

Each turn is one small step (one update, or one look for rollouts), and what comes next depends on
the run's state alone. So a serial run that is saved and resumed between any two turns goes on as if
nothing had happened.
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from datasets.contract.errors import UserError
from rl.collecting.source import RolloutSource, SerialSource
from rl.envs.rewards import potential, step_rewards
from rl.evaluation.greedy import EvaluationResult, evaluate
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout
from rl.reporting.progress import duration
from rl.reporting.reporter import Reporter
from rl.run.init_from import keep_best
from rl.run.state import Run

logger = logging.getLogger(__name__)

WAIT_S: Final = 0.5
MOST_ROLLBACKS: Final = 5
_SCREENING, _FRESH, _FINAL = 1, 2, 3
"""Kinds of evaluations; each has start seeds of its own."""


@dataclass
class StopSignal:
    """Set by a signal handler; the loop looks at it between two turns."""

    reason: str | None = None


@dataclass(frozen=True)
class Limits:
    """When a run stops by itself; frames and updates count over resumes, minutes do not."""

    deadline: float | None
    """Monotonic time in seconds."""
    max_frames: int | None
    max_grad_steps: int | None
    early_stop_frames: int | None

    def time_is_up(self) -> str | None:
        """The reason to stop if the deadline has passed."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return "time is up" if late else None


class TrainingLoop:
    """Runs a run until a limit is reached or it is told to stop."""

    def __init__(
        self,
        run: Run,
        source: RolloutSource,
        reporter: Reporter,
        limits: Limits,
        stop: StopSignal,
    ) -> None:
        """Prepare; nothing is driven before `run`."""
        self._run, self._source, self._reporter = run, source, reporter
        self._limits, self._stop = limits, stop
        cfg = run.cfg
        now = time.monotonic()
        self._clock = now
        self._save_every_s = 60.0 * cfg.save_every_minutes
        self._next_save = now + self._save_every_s
        every_s = cfg.evaluation.every_s
        self._next_evaluation = now + every_s if every_s is not None else None
        self._rollbacks = 0

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> str:
        """Train.

        Returns:
            Why it stopped.

        Raises:
            UserError: the run diverged for good, or the disk is full.
            CollectorError: collectors failed.
        """
        while True:
            self._count_time()
            reason = self._stop_reason()
            if reason is not None:
                return reason
            if self._is_learning_due():
                self._learn()
            else:
                self._collect()
            self._look_at_the_clock()

    def _count_time(self) -> None:
        now = time.monotonic()
        self._run.statistics.training_seconds += now - self._clock
        self._clock = now

    def _stop_reason(self) -> str | None:
        run, limits = self._run, self._limits
        if self._stop.reason is not None:
            return self._stop.reason
        late = limits.time_is_up()
        if late is not None:
            return late
        if limits.max_grad_steps is not None and run.grad_steps >= limits.max_grad_steps:
            return f"{run.grad_steps:,} updates are done"
        if limits.max_frames is not None and run.frames >= limits.max_frames:
            return f"{run.frames:,} frames are driven"
        if limits.early_stop_frames is not None:
            since = run.frames - run.statistics.frames_of_best
            if since >= limits.early_stop_frames:
                return f"no better time for {since:,} frames"
        return None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the time limit, None without one."""
        deadline = self._limits.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def _look_at_the_clock(self) -> None:
        """Do what is due by time or by frames."""
        run, now = self._run, time.monotonic()
        evaluation = run.cfg.evaluation
        due = self._next_evaluation is not None and now >= self._next_evaluation
        if evaluation.every_frames is not None and run.frames >= run.next_evaluation_frames:
            run.next_evaluation_frames = run.frames + evaluation.every_frames
            due = True
        if due:
            self.evaluate()
            if evaluation.every_s is not None:
                self._next_evaluation = time.monotonic() + evaluation.every_s
        if now >= self._next_save and run.learner.is_sound:
            self.save()
        self._reporter.tick(seconds_left=self.seconds_left)

    def save(self) -> None:
        """Write a checkpoint, always of weights to which a run may go back.

        Raises:
            UserError: the disk is full.
        """
        self._count_time()
        if not self._run.learner.is_sound:  # stopped while batches were being skipped
            self._run.roll_back()
        source = self._source
        self._run.save(source.state_dict() if isinstance(source, SerialSource) else None)
        self._reporter.write_stats()
        self._next_save = time.monotonic() + self._save_every_s

    # -- collecting -----------------------------------------------------------------------------

    def _collect(self) -> None:
        started = time.monotonic()
        rollouts = self._source.receive(self._run.frames, WAIT_S)
        self._reporter.spent("waiting_for_workers", time.monotonic() - started)
        for rollout in rollouts:
            self.take(rollout)

    def take(self, rollout: Rollout, *, own: bool = True) -> None:
        """Count a rollout, and remember it if it is to be learnt from.

        Args:
            rollout: a run.
            own: whether the learner drove it; a pretrained policy's times are not the run's.
        """
        run = self._run
        is_best = run.statistics.count(rollout, own=own)
        if own and rollout.finished:
            if not rollout.is_exploration:
                self._note_first_finish(rollout.weights_version)
            run.offer_time(rollout.track, rollout.race_time_ms)
        run.plateau.look(run.frames, run.statistics.training_seconds)
        schedule = run.cfg.schedules_at(run.frames)
        if schedule.memory_capacity != run.memory.capacity:
            run.memory.resize(schedule.memory_capacity)
        if rollout.fill_buffer:
            self._remember(rollout)
        self._reporter.rollout(rollout, is_best=is_best, replaced=self._source.replaced)

    def _remember(self, rollout: Rollout) -> None:
        run, cfg = self._run, self._run.cfg
        weights = cfg.rewards_at(run.frames)
        floats = rollout.all_floats()
        rewards = step_rewards(rollout.time_ms, rollout.meters, floats, rollout.finished, weights)
        added = run.memory.add(rollout, rewards, run.rng, potential(floats, weights))
        run.statistics.memories_generated += added
        run.pace.add(added, cfg.number_times_single_memory_is_used_before_discard)
        if run.resets.is_due(run.statistics.memories_generated):
            run.learner.reset()
            run.pace.owe(cfg.additional_transition_after_reset)
            logger.info("weights were partially reset at %d frames", run.frames)

    def _note_first_finish(self, weights_version: int) -> None:
        """Note when weights that were trained here, not loaded or random ones, first finish."""
        statistics = self._run.statistics
        if statistics.first_finish_s is None and weights_version > 0:
            statistics.first_finish_s = statistics.training_seconds
            logger.info("first greedy finish after %s", duration(statistics.training_seconds))

    # -- learning -------------------------------------------------------------------------------

    def _is_learning_due(self) -> bool:
        run = self._run
        return run.pace.is_due(
            memory_size=len(run.memory),
            memory_start=run.cfg.schedules_at(run.frames).memory_start,
            uses_per_transition=run.cfg.number_times_single_memory_is_used_before_discard,
        )

    def _learn(self) -> None:
        """One update, or now and then the loss of a test batch instead."""
        run, cfg = self._run, self._run.cfg
        started = time.monotonic()
        schedule = cfg.schedules_at(run.frames)
        is_test = run.rng.random() < cfg.buffer_test_ratio and run.memory.test_size > 0
        batch = run.memory.sample(cfg.batch_size, run.rng, gamma=schedule.gamma, test=is_test)
        if is_test:
            self._reporter.update(run.learner.evaluate(batch), test=True)
            self._reporter.spent("testing", time.monotonic() - started)
            return
        stats = run.learner.step(batch, learning_rate=run.learning_rate, frames=run.frames)
        run.pace.pay(len(batch))
        if not stats.skipped:
            run.memory.update_priorities(batch, stats.td_errors)
        elif run.learner.is_lost:
            self._roll_back()
        if run.grad_steps % cfg.performance.send_shared_network_every_n_batches == 0:
            self._publish()
        self._reporter.update(stats, seconds=time.monotonic() - started)
        self._reporter.spent("training", time.monotonic() - started)

    def _publish(self) -> None:
        learner = self._run.learner
        self._source.publish(learner.online, learner.averaged, version=self._run.grad_steps)

    def _roll_back(self) -> None:
        self._rollbacks += 1
        skipped = self._run.learner.counters.skipped_in_a_row
        self._run.roll_back()  # first, since the run is saved on its way out
        if self._rollbacks > MOST_ROLLBACKS:
            raise UserError(
                f"{self._run.folder.root}: learning diverged {self._rollbacks} times; the last "
                f"good weights are kept, resume them with a smaller lr_schedule"
            )
        logger.warning(
            "%d useless batches in a row: back to the weights of the last checkpoint", skipped
        )
        self._publish()

    # -- evaluating -----------------------------------------------------------------------------

    def evaluate(self, pretrained: IQN | None = None) -> list[EvaluationResult]:
        """Evaluate the current weights and let them challenge the champion.

        Args:
            pretrained: evaluate this network, of the run's architecture, instead. It may become
                champion, but its times are not the run's.
        """
        run, started = self._run, time.monotonic()
        learner, cfg = run.learner, run.cfg.evaluation
        network, name = learner.online, "raw"
        if learner.averaged is not None and run.cfg.averaging.use_for_evaluation:
            network, name = learner.averaged, "averaged"
        if pretrained is not None:
            network, name = pretrained, "pretrained"
        self._reporter.say(f"evaluating at {run.frames:,} frames")
        candidate = IQN(learner.network).to(learner.device)
        candidate.load_state_dict(network.state_dict())
        run.evaluations += 1
        results = self._drive(candidate, _SCREENING, cfg.starts)
        if pretrained is None:
            self._offer(results)

        def fresh(network: IQN) -> list[EvaluationResult]:
            if not cfg.champion:
                return results
            return self._drive(network, _FRESH, cfg.final_starts)

        notes = {"weights": name, "frames": run.frames, "grad_steps": run.grad_steps}
        crowned = run.champion.consider(
            candidate, results, fresh, run.scratch if cfg.champion else None, notes
        )
        self._reporter.evaluation(results, "screening", name, crowned)
        if crowned:
            self._keep_champion()
        self._reporter.spent("testing", time.monotonic() - started)
        return results

    def evaluate_champion(self) -> list[EvaluationResult]:
        """Measure the champion on starts that have chosen nothing; none without a champion."""
        run = self._run
        if run.champion.weights is None:
            return []
        logger.info("measuring the best policy on %d fresh starts", run.cfg.evaluation.final_starts)
        run.scratch.load_state_dict(run.champion.weights)
        run.evaluations += 1
        results = self._drive(run.scratch, _FINAL, run.cfg.evaluation.final_starts)
        self._reporter.evaluation(results, "final", "champion", True)
        return results

    def _keep_champion(self) -> None:
        run = self._run
        keep_best(run)
        seconds = run.statistics.training_seconds
        run.champion.save(run.folder.best, run.folder.name, run.learner.network, seconds)
        logger.info(
            "best evaluation so far, at %s frames: %s", f"{run.frames:,}", run.champion.describe()
        )

    def _drive(self, network: IQN, kind: int, starts: int) -> list[EvaluationResult]:
        run = self._run
        environment = run.cfg.environment
        seed = np.random.SeedSequence([run.cfg.seed, kind, run.evaluations])
        return [
            evaluate(
                network,
                track,
                starts=starts,
                seed=int(seed.generate_state(1)[0]),
                start_noise=environment.start_noise,
                no_progress_ms=environment.cutoff_rollout_if_no_vcp_passed_within_duration_ms,
                max_race_ms=environment.cutoff_rollout_if_race_not_finished_within_duration_ms,
            )
            for track in run.tracks.values()
        ]

    def _offer(self, results: list[EvaluationResult]) -> None:
        """Take the best times of an evaluation into account."""
        run = self._run
        for result in results:
            best = result.best_run
            if best is None:
                continue
            self._note_first_finish(run.grad_steps)
            if not run.cfg.performance.serial:  # a resumed run does not repeat its evaluations
                run.offer_time(result.track, best.race_time_ms)
            if run.statistics.offer(result.track, best.race_time_ms):
                self._reporter.best_run(best)
