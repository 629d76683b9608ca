"""The folder of a training run: where each file lies, and who may write into it.

<output_dir>/<run_name>/
    config_snapshot.yaml      the resolved configuration, latest resume included
    accumulated_stats.json    counters, and the best time of each map
    metrics.csv               one row per reporting interval
    evaluations.csv           one row per periodic evaluation
    injection_report.json     what was loaded from earlier stages (with --pretrain)
    calibration_report.json   how values were fitted to the injected policy
    train.log
    checkpoints/              the last two, each whole or absent; see rl.checkpoint
    best/                     weights and metadata of the champion, loadable as an artifact
    best_runs/<map>_<ms>/     fastest runs, as inputs
"""

import csv
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunFolder:
    """Paths inside a run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config_snapshot.yaml"
        self.stats = self.root / "accumulated_stats.json"
        self.metrics = self.root / "metrics.csv"
        self.evaluations = self.root / "evaluations.csv"
        self.injection_report = self.root / "injection_report.json"
        self.calibration_report = self.root / "calibration_report.json"
        self.log = self.root / "train.log"
        self.checkpoints = self.root / "checkpoints"
        self.best = self.root / "best"
        self.best_runs = self.root / "best_runs"

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    def check_new(self) -> None:
        """Refuse a folder that a run has already been written to.

        Raises:
            UserError: there is a run; it names both ways out.
        """
        if self.config.exists() or self.checkpoints.exists():
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
            raise UserError(f"{self.root}: no run to resume here (no {self.config.name})")


@contextmanager
def run_lock(folder: RunFolder) -> Iterator[None]:
    """Hold the run for this process alone.

    The lock is the operating system's and ends with the process, however it ends.

    Raises:
        UserError: another process is training this run.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.root}: the run's folder cannot be made ({error})") from error
    with (folder.root / ".lock").open("a+b") as file:
        if not _try_lock(file):
            raise UserError(
                f"{folder.root}: another process is training this run; "
                f"wait for it, stop it, or choose another run_name"
            )
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


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


class CsvLog:
    """A CSV file that grows by whole rows and by columns, and survives resumes.

    A row with a new column rewrites the file once, atomically; all other rows are appended.
    """

    def __init__(self, path: Path) -> None:
        """Continue the file at `path`, or start it with the first row."""
        self.path = Path(path)
        self._columns = _columns(self.path)

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row; absent columns stay empty."""
        new = [name for name in row if name not in self._columns]
        if new:
            old = read_csv(self.path)
            self._columns += new
            self._rewrite([*old, {name: _cell(value) for name, value in row.items()}])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writerow({name: _cell(value) for name, value in row.items()})

    def drop_after(self, column: str, limit: float) -> None:
        """Remove rows beyond `limit`: those written between the last save and a crash."""
        rows = read_csv(self.path)
        kept = [row for row in rows if not row.get(column) or float(row[column]) <= limit]
        if len(kept) < len(rows):
            self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none if the file is missing."""
    if not Path(path).exists():
        return []
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [{key: value or "" for key, value in row.items() if key} for row in _reader(file)]


def _reader(file: IO[str]) -> Iterator[dict[str, str]]:
    yield from csv.DictReader(file)


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _cell(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
