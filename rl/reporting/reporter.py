"""Log of a run: TensorBoard, CSV files, the counters' file, the progress line.

The reporter reads the run's state and never changes it: a run that logs nothing trains the same.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from datasets.contract.csv_log import CsvLog
from datasets.contract.files import write_json
from datasets.contract.ownership import read_owner
from datasets.contract.race import DNF_MS
from rl.config.experiment import RLConfig
from rl.envs.cars import RaceMap
from rl.evaluation.evaluator import Evaluation
from rl.evaluation.reference_times import reference_times
from rl.learning.learner import LearnerStats
from rl.replay.rollout import Rollout
from rl.reporting.progress import ProgressLine, duration
from rl.reporting.tags import (
    TrackInfo,
    counters,
    evaluation_tags,
    layer_tags,
    parameter_tags,
    rollout_kind,
    rollout_tags,
    state_tags,
    update_tags,
    update_values,
)
from rl.reporting.tensorboard import IntervalValues, TensorBoardLog
from rl.reporting.times import PolicyAges, TimesSummary
from rl.run.folder import RunFolder
from rl.run.state import Moment, Run

REPORT_EVERY_S: Final = 15.0
SHOW_EVERY_S: Final = 1.0
DETAILS_EVERY_S: Final = 300.0
"""Seconds between numbers of each parameter, which are many tags."""
_ACTIVITIES: Final = ("waiting_for_workers", "training", "testing")


class Reporter:
    """Collects values as events happen and writes them at intervals."""

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        tracks: Mapping[str, RaceMap],
        progress: ProgressLine,
        *,
        resumed: bool,
    ) -> None:
        """Open the run's log files, and drop from them what was written after its last save.

        Args:
            run: whose state is reported.
            folder: of the run.
            tracks: maps by short name.
            progress: the line that a person watches.
            resumed: whether the run has files already.
        """
        self._run, self._folder = run, folder
        self._progress = progress
        self._board = TensorBoardLog(
            Path(run.cfg.tensorboard_dir),
            folder.name,
            read_owner(folder.root),
            start_frames=run.frames if resumed else 0,
        )
        self._metrics, self._evaluations = CsvLog(folder.metrics), CsvLog(folder.evaluations)
        for log in (self._metrics, self._evaluations):
            log.drop_after("frames", run.frames)
        self._values, self._layers = IntervalValues(), IntervalValues()
        self._seconds = dict.fromkeys(_ACTIVITIES, 0.0)
        self._times, self._ages = TimesSummary(), PolicyAges(run.grad_steps)
        self._infos = {name: _track_info(run.cfg, name, track) for name, track in tracks.items()}
        self._last_report = self._last_details = self._last_shown = time.monotonic()
        self._reported: tuple[dict[str, float], dict[str, float]] = ({}, {})
        self._frames_then, self._used_then = run.frames, run.pace.used
        self._latest: dict[str, float] = {}
        self._finish_rate: float | None = None

    # -- events ---------------------------------------------------------------------------------

    def rollout(self, rollout: Rollout, *, is_robust: bool, replaced: int) -> None:
        """Log a rollout that was counted.

        Args:
            rollout: any run of a collector.
            is_robust: as for `rollout_tags`.
            replaced: collectors that were lost and replaced so far.
        """
        run = self._run
        tags = rollout_tags(rollout, self._infos[rollout.track], is_robust=is_robust)
        age = run.grad_steps - rollout.weights_version
        tags["Performance/policy_age_grad_steps"] = float(age)
        age_s = self._ages.seconds(rollout.weights_version)
        if age_s is not None:
            tags["Performance/policy_age_s"] = age_s
        if rollout.timing is not None:
            self._times.rollout(rollout.timing)
        self._write_scalars(tags)
        kind = rollout_kind(rollout)
        means = {f"{kind}_finish_rate": float(rollout.finished), "policy_age_grad_steps": age}
        if rollout.finished:
            means[f"{kind}_mean_ms"] = rollout.race_time_ms
        if rollout.changed_share is not None:
            means["prior_changed_share"] = rollout.changed_share
        self._values.add({name: float(value) for name, value in means.items()})
        self._latest["collectors_replaced"] = float(replaced)

    def update(self, stats: LearnerStats, *, seconds: float) -> None:
        """Log an update; one that was skipped counts in `skipped_batches` only.

        Args:
            stats: of the update.
            seconds: that it took.
        """
        if stats.skipped:
            return
        self._ages.note(self._run.grad_steps)
        self._layers.add(stats.layer_norms)
        self._values.add(update_values(stats, seconds))

    def test_loss(self, loss: float) -> None:
        """Log the loss of a test batch, in the unit of the training loss."""
        self._values.add({"loss_test": loss})

    def spent(self, activity: str, seconds: float) -> None:
        """Add to the time spent on an activity: waiting_for_workers, training or testing."""
        self._seconds[activity] += seconds
        self._times.spent(activity, seconds)

    def evaluation(self, evaluation: Evaluation, moment: Moment) -> None:
        """Log an evaluation: a row for each map, and the scalars of a periodic one.

        Args:
            evaluation: its results.
            moment: when the weights were as they were evaluated; rows and scalars lie there.
        """
        for result in evaluation.results:
            values = result.to_json()
            track = values.pop("track")
            self._evaluations.append(
                {
                    "training_s": moment.training_seconds,
                    "frames": moment.frames,
                    "grad_steps": moment.grad_steps,
                    "kind": evaluation.purpose,
                    "weights": evaluation.weights,
                    "map": track,
                    **_prior_columns(moment),
                    **{name: "" if value is None else value for name, value in values.items()},
                    "is_champion": int(evaluation.is_champion),
                }
            )
        if evaluation.purpose == "screening":
            rates = [result.finish_rate for result in evaluation.results]
            self._finish_rate = float(np.mean(rates))
            loaded = evaluation.weights == "pretrained"
            tags = evaluation_tags(evaluation.results, loaded=loaded)
            self._write_scalars(tags, moment.frames)

    # -- intervals ------------------------------------------------------------------------------

    def tick(self, *, seconds_left: float | None) -> None:
        """Write a report if an interval is over; meant to be called once per turn of the loop."""
        now = time.monotonic()
        if now - self._last_report >= REPORT_EVERY_S:
            self.report(seconds_left=seconds_left)
        elif now - self._last_shown >= SHOW_EVERY_S:
            self._last_shown = now
            self._progress.say(self._line(*self._reported, seconds_left))

    def say(self, text: str) -> None:
        """Show `text` on the progress line until the next tick."""
        self._progress.say(text)

    def report(self, *, seconds_left: float | None) -> None:
        """Write the values of the interval to TensorBoard, CSV and the progress line."""
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
        self._write_scalars(tags)
        if now - self._last_details >= DETAILS_EVERY_S:
            self._write_details()
        self.write_stats()
        self._reported = (means, speeds)
        self._progress.show(self._line(means, speeds, seconds_left))
        self._last_report = self._last_shown = now
        self._frames_then, self._used_then = run.frames, run.pace.used
        self._seconds = dict.fromkeys(_ACTIVITIES, 0.0)

    def finish(self, *, seconds_left: float | None = None) -> None:
        """Write the last report."""
        self.report(seconds_left=seconds_left)
        self._write_details()

    def close(self) -> None:
        """Write what is buffered and close the log folder."""
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
            **_prior_columns(run.moment()),
            "buffer_size": len(run.memory),
            "plateau_breaker_phases": run.plateau.phases,
            "skipped_batches": run.learner.counters.skipped,
            **{k: v for k, v in values.items() if not k.startswith("quantile_std")},
            **{f"alltime_min_ms_{m}": t for m, t in run.statistics.alltime_min_ms.items()},
        }
        self._metrics.append(row)

    def _write_details(self) -> None:
        """Write the scalars of each parameter and the table of times, which are large."""
        run, learner = self._run, self._run.learner
        tags = parameter_tags(learner.online, learner.optimizer) | layer_tags(self._layers.take())
        self._write_scalars(tags)
        self._board.text("times_summary", self._times.take(), run.frames, self._suffix(run.frames))
        self._last_details = time.monotonic()

    def write_stats(self) -> None:
        """Write the counters' file, `accumulated_stats.json`, as they are now."""
        run = self._run
        stats = {**counters(run), "alltime_min_ms": run.statistics.alltime_min_ms}
        stats |= {"rolling_mean_ms": run.statistics.rolling_mean_ms}
        stats |= {"first_finish_s": run.statistics.first_finish_s}
        stats |= {"setup_seconds": run.statistics.setup_seconds}
        stats |= {"calibration_seconds": run.statistics.calibration_seconds}
        stats |= {"setup_cpu_seconds": run.statistics.setup_cpu_seconds}
        write_json(self._folder.stats, stats)

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
        if run.prior is not None:
            parts.append(f"prior {run.prior_weight:.3g}")
        if "prior_changed_share" in means:
            parts[-1] += f", {means['prior_changed_share']:.0%} of actions changed"
        if self._finish_rate is not None:
            parts.append(f"finishes {self._finish_rate:.0%}")
        if seconds_left is not None:
            parts.append(f"{duration(seconds_left)} left")
        return " · ".join(parts)

    def _write_scalars(self, tags: Mapping[str, float], frames: int | None = None) -> None:
        """Write scalars at the present observations, or at those of an earlier moment."""
        frames = self._run.frames if frames is None else frames
        self._board.scalars(tags, frames, self._suffix(frames))

    def _suffix(self, frames: int) -> str:
        return self._run.cfg.schedules_at(frames).tensorboard_suffix


def _prior_columns(moment: Moment) -> dict[str, float]:
    """Return the column of the prior's weight, for a run that has a prior."""
    return {} if moment.prior_weight is None else {"prior_weight": moment.prior_weight}


def _track_info(cfg: RLConfig, name: str, track: RaceMap) -> TrackInfo:
    line, cycle = track.line, cfg.map_cycle
    return TrackInfo(
        length_m=line.length_m,
        finish_m=float(line.cumulative[line.finish_zone]),
        trained=cycle.is_trained(name),
        reference_times_s=reference_times(cycle.entries, name),
    )
