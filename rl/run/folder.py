"""The folder of a training run: where each file lies, and who may write into it.

<output_dir>/<run_name>/
    config_snapshot.yaml      the resolved configuration, latest resume included
    accumulated_stats.json    counters, and the best time of each map
    metrics.csv               one row per reporting interval
    evaluations.csv           one row per periodic evaluation
    machine.json              CPU, cores, GPUs, package versions and commit, a list over resumes
    injection_report.json     what was loaded from earlier stages (with --pretrain)
    calibration_report.json   how values were fitted to the injected policy
    train.log
    .rulka.json               which run the folder belongs to; see datasets.contract.ownership
    init_report.json          whose weights it started with (with --init-from)
    checkpoints/              the last two, each whole or absent; see rl.run.checkpoint
    checkpoints_best/         that of the champion, to start other runs from
    best/                     weights and metadata of the champion, loadable as an artifact
    best_runs/<map>_<ms>/     fastest runs, as inputs
    good_runs/<map>_<ms>/     runs faster than threshold_to_save_all_runs_ms, as inputs
"""

import contextlib
import difflib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.ownership import (
    MARKER,
    SNAPSHOT,
    Owner,
    Stage,
    check_log_folder,
    claim_run_folder,
)
from datasets.locking import ProcessLock
from rl.config.experiment import RLConfig

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunFolder:
    """Paths inside a run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.config = self.root / SNAPSHOT
        self.stats = self.root / "accumulated_stats.json"
        self.metrics = self.root / "metrics.csv"
        self.evaluations = self.root / "evaluations.csv"
        self.machine = self.root / "machine.json"
        self.injection_report = self.root / "injection_report.json"
        self.calibration_report = self.root / "calibration_report.json"
        self.init_report = self.root / "init_report.json"
        self.log = self.root / "train.log"
        self.checkpoints = self.root / "checkpoints"
        self.checkpoints_best = self.root / "checkpoints_best"
        self.best = self.root / "best"
        self.best_runs = self.root / "best_runs"
        self.good_runs = self.root / "good_runs"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run was ever saved, be it damaged now."""
        folder = self.checkpoints
        return folder.is_dir() and any(path.name[:1].isdigit() for path in folder.iterdir())

    @property
    def has_started(self) -> bool:
        """Whether there is a run, not only what is written while one is set up."""
        return self.config.exists() or self.has_checkpoint

    def discard(self) -> None:
        """Remove what is written while a run is set up."""
        for path in (
            self.log,
            self.injection_report,
            self.calibration_report,
            self.init_report,
            self.root / MARKER,
        ):
            path.unlink(missing_ok=True)

    def check_new(self) -> None:
        """Refuse a folder that holds a run; one that was never saved may be started again.

        Raises:
            UserError: there is a run; it names both ways out.
        """
        if self.has_checkpoint:
            raise UserError(
                f"{self.root}: this run exists; continue it with --resume {self.root}, "
                f"or choose another name with --set run_name=NAME"
            )

    def check_exists(self) -> None:
        """Refuse a folder without a run.

        Raises:
            UserError: nothing to resume.
        """
        if not self.config.exists():
            near = difflib.get_close_matches(self.name, _names_in(self.root.parent), n=1)
            is_typo = near and not self.root.exists()
            hint = f"did you mean {near[0]}?" if is_typo else f"no {self.config.name}"
            raise UserError(f"{self.root}: no run to resume here ({hint})")

    def clear_leftovers(self) -> None:
        """Delete the temporary files and folders that a killed process left.

        Only in the folders that training writes: whatever else lies in the run's folder stays.
        """
        written = (
            self.checkpoints,
            self.checkpoints_best,
            self.best,
            self.best_runs,
            self.good_runs,
        )
        temporary = [*self.root.glob(".*.tmp")]
        for folder in written:
            temporary += folder.rglob(".*.tmp")
        for path in sorted(temporary):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


@contextmanager
def run_lock(folder: RunFolder, stage: Stage) -> Iterator[Owner]:
    """Hold the run for this process alone, in a folder that belongs to it.

    The lock is the operating system's and ends with the process, however it ends. If a new run is
    refused, its folder is removed again.

    Args:
        folder: of the run; it is made and marked if it does not exist.
        stage: which stage the run belongs to.

    Yields:
        The owner that the folder's marker file names.

    Raises:
        UserError: another process is training this run, or the folder belongs to something else.
    """
    is_new = not folder.root.exists()
    try:
        owner = claim_run_folder(folder.root, stage)
        lock = ProcessLock(folder.root / ".lock")
    except BlockingIOError as error:
        raise UserError(
            f"{folder.root}: another process is training this run; "
            f"wait for it, stop it, or choose another run_name"
        ) from error
    except OSError as error:
        raise UserError(
            f"{folder.root}: the run's folder cannot be made or locked ({error})"
        ) from error
    try:
        yield owner
    except UserError:
        if is_new and not folder.has_started:
            folder.discard()
            lock.remove()
            with contextlib.suppress(OSError):  # someone else has put something into it
                folder.root.rmdir()
        raise
    finally:
        lock.release()


@contextmanager
def log_to_file(folder: RunFolder) -> Iterator[None]:
    """Append all log records of at least INFO to the run's `train.log`."""
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("rl")
    before = logger.level
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def check_log_folders(cfg: RLConfig, run_name: str, owner: Owner, *, resumed: bool) -> None:
    """Refuse a run whose log folders, present or to come, belong to another run.

    Raises:
        UserError: one of `<tensorboard_dir>/<run_name><suffix>` is another run's.
    """
    for suffix in dict.fromkeys(suffix for _, suffix in cfg.tensorboard_suffix_schedule):
        check_log_folder(Path(cfg.tensorboard_dir) / f"{run_name}{suffix}", owner, resumed=resumed)
