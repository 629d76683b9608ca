"""Recording replays so that a killed process loses at most the replays it still held in memory.

HDF5 itself does not survive a kill. So replays are written as closed shards, each whole or absent,
into `NAME.h5.parts/`; at the end they are assembled into `NAME.h5`, which appears by a rename. The
same recording started again finds its shards and continues behind them. An output whose name does
not end in .h5 stays a folder of shards.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import h5py
import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.contract.files import (
    atomic_path,
    check_output,
    check_replaceable,
    read_json,
    write_json,
)
from datasets.format import (
    LABEL_ACTIONS,
    ROW_DTYPES,
    DatasetSpec,
    ReplayRecord,
    create_layout,
    write_replay_table,
)
from datasets.hdf5_output import new_hdf5
from datasets.locking import ProcessLock
from datasets.names import natural_key
from datasets.reader import ReplayFile
from datasets.shards import FOLDER_INDEX, SHARD_NAME

SHARD_BYTES: Final = 32 * 2**20
"""Bytes of replays held in memory before a shard is written."""
SPEC_FILE: Final = "spec.json"
LOCK_FILE: Final = ".lock"
_OWN_NAMES: Final = re.compile(
    "|".join(map(re.escape, (FOLDER_INDEX, SPEC_FILE, LOCK_FILE)))
    + r"|shard_\d{5,}\.h5|\..+\.[0-9a-f]{8}\.tmp"
)
"""Names of what lies in a folder of shards; the last ones are of writes that were killed."""
COPY_ROWS: Final = 2048
TICK_ROWS: Final = ("actions", LABEL_ACTIONS)


class DatasetWriter:
    """Writes one dataset, replay by replay.

    Args:
        path: `NAME.h5` for one file, or a name without that suffix for a folder of shards.
        spec: what all replays share; a recording continues only with an equal one.
        overwrite: replace an existing output, at the end and not before.
        shard_bytes: bytes of replays after which a shard is closed.

    Raises:
        UserError: the output exists, or unfinished parts of another recording do; with
            `overwrite`, the output is a folder that is no dataset.
    """

    def __init__(
        self,
        path: Path,
        spec: DatasetSpec,
        *,
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = Path(path)
        self.spec = spec
        self._overwrite = overwrite
        self.parts = self.path.with_name(self.path.name + ".parts")
        self._shard_bytes = shard_bytes
        self._held: list[ReplayRecord] = []
        self._held_bytes = 0
        self._closed = False
        check_dataset_output(self.path, overwrite=overwrite)
        self._lock = self._take_lock()
        self.done_names: set[str] = set()
        try:
            self._open_parts()
            if any(self.parts.glob("*.h5")):
                with ReplayFile(self.parts) as recorded:
                    self.done_names = {str(name) for name in recorded.replays["name"]}
        except BaseException:
            self._lock.release()
            raise

    def _take_lock(self) -> ProcessLock:
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            return ProcessLock(self.parts / LOCK_FILE)
        except BlockingIOError as error:
            raise UserError(
                f"{self.path}: another process is recording it; wait for it or choose another --out"
            ) from error
        except OSError as error:
            raise UserError(f"{self.parts}: cannot be made or locked ({error.strerror})") from error

    def _open_parts(self) -> None:
        (self.parts / FOLDER_INDEX).unlink(missing_ok=True)  # of a `close` that was killed
        spec_path = self.parts / SPEC_FILE
        if spec_path.exists() and read_json(spec_path) == self.spec.to_json():
            return
        shards = sorted(self.parts.glob("*.h5"), reverse=True)  # a kill leaves no gap in front
        if shards and not self._overwrite:
            raise UserError(
                f"{self.parts} holds an unfinished recording with other parameters; repeat its "
                "command to finish it, or drop it: add --overwrite, or remove the folder"
            )
        for shard in shards:
            shard.unlink()
        write_json(spec_path, self.spec.to_json())

    def add(self, record: ReplayRecord) -> None:
        """Take one replay; it is on the disk when its shard is full or `close` is called.

        Raises:
            ValueError: the record does not fit the dataset, or its name is already there.
            UserError: the disk is full; the shards that were closed before stay.
        """
        record.check(self.spec.image_size)
        if record.name in self.done_names:
            raise ValueError(f"replay {record.name!r} is already recorded")
        self.done_names.add(record.name)
        self._held.append(record)
        self._held_bytes += record.frames.nbytes + record.floats.nbytes
        if self._held_bytes >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the replays held in memory as one closed shard."""
        if not self._held:
            return
        ends = [shard.stem.rpartition("_")[2] for shard in self.parts.glob("shard_*.h5")]
        numbers = [int(end) for end in ends if re.fullmatch("[0-9]{1,9}", end)]
        shard = self.parts / SHARD_NAME.format(max(numbers, default=-1) + 1)
        with disk_errors(shard, self.parts), atomic_path(shard) as temporary:
            temporary.write_bytes(_shard_image(self.spec, self._held))
        self._held, self._held_bytes = [], 0

    def close(self) -> Path:
        """Write what is held, then put the dataset in its place.

        Raises:
            UserError: nothing was recorded, the disk is full, or something that may not be
                replaced has come to lie at the path; closed shards stay.
        """
        if self._closed:
            return self.path
        self.flush()
        if not any(self.parts.glob("*.h5")):
            raise UserError(f"{self.path}: no replay was recorded, so there is nothing to write")
        check_dataset_output(self.path, overwrite=self._overwrite)
        with disk_errors(self.path, self.parts):
            if self.path.suffix == ".h5":
                for leftover in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                    leftover.unlink()  # of an assembly that was killed
                _assemble(self.parts, self.path)
                self._lock.release()
                _remove(_set_aside(self.parts))
            else:
                self._rename_folder()
        self._closed = True
        return self.path

    def _rename_folder(self) -> None:
        shards = sorted(shard.name for shard in self.parts.glob("*.h5"))
        write_json(self.parts / FOLDER_INDEX, {"shards": shards})
        self._lock.release()
        (self.parts / LOCK_FILE).unlink()
        replaced = _set_aside(self.path)
        self.parts.rename(self.path)
        _remove(replaced)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close after success; after an interruption keep what was recorded, for the next start."""
        try:
            if error is None:
                self.close()
            elif isinstance(error, KeyboardInterrupt):
                self.flush()
        finally:
            self._lock.release()


def check_dataset_output(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is at `path`, unless that was asked for and is a file or a dataset.

    Raises:
        UserError: something is there and `overwrite` is false; or it is a folder of anything else
            than shards.
    """
    check_output(path, overwrite=overwrite)
    if path.is_dir():
        check_replaceable(path, FOLDER_INDEX, _OWN_NAMES)


