"""Which log folders and event files belong to a run.

A log folder with a marker file belongs to the run that the file names. Folders without one, those
of older versions and of other programs, are told apart by steps: run R may go on in `R_2`, `R_3`,
..., and `R_2` may also be a run of its own, even in the same folder. An event file has one writer,
so it is a file that belongs to a run, not a folder.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.ownership import Owner, read_owner
from pipeline.analysis.events.event_file import EVENT_FILES, EventFile

LOGDIR: Final = Path("tensorboard")
OUTPUT: Final = Path("output")
NEW_RUN_STEPS: Final = 50_000
"""A writer whose first step is at most this one may be that of a new run."""
STEP_TOLERANCE: Final = 0.05
"""Share of the last step by which the next file's first step may miss it."""
LEAST_TOLERANCE_STEPS: Final = 20_000
_SUFFIX: Final = re.compile(r"(?P<run>.+)_(?P<number>\d+)")
_WRITER: Final = re.compile(r"events\.out\.tfevents\.\d+\.(?P<writer>.+\.\d+)\.\d+")

Read = Callable[[Path], Sequence[EventFile]]
"""Returns the event files of a folder that hold scalars, by name."""


def find_logdirs(given: Path = LOGDIR) -> list[Path]:
    """Return the folders of logs that `given` means: itself, and the one under `output`.

    Raises:
        UserError: neither exists.
    """
    given = Path(given)
    places = [given] if given.is_absolute() else [given, OUTPUT / given]
    found = [place for place in places if place.is_dir()]
    if not found:
        looked = " and ".join(str(place) for place in places)
        raise UserError(f"{given}: no such folder of logs (looked at {looked}); see --logdir")
    return found


def log_folders(logdirs: Sequence[Path]) -> dict[str, Path]:
    """Return the folders with event files by name, of the first of `logdirs` that has it."""
    found: dict[str, Path] = {}
    for logdir in logdirs:
        for path in sorted(logdir.iterdir()):
            if path.is_dir() and path.name not in found and any(path.glob(EVENT_FILES)):
                found[path.name] = path
    return found


@dataclass(frozen=True)
class RunFiles:
    """The event files of one run.

    Attributes:
        name: of the run.
        files: with the name of the folder that each lies in; those of a folder by file name.
        folders: names of the folders that hold them, base folder first.
        notes: what was left out and why, a line each.
    """

    name: str
    files: tuple[tuple[str, EventFile], ...]
    folders: tuple[str, ...]
    notes: tuple[str, ...]


def files_of_run(name: str, folders: Mapping[str, Path], read: Read) -> RunFiles:
    """Return the event files of a run.

    Args:
        name: of the run.
        folders: all folders of logs by name.
        read: reads a folder's files.

    Raises:
        UserError: there is no such run, or a marker file is damaged.
    """
    return _Search(folders, read).run(name)


