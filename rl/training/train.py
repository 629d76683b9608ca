"""Stage 3: train a racing policy by reinforcement learning, from scratch or from earlier stages."""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from datasets.contract.config import dump_config
from rl.config.experiment import RLConfig
from rl.envs.cars import RaceMap
from rl.envs.factory import RaceFactory
from rl.evaluation.best_known import BestKnown, best_known_laps
from rl.evaluation.best_runs import remove_partial_runs
from rl.evaluation.greedy import EvaluationResult
from rl.reporting.progress import ProgressLine, duration
from rl.reporting.reporter import Reporter
from rl.run.build import build_run
from rl.run.folder import RunFolder, check_log_folders, log_to_file, run_lock
from rl.run.heap import keep_freed_memory
from rl.run.init_from import check_start
from rl.run.machine import add_machine
from rl.run.memory_need import check_run_memory
from rl.run.outputs import repair_champion
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.run.threads import learner_threads
from rl.training.calibrate import CalledOff
from rl.training.evaluations import Evaluations
from rl.training.limits import RunLimits, StopSignal
from rl.training.loop import TrainingLoop
from rl.training.setup import (
    Pretrained,
    build_evaluation_process,
    build_source,
    evaluator_setup,
    finish_calibration,
    start_weights,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished training run.

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
        limits: best known lap of each of these maps, in the simulator.
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
    limits: dict[str, BestKnown]

    def summary(self) -> list[str]:
        """Return the lines to print at the end: progress, quality, and how to continue."""
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
            limit = self.limits.get(result.track)
            if limit is not None and limit.race_time_ms is not None:
                lines.append(f"  {limit.describe(result.exact_ms)}")
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
            more threads than cores; a full disk.
    """
    started = time.monotonic()
    check_start(cfg, resume=resume, pretrain=pretrain)
    check_run_memory(cfg)
    threads = learner_threads(cfg.performance)
    folder = RunFolder(resume if resume is not None else Path(cfg.output_dir) / cfg.run_name)
    if resume is not None:
        folder.check_exists()
    minutes = max_minutes if max_minutes is not None else cfg.limits.max_minutes
    limits = RunLimits(
        deadline=None if minutes is None else started + 60.0 * minutes,
        max_frames=max_frames if max_frames is not None else cfg.limits.max_frames,
        max_grad_steps=(
            max_grad_steps if max_grad_steps is not None else cfg.limits.max_grad_steps
        ),
        early_stop_frames=cfg.limits.early_stop_frames,
    )
    torch.set_num_threads(threads)
    keep_freed_memory()
    with run_lock(folder, "rl") as owner, log_to_file(folder), _stop_on_signals() as stop:
        if resume is None:
            folder.check_new()
        check_log_folders(cfg, folder.name, owner, resumed=resume is not None)
        return _train(cfg, folder, pretrain, limits, stop, resumed=resume is not None)


def _train(
    cfg: RLConfig,
    folder: RunFolder,
    pretrain: Path | None,
    limits: RunLimits,
    stop: StopSignal,
    *,
    resumed: bool,
) -> TrainingResult:
    """Set up, train, and evaluate at the end; `pretrain` is for new runs only."""
    started, cpu = time.monotonic(), time.process_time()
    _clear_leftovers(folder)
    if not resumed and cfg.schedule_origin == "now":
        cfg = cfg.model_copy(update={"schedule_origin": 0})
    races = RaceFactory.from_config(cfg)
    tracks = races.maps(cfg.map_cycle.maps)
    run, saver = build_run(cfg), RunSaver(folder)

    def called_off() -> str | None:
        return stop.reason or limits.time_is_up()

    source_state = saver.restore(run) if resumed else None
    calibration_before = run.statistics.calibration_seconds
    pretrained = _first_weights(run, folder, tracks, pretrain, called_off, resumed=resumed)
    if pretrained.policy is not None:
        source_state = None  # the collectors have driven nothing, with weights of before
    source = build_source(run, source_state)
    try:
        # Not before: a refused start leaves no run. What a prior changes is no choice of the user.
        given = cfg.model_copy(update={"schedule_origin": run.cfg.schedule_origin})
        dump_config(given, folder.config)
        add_machine(folder.machine, run.frames)
        with build_evaluation_process(run, tracks) as beside, ProgressLine() as progress:
            _count_setup(run, started, cpu, calibration_before)
            reporter = Reporter(run, folder, tracks, progress, resumed=resumed)
            evaluator = evaluator_setup(run, tracks).build(run.champion)
            evaluations = Evaluations(run, evaluator, beside, saver, reporter)
            loop = TrainingLoop(run, source, evaluations, saver, reporter, limits, stop)
            _take(pretrained, loop, evaluations if races.has_room else None)
            if resumed:
                reporter.write_stats()  # without what was lost since the last save
            else:
                loop.save()  # from here on the run can be resumed
            with closing(reporter):
                with _saved_after(loop):
                    stopped = loop.train()
                    logger.info("stopping: %s", stopped)
                evaluations.wait(stop)
                if not races.has_room:
                    source.close()  # the last evaluation drives where a collector did
                final = _measure(run, evaluations, stop)
                loop.save()
                reporter.finish(seconds_left=limits.seconds_left)
    finally:
        source.close()
        races.release()
    interrupted = stop.reason is not None
    laps = best_known_laps(tracks) if final else {}
    return _result(run, folder, stopped, interrupted=interrupted, final=tuple(final), limits=laps)


def _first_weights(
    run: Run,
    folder: RunFolder,
    tracks: Mapping[str, RaceMap],
    pretrain: Path | None,
    called_off: CalledOff,
    *,
    resumed: bool,
) -> Pretrained:
    """Give a fresh run its weights, or finish that for one that was resumed too early."""
    if not resumed:
        return start_weights(run, folder, tracks, pretrain, called_off)
    repair_champion(folder, run)
    return finish_calibration(run, folder, called_off)


def _take(pretrained: Pretrained, loop: TrainingLoop, evaluations: Evaluations | None) -> None:
    """Store the runs that the start of the training drove, and evaluate the pretrained policy."""
    for rollout in pretrained.driven:
        loop.take(rollout, own=False)
    if pretrained.policy is not None and evaluations is not None:
        evaluations.evaluate(pretrained.policy)


@contextmanager
def _saved_after(loop: TrainingLoop) -> Iterator[None]:
    """Save after training, and after an error.

    Not so after a second Ctrl-C: it may come in the middle of an update.
    """
    try:
        yield
    except Exception:
        loop.save()
        raise
    loop.save()


def _measure(run: Run, evaluations: Evaluations, stop: StopSignal) -> list[EvaluationResult]:
    """Evaluate the last weights, then the champion on fresh starts; nothing if asked to stop."""
    if stop.reason is not None or run.calibration_due:
        return []
    evaluations.evaluate()  # the last weights may be the best
    return evaluations.evaluate_champion()


def _count_setup(run: Run, started: float, cpu: float, calibration_before: float) -> None:
    """Add what preceded the training to the run's statistics.

    Args:
        run: whose collectors have just been started.
        started: monotonic time in s at which the set-up began.
        cpu: CPU seconds of this process at that time.
        calibration_before: the run's seconds of calibration at that time.
    """
    statistics = run.statistics
    calibration_s = statistics.calibration_seconds - calibration_before
    statistics.setup_seconds += time.monotonic() - started - calibration_s
    statistics.setup_cpu_seconds += time.process_time() - cpu


def _clear_leftovers(folder: RunFolder) -> None:
    """Delete what a killed process left half written."""
    folder.clear_leftovers()
    for runs in (folder.best_runs, folder.good_runs):
        remove_partial_runs(runs)


def _result(
    run: Run,
    folder: RunFolder,
    stopped: str,
    *,
    interrupted: bool,
    final: tuple[EvaluationResult, ...],
    limits: dict[str, BestKnown],
) -> TrainingResult:
    statistics = run.statistics
    return TrainingResult(
        folder=folder,
        stopped=stopped,
        interrupted=interrupted,
        frames=run.frames,
        grad_steps=run.grad_steps,
        training_seconds=statistics.training_seconds,
        first_finish_s=statistics.first_finish_s,
        alltime_min_ms=dict(statistics.alltime_min_ms),
        final=final,
        limits=limits,
    )


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
