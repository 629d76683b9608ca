"""Stage 3: train a racing policy by reinforcement learning, from scratch or from earlier stages."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from datasets.contract.config import dump_config
from datasets.contract.errors import UserError
from rl.config.experiment import RLConfig
from rl.evaluation.greedy import EvaluationResult
from rl.reporting.progress import ProgressLine, duration
from rl.reporting.reporter import Reporter
from rl.run.folder import RunFolder, log_to_file, run_lock
from rl.run.init_from import check_start
from rl.run.state import Run
from rl.training.loop import Limits, StopSignal, TrainingLoop
from rl.training.setup import build_source, finish_calibration, start_weights
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import IQN_FILE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        folder: of the run; `folder.best` holds the champion as an artifact.
        stopped: why it stopped.
        interrupted: whether it was told to stop before its limits.
        frames: observations driven, over all resumes.
        grad_steps: updates, over all resumes.
        training_seconds: over all resumes.
        first_finish_s: seconds of training until weights trained here first finished greedily; None
            if they did not.
        alltime_min_ms: the learner's best time on each map, 300,000 without a finish.
        final: the champion on fresh starts, one result per map; empty if it was interrupted or
            nothing was evaluated.
    """

    folder: RunFolder
    stopped: str
    interrupted: bool
    frames: int
    grad_steps: int
    training_seconds: float
    first_finish_s: float | None
    alltime_min_ms: dict[str, int]
    final: tuple[EvaluationResult, ...]

    def summary(self) -> list[str]:
        """What to tell at the end, a line each: how far, how good, and how to go on."""
        lines = [
            f"{self.folder.root}: {self.frames:,} frames, {self.grad_steps:,} updates, "
            f"{duration(self.training_seconds)} of training in all"
        ]
        for result in self.final:
            mean = "" if result.mean_ms is None else f", mean {result.mean_ms / 1000:.2f} s"
            lines.append(
                f"best policy on {result.track}: {result.finish_rate:.0%} of {result.starts} fresh "
                f"starts finish{mean} ({self.folder.best})"
            )
        return [*lines, f"to go on: rulka-pipeline rl --resume {self.folder.root}"]


def train(
    cfg: RLConfig,
    *,
    resume: Path | None = None,
    pretrain: Path | None = None,
    max_minutes: float | None = None,
    max_frames: int | None = None,
    max_grad_steps: int | None = None,
) -> TrainingResult:
    """Train until a limit is reached, no better time is found, or a signal asks to stop.

    Args:
        cfg: the configuration; limits given here take precedence over its own.
        resume: folder of a run to continue, with `cfg` as its configuration; where it was once
            initialised from (`init_from`) no longer matters.
        pretrain: folder of a pretraining run to start from.
        max_minutes: minutes of this call, set-up included.
        max_frames: observations, over all resumes.
        max_grad_steps: updates, over all resumes.

    Raises:
        UserError: the run exists, is being trained, or cannot be resumed; files that do not fit;
            a full disk.
    """
    started = time.monotonic()
    check_start(cfg, resume=resume, pretrain=pretrain)
    folder = RunFolder(resume if resume is not None else Path(cfg.output_dir) / cfg.run_name)
    if resume is not None:
        folder.check_exists()
    minutes = max_minutes if max_minutes is not None else cfg.limits.max_minutes
    limits = Limits(
        deadline=None if minutes is None else started + 60.0 * minutes,
        max_frames=max_frames if max_frames is not None else cfg.limits.max_frames,
        max_grad_steps=(
            max_grad_steps if max_grad_steps is not None else cfg.limits.max_grad_steps
        ),
        early_stop_frames=cfg.limits.early_stop_frames,
    )
    torch.set_num_threads(cfg.performance.learner_threads)
    with run_lock(folder), log_to_file(folder), _stop_on_signals() as stop:
        if resume is None:
            folder.check_new()
            return _train(cfg, folder, pretrain, limits, stop, resumed=False)
        return _train(cfg, folder, None, limits, stop, resumed=True)


def _train(
    cfg: RLConfig,
    folder: RunFolder,
    pretrain: Path | None,
    limits: Limits,
    stop: StopSignal,
    *,
    resumed: bool,
) -> TrainingResult:
    folder.clear_leftovers()
    if not resumed and cfg.schedule_origin == "now":
        cfg = cfg.model_copy(update={"schedule_origin": 0})
    run = Run.new(cfg, folder)

    def called_off() -> str | None:
        return stop.reason or limits.time_is_up()

    if resumed:
        run.restore()
        _mend_champion(run)
        pretrained = finish_calibration(run, called_off)
    else:
        pretrained = start_weights(run, pretrain, called_off)
    source = build_source(run)
    try:
        dump_config(run.cfg, folder.config)  # not before: a refused start leaves no run
        with ProgressLine() as progress:
            reporter = Reporter(run, progress, resumed=resumed)
            loop = TrainingLoop(run, source, reporter, limits, stop)
            for rollout in pretrained.driven:
                loop.take(rollout, own=False)
            if pretrained.policy is not None:
                loop.evaluate(pretrained.policy)
            if resumed:
                reporter.write_stats()  # without what was lost since the last save
            else:
                loop.save()  # from here on the run can be resumed
            try:
                stopped = loop.run()
                logger.info("stopping: %s", stopped)
            finally:
                loop.save()
            unfit = stop.reason is not None or run.calibration_due
            final = [] if unfit else _last_evaluations(loop)
            loop.save()
            reporter.close(seconds_left=loop.seconds_left)
    finally:
        source.close()
    statistics = run.statistics
    return TrainingResult(
        folder=folder,
        stopped=stopped,
        interrupted=stop.reason is not None,
        frames=run.frames,
        grad_steps=run.grad_steps,
        training_seconds=statistics.training_seconds,
        first_finish_s=statistics.first_finish_s,
        alltime_min_ms=dict(statistics.alltime_min_ms),
        final=tuple(final),
    )


def _mend_champion(run: Run) -> None:
    """Write the champion again if a kill left its file and metadata apart."""
    if run.champion.weights is None:
        return
    try:
        load_artifact(run.folder.best / IQN_FILE)
    except UserError:
        run.champion.save(
            run.folder.best,
            run.folder.name,
            run.learner.network,
            run.statistics.training_seconds,
        )


def _last_evaluations(loop: TrainingLoop) -> list[EvaluationResult]:
    """Give the last weights their chance, then measure the champion."""
    loop.evaluate()
    return loop.evaluate_champion()


@contextmanager
def _stop_on_signals() -> Iterator[StopSignal]:
    """Turn Ctrl-C and SIGTERM into an orderly stop; a second Ctrl-C interrupts at once."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> Any:
        if stop.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.reason = f"stopped by {signal.Signals(number).name}"
        logger.info("%s: saving (again to stop at once)", stop.reason)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
