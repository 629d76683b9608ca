"""All checks of a dataset, replay by replay, in memory bounded by its longest replays.

Opening a file already refuses wrong attributes, shapes and ranges. These checks read the content.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from datasets.doctor.findings import Check, Findings
from datasets.doctor.leaks import report_leaks
from datasets.doctor.motion import MotionCheck
from datasets.doctor.pictures import PictureCheck
from datasets.doctor.rows import ReplayRows, check_rows, scan_replay
from datasets.doctor.whole import RepeatCheck, report_balance, split_of
from datasets.reader import ReplayFile
from datasets.split import SplitBy

SAMPLE_FRAMES: Final = 15_000
"""Frames of the replays from which the checks that fit something learn."""


@dataclass(frozen=True)
class Training:
    """What the dataset is to be trained with, as far as the checks depend on it.

    Attributes:
        val_fraction, seed, split_by: of the split.
        offsets_ms: of the labels.
    """

    val_fraction: float = 0.1
    seed: int = 0
    split_by: SplitBy = "auto"
    offsets_ms: Sequence[int] = (0,)


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and what cleaning needs of it.

    Attributes:
        checks: one outcome per check.
        twins: replay -> an earlier one that it repeats.
        out_of_step: replay -> ms by which its keys are early (positive) or late.
        displaced: names of the replays whose pictures are out of step with their floats.
        all_displaced: so is the dataset as a whole.
    """

    checks: list[Check]
    twins: dict[int, int]
    out_of_step: dict[int, int]
    displaced: set[str]
    all_displaced: bool

    @property
    def has_errors(self) -> bool:
        """Whether any check found an error."""
        return any(check.level == "error" for check in self.checks)


def diagnose(
    file: ReplayFile,
    training: Training | None = None,
    on_replay: Callable[[], None] | None = None,
) -> Diagnosis:
    """Run all checks.

    Args:
        training: how the dataset is to be used; the defaults of the stages when None.
        on_replay: called after each replay, for a progress bar.
    """
    training = training or Training()
    findings = Findings()
    for problem in file.skipped:
        findings.add("shards", 1, problem)
    sample = _sample(file)
    motion, repeats = MotionCheck(file.spec.source), RepeatCheck()
    if not file.spec.has_floats:
        findings.report("floats", "ok", "not checked: imported without floats")
    pictures = PictureCheck(sample, file.image_size, _interval_ms(file))
    report_leaks(sample, training.offsets_ms, findings)
    del sample
    for index in range(file.n_replays):
        rows = scan_replay(file, index)
        check_rows(file, rows, findings)
        for check in (motion, repeats, pictures):
            check.add(rows)
        if on_replay is not None:
            on_replay()
    motion.report(findings)
    pictures.report(findings)
    repeats.report(
        split_of(file, training.val_fraction, training.seed, training.split_by), findings
    )
    report_balance(file, findings)
    return Diagnosis(
        checks=findings.outcomes(file.n_frames),
        twins=repeats.twins,
        out_of_step=motion.out_of_step(),
        displaced=pictures.replays_off,
        all_displaced=pictures.is_displaced,
    )


def _sample(file: ReplayFile) -> list[ReplayRows]:
    """Replays from all over the dataset, up to a number of frames."""
    counts = file.replays["frame_count"]
    usual = max(float(np.mean(counts)) if len(counts) else 1.0, 1.0)
    wanted = max(1, min(file.n_replays, int(SAMPLE_FRAMES / usual)))
    chosen = np.unique(np.linspace(0, file.n_replays - 1, wanted).astype(np.int64))
    found: list[ReplayRows] = []
    frames = 0
    for index in chosen.tolist():
        if found and frames + int(counts[index]) > 2 * SAMPLE_FRAMES:
            break
        found.append(scan_replay(file, index))
        frames += int(counts[index])
    return found


def _interval_ms(file: ReplayFile) -> float:
    if file.frame_interval_ms or file.n_frames < 2:
        return float(file.frame_interval_ms)
    steps = np.diff(file.frame_time_ms)
    return float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
