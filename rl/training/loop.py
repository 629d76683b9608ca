"""The training loop: collect, learn, evaluate, save, until the run is to stop.

Each turn is one small step (one update, or one call for rollouts), and which of the two it is
depends on the run's state alone. So a serial run that is saved and resumed between any two turns
goes on as if nothing had happened.
"""

import logging
import time
from typing import Final

from datasets.contract.errors import UserError
from rl.collecting.source import RolloutSource
from rl.envs.rewards import potential, step_rewards
from rl.learning.ladder import LadderRun
from rl.replay.rollout import Rollout
from rl.reporting.reporter import Reporter
from rl.run.outputs import keep_rollout
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.evaluations import (
    Evaluations,
    note_first_finish,
    offer_to_plateau_breaker,
)
from rl.training.limits import RunLimits, StopSignal

logger = logging.getLogger(__name__)

WAIT_S: Final = 0.5
"""Longest wait for a rollout in one turn."""
MOST_ROLLBACKS: Final = 5


def store_rollout(run: Run, rollout: Rollout) -> None:
    """Add a rollout's transitions to the memory, and the updates due for them.

    Args:
        run: its memory gets the observations, with the rewards and potentials of its frames.
        rollout: a run of L actions.
    """
    cfg, weights = run.cfg, run.cfg.rewards_at(run.frames)
    floats = rollout.all_floats()
    rewards = step_rewards(rollout.time_ms, rollout.meters, floats, rollout.finished, weights)
    if run.memory.has_images and "vis" not in run.learner.frozen:
        run.memory.forget_images()
    added = run.memory.add(rollout, rewards, run.rng, potential(floats, weights))
    run.statistics.memories_generated += added
    run.pace.add(added, cfg.number_times_single_memory_is_used_before_discard)
    if run.resets.is_due(run.statistics.memories_generated):
        run.learner.reset()
        run.pace.add_uses_due(cfg.additional_transition_after_reset)
        logger.info("weights were partially reset at %d frames", run.frames)


