"""The runs that a report is about: their logs, their folders, or both."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.ownership import SNAPSHOT, read_owner
from pipeline.analysis.events.event_file import EVENT_FILES
from pipeline.analysis.metrics import is_wanted
from pipeline.analysis.run_log import RunLog, read_runs
from rl.run.folder import RunFolder

RUNS: Final = Path("output/rl")


@dataclass(frozen=True)
class ReportedRun:
    """One run of a report.

    Attributes:
        name: of the run.
        log: what it logged, None if there are no logs.
        folder: where it was trained, None if that is not known.
        notes: what is missing of it, a line each.
    """

    name: str
    log: RunLog | None
    folder: RunFolder | None
    notes: tuple[str, ...] = ()


def find_runs(
    names: Sequence[str],
    logdir: Path,
    *,
    runs: Path = RUNS,
    watch: Callable[[float], None] | None = None,
) -> list[ReportedRun]:
    """Find the logs and the folder of each run.

    Args:
        names: of runs, or paths of run folders or log folders.
        logdir: folder of logs, as for `read_runs`.
        runs: where the folder of a run lies that is named without a path.
        watch: called with the share of the runs that are read, in [0, 1].

    Raises:
        UserError: a run has neither logs nor a folder, or two have one name.
    """
    found: list[ReportedRun] = []
    for i, name in enumerate(names):
        found.append(_find(name, logdir, runs))
        if watch is not None:
            watch((i + 1) / len(names))
    for run in found:
        if sum(other.name == run.name for other in found) > 1:
            raise UserError(f"{run.name}: given twice, or two runs of one name")
    return found


def _find(name: str, logdir: Path, runs: Path) -> ReportedRun:
    path = Path(name)
    is_bare = path.name == name and name not in ("", ".", "..")
    if is_bare:
        return _named(name, logdir, runs)
    if not path.is_dir():
        raise UserError(f"{name}: neither the name of a run nor an existing folder")
    path = path.resolve()
    if any(path.glob(EVENT_FILES)):
        log = _read(str(path), logdir)
        owner = read_owner(path)
        place = _folder(runs / (log.name if owner is None else owner.run))
        return _reported(log.name, log, place, None)
    folder = _folder(path)
    if folder is None:
        raise UserError(
            f"{name}: holds no run: neither {SNAPSHOT}, best_runs nor event files ({EVENT_FILES})"
        )
    return _with_logs(path.name, str(path), logdir, folder)


def _named(name: str, logdir: Path, runs: Path) -> ReportedRun:
    folder = _folder(runs / name)
    if folder is not None:
        return _with_logs(name, name, logdir, folder)
    try:
        log = _read(name, logdir)
    except UserError as error:
        known = [path.name for path in runs.iterdir()] if runs.is_dir() else []
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; {runs} has {near[0]}" if near else f"; nor is there {runs / name}"
        raise UserError(f"{error}{hint}") from error
    return _reported(name, log, None, None)


def _with_logs(name: str, spec: str, logdir: Path, folder: RunFolder) -> ReportedRun:
    try:
        return _reported(name, _read(spec, logdir), folder, None)
    except UserError as error:
        return _reported(name, None, folder, str(error))


def _reported(
    name: str, log: RunLog | None, folder: RunFolder | None, missing: str | None
) -> ReportedRun:
    notes = [] if log is None else [log.describe(), *log.notes]
    if missing is not None:
        notes.append(f"{name}: no curves ({missing})")
    if folder is None:
        notes.append(f"{name}: no run folder known; name it by its path to see more of it")
    return ReportedRun(name, log, folder, tuple(notes))


def _read(spec: str, logdir: Path) -> RunLog:
    return read_runs([spec], logdir, wanted=is_wanted)[0]


def _folder(path: Path) -> RunFolder | None:
    """Return the run folder at `path`, None if it holds no run."""
    folder = RunFolder(path)
    return folder if folder.config.is_file() or folder.best_runs.is_dir() else None