def _set_aside(path: Path) -> Path:
    """Return the hidden name under which what is at `path`, if anything, waits to be removed.

    A kill while it is removed so leaves no half of it at `path`.
    """
    hidden = path.with_name(f".{path.name}.replaced")
    if path.exists():
        _remove(hidden)  # of a removal that was killed
        path.rename(hidden)
    return hidden


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, parts: Path | None = None) -> Iterator[None]:
    """Turn the errors of a failing write into one line for the user.

    HDF5 reports a full disk as OSError or RuntimeError, depending on the call that fails.
    """
    try:
        yield
    except (OSError, RuntimeError, UserError) as error:
        kept = f"; {parts} keeps its shards: free space and repeat the command" if parts else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, UserError):
            raise UserError(f"{reason}{kept}") from error
        raise UserError(f"{path}: could not be written ({reason.splitlines()[0]}){kept}") from error


def _shard_image(spec: DatasetSpec, records: list[ReplayRecord]) -> bytes:
    """Return the bytes of an HDF5 file with these replays, built in memory.

    A disk that fills up is then an ordinary failed write of bytes, not a library that holds a
    half-written file open.
    """
    n_frames = sum(len(record.frame_time_ms) for record in records)
    n_actions = sum(len(record.actions) for record in records)
    rows = []
    with h5py.File("shard.h5", "w", driver="core", backing_store=False) as handle:
        labelled = any(record.has_labels for record in records)
        datasets = create_layout(handle, spec, n_frames, n_actions, labelled=labelled)
        frame = action = 0
        for record in records:
            rows.append(record.row(frame, action))
            arrays = record.arrays()
            if labelled:
                arrays.setdefault(LABEL_ACTIONS, arrays["actions"])
            for name, array in arrays.items():
                first = action if name in TICK_ROWS else frame
                datasets[name][first : first + len(array)] = array
            frame += len(record.frame_time_ms)
            action += len(record.actions)
        write_replay_table(handle, np.stack(rows))
        handle.flush()
        return bytes(handle.id.get_file_image())


def _assemble(parts: Path, path: Path) -> None:
    """Join the shards of `parts` into one file, replays in order of track and name."""
    with ReplayFile(parts) as source:
        table = source.replays
        order = _replay_order(source.spec.parameters, table)
        placed = table[order].copy()
        placed["first_frame"] = np.cumsum(placed["frame_count"]) - placed["frame_count"]
        placed["first_action"] = np.cumsum(placed["action_count"]) - placed["action_count"]
        with atomic_path(path) as temporary:
            _reserve(temporary, source.n_frames * source.bytes_per_frame)
            with new_hdf5(temporary) as (handle, output):
                sizes = (source.n_frames, source.n_actions)
                datasets = create_layout(handle, source.spec, *sizes, labelled=source.has_labels)
                for old, new in zip(table[order], placed, strict=True):
                    _copy_replay(source, datasets, old, new)
                    output.check()
                write_replay_table(handle, placed)


def _replay_order(
    parameters: Mapping[str, object], table: npt.NDArray[np.void]
) -> npt.NDArray[np.int64]:
    """Replays by track, in the order in which tracks were asked for, then by name.

    Names are in natural order, pos2 before pos10. An interrupted recording so ends with the same
    file as one that ran through.
    """
    asked = parameters.get("tracks", [])
    places = {str(name): i for i, name in enumerate(asked if isinstance(asked, list) else [])}
    rows = range(len(table))

    def key(row: int) -> tuple[int, str, tuple[tuple[int, int, str], ...]]:
        track = str(table["track"][row])
        return places.get(track, len(places)), track, natural_key(str(table["name"][row]))

    return np.array(sorted(rows, key=key), dtype=np.int64)


def _copy_replay(
    source: ReplayFile, datasets: Mapping[str, h5py.Dataset], old: np.void, new: np.void
) -> None:
    for name in ROW_DTYPES:
        kind = "action" if name == "actions" else "frame"
        first, count, target = old[f"first_{kind}"], old[f"{kind}_count"], new[f"first_{kind}"]
        for start in range(0, count, COPY_ROWS):
            rows = min(COPY_ROWS, count - start)
            block = source.read(name, int(first + start), int(rows))
            datasets[name][target + start : target + start + rows] = block
    if LABEL_ACTIONS in datasets:
        first, count, target = old["first_action"], old["action_count"], new["first_action"]
        labels = source.label_actions[first : first + count]
        datasets[LABEL_ACTIONS][target : target + count] = labels


def _reserve(path: Path, size: int) -> None:
    """Fail now, with a plain OSError, when `size` bytes do not fit the disk or the file limit."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError("not enough space on the disk")