@dataclass
class _Chain:
    """What is known of a run's steps while its files are put together."""

    files: list[EventFile] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        return max(file.last_step for file in self.files)

    def fits(self, file: EventFile, lowest: int) -> bool:
        """Tell whether a file's first step goes on where these files are.

        Args:
            file: a later one.
            lowest: least step to which the run may have gone back by a resume.
        """
        if not self.files or file.last_step <= 0:
            return False
        last = self.last_step
        slack = max(round(STEP_TOLERANCE * last), min(LEAST_TOLERANCE_STEPS, last // 2))
        return lowest - slack <= file.first_step <= last + slack

    def is_same_writer(self, file: EventFile) -> bool:
        """Tell whether one of these files was written by the same process."""
        writer = _writer(file)
        return writer is not None and any(_writer(other) == writer for other in self.files)

    def pause_s(self, file: EventFile) -> float:
        """Return the seconds between these files and a file, infinite if they came after it."""
        before = [f.last_wall for f in self.files if f.first_wall <= file.first_wall]
        return abs(file.first_wall - max(before)) if before else float("inf")


def _writer(file: EventFile) -> str | None:
    found = _WRITER.fullmatch(file.path.name)
    return None if found is None else found["writer"]


class _Search:
    """Puts runs together; each folder is read once."""

    def __init__(self, folders: Mapping[str, Path], read: Read) -> None:
        self._folders, self._read = folders, read
        self._owners: dict[str, Owner | None] = {}
        self._runs: dict[str, RunFiles] = {}

    def run(self, name: str) -> RunFiles:
        """Return the files of a run; see `files_of_run`."""
        if name in self._runs:
            return self._runs[name]
        members = self._marked_folders(name)
        if name not in self._folders and not members:
            raise UserError(_no_such_run(name, self._folders))
        files: list[tuple[str, EventFile]] = []
        notes: list[str] = []
        if name in self._folders:
            files += [(name, file) for file in self._own_files(name, notes)]
        for folder in self._suffix_folders(name, members):
            chain = _Chain([file for _, file in files])
            if folder in members:
                taken = list(self._read(self._folders[folder]))
            else:
                taken, left = _split(self._read(self._folders[folder]), chain)
                if left:
                    notes.append(_left_out(folder, name, left, chain, partly=bool(taken)))
            files += [(folder, file) for file in taken]
        if not files:
            raise UserError(
                f"{self._folders.get(name, name)}: no scalars in its event files, "
                f"or all of them belong to another run"
            )
        names = tuple(dict.fromkeys(folder for folder, _ in files))
        self._runs[name] = RunFiles(name, tuple(files), names, tuple(notes))
        return self._runs[name]

    def _owner(self, folder: str) -> Owner | None:
        if folder not in self._owners:
            self._owners[folder] = read_owner(self._folders[folder])
        return self._owners[folder]

    def _marked_folders(self, name: str) -> set[str]:
        """Return the folders whose marker says that they are of this run, base folder left out."""
        base = self._owner(name) if name in self._folders else None
        found = {}
        for folder in self._folders:
            owner = self._owner(folder)
            if folder == name or owner is None:
                continue
            if owner.id == base.id if base is not None else owner.run == name:
                found[folder] = owner.id
        ids = set(found.values())
        if len(ids) > 1:  # several runs of this name, each without its base folder
            newest = max(found, key=lambda folder: self._folders[folder].stat().st_mtime)
            found = {folder: id for folder, id in found.items() if id == found[newest]}
        return set(found)

    def _suffix_folders(self, name: str, members: set[str]) -> list[str]:
        """Return the folders that a run may have gone on in, in the order of their numbers."""
        unmarked = {
            folder
            for folder in self._folders
            if _base_of(folder) == name and self._owner(folder) is None
        }
        if name not in self._folders:
            unmarked = set()
        return sorted(members | unmarked, key=_natural)

    def _own_files(self, name: str, notes: list[str]) -> list[EventFile]:
        """Return the files of a base folder, without those by which another run goes on."""
        files = list(self._read(self._folders[name]))
        other = _base_of(name)
        if self._owner(name) is not None or other is None or other not in self._folders:
            return files
        try:
            theirs = {file.path for folder, file in self.run(other).files if folder == name}
        except UserError:  # nothing readable of the other run: all is this one's
            return files
        if theirs:
            notes.append(
                f"{name}: {len(theirs)} of its {len(files)} event files left out, because their "
                f"steps continue the run {other}"
            )
        return [file for file in files if file.path not in theirs]


def _split(files: Sequence[EventFile], chain: _Chain) -> tuple[list[EventFile], list[EventFile]]:
    """Split a suffix folder's files into those that continue a run and those of another one.

    Args:
        files: of the folder.
        chain: the run's files in earlier folders.
    """
    before = chain.last_step if chain.files else 0
    going_on, own = _Chain(list(chain.files)), _Chain()
    taken: list[EventFile] = []
    for file in sorted(files, key=lambda file: file.first_wall):
        lowest = min([before, *(f.first_step for f in taken)])
        continues = going_on.fits(file, lowest)
        lowest_own = min((f.first_step for f in own.files), default=0)
        if continues and own.fits(file, lowest_own):
            continues = _is_nearer(going_on, own, file)
        if continues and file.first_step <= NEW_RUN_STEPS and not going_on.is_same_writer(file):
            continues = abs(file.first_step - going_on.last_step) < file.first_step
        if continues:
            taken.append(file)
            going_on.files.append(file)
        else:
            own.files.append(file)
    return taken, own.files


def _is_nearer(first: _Chain, second: _Chain, file: EventFile) -> bool:
    """Tell whether a file whose steps fit both of two runs is the first one's."""
    same = first.is_same_writer(file), second.is_same_writer(file)
    if same[0] != same[1]:
        return same[0]
    return first.pause_s(file) < second.pause_s(file)


def _left_out(
    folder: str, name: str, left: Sequence[EventFile], chain: _Chain, *, partly: bool
) -> str:
    files = (
        f"{len(left)} event file{'s' if len(left) > 1 else ''} left out" if partly else "not merged"
    )
    steps = " and ".join(f"{file.first_step:,}" for file in left[:3])
    end = f"step {chain.last_step:,}" if chain.files else "no step"
    return (
        f"{folder}: {files}, because it begins at step {steps} and does not continue {name}, "
        f"which ends at {end}"
    )


def _base_of(folder: str) -> str | None:
    """Return the name before `_<number>`, None without a number."""
    found = _SUFFIX.fullmatch(folder)
    return None if found is None else found["run"]


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in parts)


def _no_such_run(name: str, folders: Mapping[str, Path]) -> str:
    near = difflib.get_close_matches(name, folders, n=3)
    where = ", ".join(sorted({str(path.parent) for path in folders.values()}))
    if not folders:
        return f"{name}: no logs of any run found"
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(folders)} folders"
    return f"{name}: no logs of such a run in {where} ({hint})"
