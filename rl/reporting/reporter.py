"""What a run tells about itself: TensorBoard, CSV files, best runs, the progress line."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.csv_log import CsvLog
from datasets.contract.files import write_json
from datasets.contract.race import DNF_MS
from rl.evaluation.best_runs import run_of_rollout, save_best_run
from rl.evaluation.greedy import DrivenRun, EvaluationResult
from rl.evaluation.reference_times import reference_times
from rl.learning.learner import LearnerStats
from rl.replay.rollout import Rollout
from rl.reporting.interval_tags import state_tags, update_tags
from rl.reporting.parameter_tags import layer_tags, parameter_tags
from rl.reporting.progress import ProgressLine, duration
from rl.reporting.rollout_tags import Course, rollout_tags
from rl.reporting.tensorboard import IntervalValues, TensorBoardLog
from rl.reporting.times import PolicyAges, TimesSummary
from rl.run.state import Run

REPORT_EVERY_S: Final = 15.0
SHOW_EVERY_S: Final = 1.0
DETAILS_EVERY_S: Final = 300.0
"""Seconds between numbers of each parameter, which are many tags."""
_ACTIVITIES: Final = ("waiting_for_workers", "training", "testing")


class Reporter:
    """Collects what happens and writes it down at intervals."""

    def __init__(self, run: Run, progress: ProgressLine, *, resumed: bool) -> None:
        """Continue a run's files, without what was written after its last save.

        Args:
            run: what is reported on.
            progress: the line that a person watches.
            resumed: whether the run has files already.
        """
        self._run = run
        self._progress = progress
        cfg, folder = run.cfg, run.folder
        self._board = TensorBoardLog(
            Path(cfg.tensorboard_dir), folder.name, start_frames=run.frames if resumed else 0
        )
        self._metrics, self._evaluations = CsvLog(folder.metrics), CsvLog(folder.evaluations)
        for log in (self._metrics, self._evaluations):
            log.drop_after("frames", run.frames)
        self._values, self._layers = IntervalValues(), IntervalValues()
        self._seconds = dict.fromkeys(_ACTIVITIES, 0.0)
        self._times, self._ages = TimesSummary(), PolicyAges(run.grad_steps)
        self._courses = {name: _course(run, name) for name in run.tracks}
        self._last_report = self._last_details = self._last_shown = time.monotonic()
        self._reported: tuple[dict[str, float], dict[str, float]] = ({}, {})
        self._frames_then, self._used_then = run.frames, run.pace.used
        self._latest: dict[str, float] = {}
        self._finish_rate: float | None = None

    # -- events ---------------------------------------------------------------------------------

    def rollout(self, rollout: Rollout, *, is_best: bool, replaced: int) -> None:
        """Note a rollout that was counted; keep it as inputs if it is the fastest."""
        run = self._run
        tags = rollout_tags(rollout, run.statistics, self._courses[rollout.track])
        age = run.grad_steps - rollout.weights_version
        tags["Performance/policy_age_grad_steps"] = float(age)
        age_s = self._ages.seconds(rollout.weights_version)
        if age_s is not None:
            tags["Performance/policy_age_s"] = age_s
        if rollout.timing is not None:
            self._times.rollout(rollout.timing)
        self._board.scalars(tags, run.frames, self._suffix())
        kind = "explo" if rollout.is_exploration else "eval"
        means = {f"{kind}_finish_rate": float(rollout.finished), "policy_age_grad_steps": age}
        if rollout.finished:
            means[f"{kind}_mean_ms"] = rollout.race_time_ms
        self._values.add({name: float(value) for name, value in means.items()})
        self._latest["collectors_replaced"] = float(replaced)
        start_noise = run.cfg.environment.start_noise
        if is_best and rollout.finished:
            self.best_run(run_of_rollout(rollout, start_noise), rollout.q_values)
        elif rollout.race_time_ms < run.cfg.threshold_to_save_all_runs_ms:
            good = run_of_rollout(rollout, start_noise)
            save_best_run(run.folder.good_runs, good, self._notes())

    def best_run(self, run: DrivenRun, q_values: npt.NDArray[np.float32] | None = None) -> None:
        """Keep the fastest run of its map as inputs."""
        saved = save_best_run(self._run.folder.best_runs, run, self._notes(), q_values)
        self._run.keep_weights_with(saved)
        self.write_stats()

    def update(self, stats: LearnerStats, *, seconds: float = 0.0, test: bool = False) -> None:
        """Note an update and how long it took, or the loss of a test batch."""
        if test:
            self._values.add({"loss_test": stats.loss})
            return
        if stats.skipped:
            return
        self._ages.note(self._run.grad_steps)
        self._layers.add(stats.layer_norms)
        values = {
            "loss": stats.loss,
            "update_s": seconds,
            "grad_norm_before_clip": stats.grad_norm_before_clip,
            "grad_norm": stats.grad_norm_after_clip,
            "mean_q": stats.mean_q,
            "mean_target": stats.mean_target,
            "mean_abs_reward": stats.mean_abs_reward,
            "mean_abs_munchausen": stats.mean_abs_munchausen,
        }
        values |= {f"quantile_std_{a}": float(std) for a, std in enumerate(stats.quantile_std)}
        self._values.add(values)

    def spent(self, activity: str, seconds: float) -> None:
        """Note how the learner's time was spent: waiting_for_workers, training or testing."""
        self._seconds[activity] += seconds
        self._times.spent(activity, seconds)

    def evaluation(
        self, results: Sequence[EvaluationResult], kind: str, weights: str, is_champion: bool
    ) -> None:
        """Note an evaluation.

        Args:
            results: one per map.
            kind: screening, fresh or final.
            weights: pretrained, raw, averaged or champion.
            is_champion: whether the policy is the champion now.
        """
        run = self._run
        for result in results:
            self._evaluations.append(
                {
                    "training_s": run.statistics.training_seconds,
                    "frames": run.frames,
                    "grad_steps": run.grad_steps,
                    "kind": kind,
                    "weights": weights,
                    "map": result.track,
                    **{
                        name: "" if value is None else value
                        for name, value in result.to_json().items()
                        if name != "track"
                    },
                    "is_champion": int(is_champion),
                }
            )
        if kind != "screening":
            return
        tags: dict[str, float] = {}
        for result in results:
            for name in ("finish_rate", "best_ms", "mean_ms", "median_ms", "std_ms"):
                value = getattr(result, name)
                if value is not None:
                    tags[f"Evaluation/{name}_{result.track}"] = float(value)
        self._finish_rate = float(np.mean([result.finish_rate for result in results]))
        self._board.scalars(tags, run.frames, self._suffix())

    # -- intervals ------------------------------------------------------------------------------

    def tick(self, *, seconds_left: float | None) -> None:
        """Report if an interval is over; call as often as convenient."""
        now = time.monotonic()
        if now - self._last_report >= REPORT_EVERY_S:
            self.report(seconds_left=seconds_left)
        elif now - self._last_shown >= SHOW_EVERY_S:
            self._last_shown = now
            self._progress.say(self._line(*self._reported, seconds_left))

    def say(self, text: str) -> None:
        """Show what the run is busy with, until the next tick."""
        self._progress.say(text)

    def report(self, *, seconds_left: float | None) -> None:
        """Write the interval's numbers to every place."""
        run, now = self._run, time.monotonic()
        elapsed = max(now - self._last_report, 1e-9)
        taken = self._values.take()
        means = {name: float(np.mean(values)) for name, values in taken.items()}
        speeds = {
            "frames_per_s": (run.frames - self._frames_then) / elapsed,
            "transitions_learned_per_second": (run.pace.used - self._used_then) / elapsed,
        }
        shares = {
            f"learner_percentage_{name}": 100.0 * seconds / elapsed
            for name, seconds in self._seconds.items()
        }
        self._write_row(means | speeds | shares)
        performance = {f"Performance/{k}": v for k, v in (speeds | shares | self._latest).items()}
        tags = state_tags(run) | update_tags(taken, means) | performance
        self._board.scalars(tags, run.frames, self._suffix())
        if now - self._last_details >= DETAILS_EVERY_S:
            self._write_details()
        self.write_stats()
        self._reported = (means, speeds)
        self._progress.show(self._line(means, speeds, seconds_left))
        self._last_report = self._last_shown = now
        self._frames_then, self._used_then = run.frames, run.pace.used
        self._seconds = dict.fromkeys(_ACTIVITIES, 0.0)

    def close(self, *, seconds_left: float | None = None) -> None:
        """Report what is left and close the files."""
        self.report(seconds_left=seconds_left)
        self._write_details()
        self._board.close()

    def _write_row(self, values: dict[str, float]) -> None:
        run = self._run
        schedule = run.cfg.schedules_at(run.frames)
        row: dict[str, object] = {
            "training_s": run.statistics.training_seconds,
            "frames": run.frames,
            "grad_steps": run.grad_steps,
            "learning_rate": run.learning_rate,
            "gamma": schedule.gamma,
            "epsilon": schedule.epsilon,
            "epsilon_boltzmann": schedule.epsilon_boltzmann,
            "buffer_size": len(run.memory),
            "plateau_breaker_phases": run.plateau.phases,
            "skipped_batches": run.learner.counters.skipped,
            **{k: v for k, v in values.items() if not k.startswith("quantile_std")},
            **{f"alltime_min_ms_{m}": t for m, t in run.statistics.alltime_min_ms.items()},
        }
        self._metrics.append(row)

    def _write_details(self) -> None:
        """Write what is worth a look now and then only."""
        run, learner = self._run, self._run.learner
        tags = parameter_tags(learner.online, learner.optimizer) | layer_tags(self._layers.take())
        self._board.scalars(tags, run.frames, self._suffix())
        self._board.text("times_summary", self._times.take(), run.frames, self._suffix())
        self._last_details = time.monotonic()

    def write_stats(self) -> None:
        """Write the counters as they are now."""
        run = self._run
        stats = {**run.counters(), "alltime_min_ms": run.statistics.alltime_min_ms}
        stats |= {"rolling_mean_ms": run.statistics.rolling_mean_ms}
        stats |= {"first_finish_s": run.statistics.first_finish_s}
        write_json(run.folder.stats, stats)

    def _line(
        self, means: dict[str, float], speeds: dict[str, float], seconds_left: float | None
    ) -> str:
        run = self._run
        parts = [f"{run.frames:,} frames", f"{run.grad_steps:,} updates"]
        if speeds:
            parts[0] += f" ({speeds['frames_per_s']:,.0f}/s)"
            parts[1] += f" ({speeds['transitions_learned_per_second']:,.0f} samples/s)"
        if "loss" in means:
            parts.append(f"loss {means['loss']:.4g}")
        for track, best in run.statistics.alltime_min_ms.items():
            if best >= DNF_MS:
                continue
            parts.append(f"best {track} {best / 1000:.2f} s")
        if self._finish_rate is not None:
            parts.append(f"finishes {self._finish_rate:.0%}")
        if seconds_left is not None:
            parts.append(f"{duration(seconds_left)} left")
        return " · ".join(parts)

    def _suffix(self) -> str:
        return self._run.cfg.schedules_at(self._run.frames).tensorboard_suffix

    def _notes(self) -> dict[str, Any]:
        return {
            "run": self._run.folder.name,
            "frames": self._run.frames,
            "grad_steps": self._run.grad_steps,
        }


def _course(run: Run, name: str) -> Course:
    line, cycle = run.tracks[name].line, run.cfg.map_cycle
    return Course(
        length_m=line.length_m,
        finish_m=float(line.cumulative[line.finish_zone]),
        trained=cycle.is_trained(name),
        reference_times_s=reference_times(cycle.entries, name),
    )
