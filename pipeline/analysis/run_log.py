"""The logs of one run as columns: folders merged, lost entries hidden, one time zero."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.ownership import SNAPSHOT
from datasets.contract.yaml_files import read_yaml
from pipeline.analysis.events.cache import CACHE_FOLDER
from pipeline.analysis.events.event_file import EVENT_FILES, EventFile, Floats, Int64s
from pipeline.analysis.events.reader import read_event_file
from pipeline.analysis.events.scan import CLOCK_TOLERANCE_S
from pipeline.analysis.log_folders import LOGDIR, RunFiles, files_of_run, find_logdirs, log_folders

TRAINING_HOURS: Final = "cumul_training_hours"
THREADS: Final = 2

TimeAxis = Literal["wall_minutes", "cumul_training_hours"]


@dataclass(frozen=True)
class Series:
    """The entries of one tag, in the order of writing.

    Attributes:
        steps: (N,) observations driven.
        wall_minutes: (N,) since the first entry of the run.
        training_minutes: (N,) of training; NaN if the run does not log `cumul_training_hours`.
        values: (N,).
    """

    steps: Int64s
    wall_minutes: Floats
    training_minutes: Floats
    values: Floats

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.values)

    def minutes(self, axis: TimeAxis) -> Floats:
        """Return the time of each entry in minutes, never falling."""
        chosen = self.wall_minutes if axis == "wall_minutes" else self.training_minutes
        return np.maximum.accumulate(chosen) if len(chosen) else chosen

    def by_step(self) -> "Series":
        """Return the entries sorted by step; those of the same step stay in their order."""
        order = np.argsort(self.steps, kind="stable")
        return Series(
            self.steps[order],
            self.wall_minutes[order],
            self.training_minutes[order],
            self.values[order],
        )


@dataclass(frozen=True)
class Session:
    """One event file of a run.

    Attributes:
        file: its columns.
        folder: name of the log folder.
        below: entries from this step on are hidden, because a later session drove them again; None
            hides nothing.
        start_s: seconds from the run's first entry to this session's.
    """

    file: EventFile
    folder: str
    below: int | None
    start_s: float

    @property
    def end_s(self) -> float:
        """Seconds from the run's first entry to this session's last one."""
        return self.start_s + self.file.last_wall - self.file.first_wall


class RunLog:
    """What a run logged, over all its log folders."""

    def __init__(self, found: RunFiles) -> None:
        """Merge the files of a run.

        Args:
            found: its files; at least one holds scalars.
        """
        self.name = found.name
        self.folders = found.folders
        ordered = sorted(found.files, key=lambda pair: pair[1].first_wall)
        self.sessions, notes = _sessions(ordered)
        self.notes: tuple[str, ...] = (*found.notes, *_file_notes(ordered), *notes)
        self._hours = _hours_of_sessions(self.sessions)
        self.tags: tuple[str, ...] = tuple(
            sorted({tag for session in self.sessions for tag in session.file.tags})
        )
        self._series: dict[str, Series] = {}

    def __contains__(self, tag: str) -> bool:
        """Tell whether the run has visible entries of a tag."""
        return len(self.series(tag)) > 0

    def series(self, tag: str) -> Series:
        """Return the visible entries of a tag; none if it was not logged."""
        if tag not in self._series:
            parts = [
                _part(session, tag, hours)
                for session, hours in zip(self.sessions, self._hours, strict=True)
            ]
            self._series[tag] = Series(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        return self._series[tag]

    @property
    def has_training_hours(self) -> bool:
        """Whether times of training are known."""
        return any(hours is not None for hours in self._hours)

    @property
    def wall_minutes(self) -> float:
        """Minutes from the first to the last entry, pauses included."""
        return max(session.end_s for session in self.sessions) / 60.0

    @property
    def training_minutes(self) -> float:
        """Minutes of training at the last entry, NaN if they are not logged."""
        ends = [
            float(hours(session.end_s)) * 60.0
            for session, hours in zip(self.sessions, self._hours, strict=True)
            if hours is not None
        ]
        return max(ends, default=float("nan"))

    @property
    def first_training_minutes(self) -> float:
        """Minutes of training at the first entry, NaN if they are not logged."""
        hours = self._hours[0]
        return float("nan") if hours is None else float(hours(self.sessions[0].start_s)) * 60.0

    @property
    def steps(self) -> tuple[int, int]:
        """First and last step that are visible."""
        lows, highs = [], []
        for session in self.sessions:
            file = session.file
            if session.below is None or file.last_step < session.below:
                lows.append(file.first_step)
                highs.append(file.last_step)
                continue
            steps = file.steps[file.steps < session.below]
            if len(steps):
                lows.append(int(steps.min()))
                highs.append(int(steps.max()))
        return min(lows, default=0), max(highs, default=0)

    def describe(self) -> str:
        """Return one line: what was merged, over what span of wall time, training and steps."""
        files = len(self.sessions)
        merged = f"{', '.join(self.folders)} ({files} event file{'s' if files > 1 else ''})"
        training = self.training_minutes
        trained = (
            "training time not logged"
            if np.isnan(training)
            else f"{training / 60:.2f} h of training"
        )
        first, last = self.steps
        return (
            f"{self.name}: {merged}; {self.wall_minutes:.1f} min of wall time, {trained}, "
            f"steps {first:,} to {last:,}"
        )


def read_runs(
    names: Sequence[str],
    logdir: Path = LOGDIR,
    *,
    wanted: Callable[[str], bool] | None = None,
    cache: Path | None = CACHE_FOLDER,
    watch: Callable[[float], None] | None = None,
) -> list[RunLog]:
    """Read the logs of some runs.

    Args:
        names: of runs, or paths of run folders or log folders.
        logdir: folder of logs, see `find_logdirs`.
        wanted: which tags are kept in memory; None keeps all.
        cache: see `read_event_file`.
        watch: told the share of the work that is done, in [0, 1].

    Raises:
        UserError: a run does not exist or has no scalars.
    """
    plain, logdirs = _names_and_logdirs(names, logdir)
    folders = log_folders(logdirs)
    reader = _FolderReader(_near(plain, folders), wanted, cache, watch)
    return [RunLog(files_of_run(name, folders, reader.files)) for name in plain]


def _names_and_logdirs(names: Sequence[str], logdir: Path) -> tuple[list[str], list[Path]]:
    plain: list[str] = []
    extra: list[Path] = []
    for name in names:
        path = Path(name)
        if path.name == name and name not in ("", ".", ".."):
            plain.append(name)
            continue
        if not path.is_dir():
            raise UserError(f"{name}: neither the name of a run nor an existing folder")
        path = path.resolve()
        plain.append(path.name)
        extra.append(path.parent if any(path.glob(EVENT_FILES)) else _logdir_of_run(path))
    double = {name for name in plain if plain.count(name) > 1}
    if double:
        raise UserError(f"{', '.join(sorted(double))}: given twice")
    bare = len(extra) < len(names)
    given = find_logdirs(logdir) if bare or not extra else []
    return plain, list(dict.fromkeys([*extra, *given]))


def _logdir_of_run(folder: Path) -> Path:
    """Return where a run folder's configuration says that its logs are."""
    try:
        logdir = Path(read_yaml(folder / SNAPSHOT)["tensorboard_dir"])
    except (OSError, UserError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: no run with a configuration and logs") from error
    if not logdir.is_dir():
        raise UserError(f"{folder}: its folder of logs is missing ({logdir})")
    return logdir


def _near(names: Sequence[str], folders: Mapping[str, Path]) -> list[Path]:
    """Return the folders that are probably read for some runs, to read them side by side."""
    return [
        path
        for folder, path in folders.items()
        if any(folder == name or folder.startswith(f"{name}_") for name in names)
    ]


class _FolderReader:
    """Reads the event files of folders, side by side where it is known which are needed."""

    def __init__(
        self,
        needed: Sequence[Path],
        wanted: Callable[[str], bool] | None,
        cache: Path | None,
        watch: Callable[[float], None] | None,
    ) -> None:
        self._wanted, self._cache = wanted, cache
        self._found: dict[Path, list[EventFile]] = {}
        paths = [path for folder in needed for path in sorted(folder.glob(EVENT_FILES))]
        sizes = {path: path.stat().st_size for path in paths}
        total, done = max(sum(sizes.values()), 1), 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            if watch is not None:
                watch(min(done / total, 1.0))

        with ThreadPoolExecutor(THREADS) as pool:
            order = sorted(paths, key=lambda path: sizes[path], reverse=True)
            read = dict(zip(order, pool.map(lambda p: self._file(p, advance), order), strict=True))
        for folder in needed:
            self._found[folder] = [read[path] for path in paths if path.parent == folder]

    def files(self, folder: Path) -> list[EventFile]:
        """Return the event files of a folder that hold scalars, by name."""
        if folder not in self._found:
            paths = sorted(folder.glob(EVENT_FILES))
            self._found[folder] = [self._file(path, None) for path in paths]
        return [file for file in self._found[folder] if file.entries]

    def _file(self, path: Path, watch: Callable[[int], None] | None) -> EventFile:
        found = read_event_file(path, self._cache, watch)
        return found if self._wanted is None else found.only(self._wanted)


# -- merging ------------------------------------------------------------------------------------


def _sessions(
    ordered: Sequence[tuple[str, EventFile]],
) -> tuple[tuple[Session, ...], list[str]]:
    """Place the files of a run on one time axis and find what later ones hide.

    Args:
        ordered: (folder, file) by the time of their first entry.
    """
    sessions: list[Session] = []
    notes: list[str] = []
    zero, shift = ordered[0][1].first_wall, 0.0
    for i, (folder, file) in enumerate(ordered):
        start = file.first_wall - zero + shift
        end = max((session.end_s for session in sessions), default=0.0)
        if start < end - CLOCK_TOLERANCE_S:
            notes.append(
                f"{file.path}: begins {(end - start) / 60:.1f} min before the file before it ends "
                f"(the clock went back, or two writers); placed after it"
            )
            shift += end - start
            start = end
        later = [
            (other.hides_from, other_folder)
            for other_folder, other in ordered[i + 1 :]
            if other.hides_from is not None
        ]
        # A mark at step 0 hides what the folder held before a new writer came to it. A later mark
        # is that of a resumed run, whose lost entries may lie in every folder of the run.
        hiding = [step for step, where in later if step > 0 or where == folder]
        sessions.append(Session(file, folder, min(hiding, default=None), start))
    return tuple(sessions), notes


def _file_notes(ordered: Sequence[tuple[str, EventFile]]) -> list[str]:
    notes = []
    for _, file in ordered:
        line = file.note()
        if line is not None:
            notes.append(line)
        if file.clock_jumps:
            notes.append(
                f"{file.path}: the clock went back {file.clock_jumps} times, by "
                f"{file.clock_jump_s:,.0f} s in all; counted as no time"
            )
    return notes


Hours = Callable[[npt.ArrayLike], Floats]
"""Hours of training at some seconds of the run's wall time."""


def _hours_of_sessions(sessions: Sequence[Session]) -> list[Hours | None]:
    """Return for each session how wall time becomes hours of training.

    Between two entries of `cumul_training_hours` time is interpolated; before the first and after
    the last one of a session it goes on as the clock does, but not back beyond the last session's
    end.
    """
    found: list[Hours | None] = []
    if not any(len(_raw(session, TRAINING_HOURS)[0]) for session in sessions):
        return [None] * len(sessions)
    least = 0.0
    for session in sessions:
        seconds, hours = _raw(session, TRAINING_HOURS)
        if not len(seconds):
            seconds, hours = np.array([session.start_s]), np.array([least])
        resumed_below = session.file.hides_from
        if resumed_below:
            least = min(least, float(hours[0]))
        found.append(_clock(seconds, hours, min(least, float(hours[0]))))
        least = float(found[-1](session.end_s))  # type: ignore[misc]
    return found


def _clock(seconds: Floats, hours: Floats, least: float) -> Hours:
    def at(when: npt.ArrayLike) -> Floats:
        moments = np.asarray(when, dtype=np.float64)
        inside = np.interp(moments, seconds, hours)
        before = np.minimum(moments - seconds[0], 0.0)
        after = np.maximum(moments - seconds[-1], 0.0)
        found: Floats = np.maximum(inside + (before + after) / 3600.0, least)
        return found

    return at


def _raw(session: Session, tag: str) -> tuple[Floats, Floats]:
    """Return the seconds and finite values of a tag in one session, hidden ones included."""
    file, part = session.file, session.file.part(tag)
    values = file.values[part]
    fine = np.isfinite(values)
    return (file.walls[part] - file.first_wall + session.start_s)[fine], values[fine]


def _part(session: Session, tag: str, hours: Hours | None) -> tuple[Int64s, Floats, Floats, Floats]:
    """Return steps, wall minutes, training minutes and values of a tag in one session."""
    file, part = session.file, session.file.part(tag)
    steps, walls, values = file.steps[part], file.walls[part], file.values[part]
    if session.below is not None:
        kept = steps < session.below
        steps, walls, values = steps[kept], walls[kept], values[kept]
    seconds = walls - file.first_wall + session.start_s
    training = np.full(len(seconds), np.nan) if hours is None else 60.0 * hours(seconds)
    return steps, seconds / 60.0, training, values