class TrainingLoop:
    """Trains a run until a limit is reached or a signal asks to stop."""

    def __init__(
        self,
        run: Run,
        source: RolloutSource,
        evaluations: Evaluations,
        saver: RunSaver,
        reporter: Reporter,
        limits: RunLimits,
        stop: StopSignal,
    ) -> None:
        """Prepare; nothing is driven before `train`.

        Args:
            run: the state that is trained.
            source: its collectors.
            evaluations: of its weights.
            saver: writes checkpoints.
            reporter: logs; it changes nothing.
            limits: when to stop.
            stop: asks to stop earlier.
        """
        self._run, self._source, self._evaluations = run, source, evaluations
        self._saver, self._reporter = saver, reporter
        self._limits, self._stop = limits, stop
        now = time.monotonic()
        self._counted_until, self._cpu_counted = now, time.process_time()
        self._save_every_s = 60.0 * run.cfg.save_every_minutes
        self._next_save = now + self._save_every_s
        self._rollbacks = 0

    def train(self) -> str:
        """Train.

        Returns:
            Why it stopped.

        Raises:
            UserError: learning diverged again and again, or the disk is full.
            CollectorError: collectors failed.
        """
        while True:
            self._count_time()
            reason = self._stop.reason or self._limits.reached(self._run)
            if reason is not None:
                return reason
            if self._is_update_due():
                self._learn()
            else:
                self._collect()
            self._evaluations.turn()
            self._saver.check()
            if self._is_save_due():
                self.save(beside=not self._run.cfg.performance.serial)
            self._reporter.tick(seconds_left=self._limits.seconds_left)

    # -- collecting -----------------------------------------------------------------------------

    def _collect(self) -> None:
        started = time.monotonic()
        run = self._run
        rollouts = self._source.receive(run.frames, WAIT_S, prior_level=run.prior_level)
        self._reporter.spent("waiting_for_workers", time.monotonic() - started)
        for rollout in rollouts:
            self.take(rollout)

    def take(self, rollout: Rollout, *, own: bool = True) -> None:
        """Count a rollout, and store it in the memory if it is to be learnt from.

        Args:
            rollout: a run.
            own: whether the learner drove it; a pretrained policy's times are not the run's.
        """
        run, statistics = self._run, self._run.statistics
        is_best = statistics.count(rollout, own=own)
        if own and rollout.timing is not None and not run.cfg.performance.serial:
            statistics.cpu_seconds += rollout.timing.cpu_s  # of another process
        is_greedy_finish = rollout.finished and not rollout.is_exploration
        is_robust = is_greedy_finish and statistics.update_rolling_mean(rollout)
        if own and is_greedy_finish:
            note_first_finish(run, rollout.weights_version)
        if own and rollout.finished and rollout.has_comparable_time:
            offer_to_plateau_breaker(run, rollout.track, rollout.race_time_ms)
        run.plateau.update_phase(run.frames, statistics.training_seconds)
        capacity = run.cfg.schedules_at(run.frames).memory_capacity
        if capacity != run.memory.capacity:
            run.memory.resize(capacity)
        if rollout.fill_buffer:
            store_rollout(run, rollout)
        self._judge_prior(rollout)
        self._reporter.rollout(rollout, is_robust=is_robust, replaced=self._source.replaced)
        keep_rollout(self._saver.folder, run, rollout, is_best=is_best)
        if own and rollout.weights is not None:
            self._evaluations.offer(rollout)
        if is_best:
            self._reporter.write_stats()

    def _judge_prior(self, rollout: Rollout) -> None:
        """Let a rollout that was driven with the prior decide about the prior's weight."""
        run, driven = self._run, rollout.prior
        if run.prior is None or driven is None:
            return
        judged = LadderRun(
            track=rollout.track,
            judged=driven.judged,
            finished=rollout.finished,
            race_time_ms=rollout.race_time_ms,
            level=driven.level,
            cohort=driven.cohort,
            started_frames=driven.started_frames,
        )
        before = run.prior_weight
        if run.prior.ladder.note(driven.collector, driven.number, judged, run.frames):
            after, frames = run.prior_weight, f"{run.frames:,}"
            logger.info("weight of the prior: %.3g to %.3g at %s frames", before, after, frames)

    # -- learning -------------------------------------------------------------------------------

    def _is_update_due(self) -> bool:
        run = self._run
        size, start = len(run.memory), run.cfg.schedules_at(run.frames).memory_start
        if size and run.memory.is_full:
            size = max(size, start)  # ends of runs and test transitions take slots, too
        return run.pace.is_due(
            memory_size=size,
            memory_start=start,
            uses_per_transition=run.cfg.number_times_single_memory_is_used_before_discard,
        )

    def _learn(self) -> None:
        """Train on one batch, or for a share of the turns measure the loss of a test batch."""
        run, cfg = self._run, self._run.cfg
        started = time.monotonic()
        gamma = cfg.schedules_at(run.frames).gamma
        is_test = run.rng.random() < cfg.buffer_test_ratio and run.memory.test_size > 0
        batch = run.memory.sample(cfg.batch_size, run.rng, gamma=gamma, test=is_test)
        if is_test:
            tested = run.learner.evaluate(batch, prior_weight=run.prior_weight)
            self._reporter.test_loss(tested.loss)
            self._reporter.spent("testing", time.monotonic() - started)
            return
        stats = run.learner.step(
            batch,
            learning_rate=run.learning_rate,
            frames=run.frames,
            prior_weight=run.prior_weight,
        )
        run.pace.count_update(len(batch))
        if not stats.skipped:
            run.memory.update_priorities(batch, stats.td_errors)
        elif run.learner.is_lost:
            self._roll_back()
        if run.grad_steps % cfg.performance.send_shared_network_every_n_batches == 0:
            self._publish()
        self._reporter.update(stats, seconds=time.monotonic() - started)
        self._reporter.spent("training", time.monotonic() - started)

    def _publish(self) -> None:
        """Give the collectors the current weights."""
        learner = self._run.learner
        self._source.publish(learner.online, learner.averaged, version=self._run.grad_steps)

    def _roll_back(self) -> None:
        """Return to the weights of the last checkpoint after too many useless batches."""
        self._rollbacks += 1
        skipped = self._run.learner.counters.skipped_in_a_row
        self._saver.restore_weights(self._run)  # first, since the run is saved on its way out
        if self._rollbacks > MOST_ROLLBACKS:
            raise UserError(
                f"{self._saver.folder.root}: learning diverged {self._rollbacks} times; the last "
                f"good weights are kept, resume them with a smaller lr_schedule"
            )
        logger.warning(
            "%d useless batches in a row: back to the weights of the last checkpoint", skipped
        )
        self._publish()

    # -- saving ---------------------------------------------------------------------------------

    def _is_save_due(self) -> bool:
        is_time = time.monotonic() >= self._next_save and not self._saver.busy
        return is_time and self._run.learner.is_sound

    def save(self, *, beside: bool = False) -> None:
        """Write a checkpoint, always of weights to which a run may go back.

        Args:
            beside: write it in a thread while the run goes on; none may be under way.

        Raises:
            UserError: the disk is full.
        """
        self._count_time()
        if not self._run.learner.is_sound:  # stopped while batches were being skipped
            logger.warning("the last batch could not be used: keeping the weights saved before")
            self._saver.restore_weights(self._run)
        save = self._saver.begin_save if beside else self._saver.save
        save(self._run, self._source.state_dict())
        self._reporter.write_stats()
        self._next_save = time.monotonic() + self._save_every_s

    def _count_time(self) -> None:
        """Add the time since the last call to the seconds of training, of clock and of CPU."""
        now, cpu = time.monotonic(), time.process_time()
        statistics = self._run.statistics
        statistics.training_seconds += now - self._counted_until
        statistics.cpu_seconds += cpu - self._cpu_counted
        self._counted_until, self._cpu_counted = now, cpu
