"""Reading a dataset: one file or a folder of shards, lazily and in bounded memory.

The table of replays, the frame times, the metres and the action timeline are small (under 1 % of
a dataset) and are held; frames and floats are read block by block. Handles are opened on first use
and never cross a process boundary, so a reader can be sent to a worker.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import h5py
import numpy as np
import numpy.typing as npt

from datasets.contract.actions import N_ACTIONS
from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.contract.floats import N_FLOATS
from datasets.format import (
    ROW_DTYPES,
    DatasetSpec,
    ReplayRecord,
    identity_of,
    read_replay_table,
    read_spec,
    row_shapes,
)

FOLDER_INDEX: Final = "dataset.json"


@dataclass(frozen=True)
class _Part:
    """One HDF5 file of a dataset.

    Attributes:
        offsets: byte offset of each row dataset that is stored contiguously in the file, so that it
            can be read past the library, without its overhead and its global lock.
    """

    path: Path
    spec: DatasetSpec
    replays: npt.NDArray[np.void]
    n_frames: int
    n_actions: int
    offsets: dict[str, int]


def open_part(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        UserError: it is missing, not HDF5, or truncated.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file, or its head is damaged")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        short = "truncated" if "truncated" in str(error) else "damaged"
        raise UserError(f"{path}: {short} HDF5 file; copy or record it again") from error


def _load_part(path: Path) -> _Part:
    with open_part(path) as handle:
        spec = read_spec(handle, path)
        try:
            replays = read_replay_table(handle, path)
            rows = {name: handle.get(name) for name in ROW_DTYPES}
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged HDF5 file ({error})") from error
        missing = [name for name, rows_of in rows.items() if not isinstance(rows_of, h5py.Dataset)]
        if missing:
            raise UserError(f"{path}: no dataset {missing[0]!r}; the file is damaged or foreign")
        n_frames, n_actions = len(rows["frames"]), len(rows["actions"])
        for name, shape in row_shapes(n_frames, n_actions, spec.image_size).items():
            if rows[name].shape != shape or rows[name].dtype != ROW_DTYPES[name]:
                raise UserError(
                    f"{path}: {name} is {rows[name].dtype} {rows[name].shape}, "
                    f"expected {np.dtype(ROW_DTYPES[name])} {shape}"
                )
        offsets = {name: rows[name].id.get_offset() for name in ROW_DTYPES}
        _check_ranges(path, replays, n_frames, n_actions)
    size = path.stat().st_size
    for name, offset in offsets.items():
        if offset is not None and offset + rows_bytes(name, spec, n_frames, n_actions) > size:
            raise UserError(f"{path}: truncated HDF5 file; copy or record it again")
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    return _Part(path, spec, replays, n_frames, n_actions, known)


def rows_bytes(name: str, spec: DatasetSpec, n_frames: int, n_actions: int) -> int:
    """Bytes of one row dataset."""
    shape = row_shapes(n_frames, n_actions, spec.image_size)[name]
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(ROW_DTYPES[name]).itemsize


def _check_ranges(path: Path, replays: npt.NDArray[np.void], n_frames: int, n_actions: int) -> None:
    """The replays cover the rows one after another, without gap or overlap."""
    for kind, total in (("frame", n_frames), ("action", n_actions)):
        ends = replays[f"first_{kind}"] + replays[f"{kind}_count"]
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        if not np.array_equal(starts, replays[f"first_{kind}"]) or (ends[-1:] != total).any():
            raise UserError(f"{path}: the table of replays does not cover its {total} {kind}s")
        if (replays[f"{kind}_count"] < 0).any():
            raise UserError(f"{path}: a replay has a negative number of {kind}s")


class ReplayFile:
    """A dataset opened for reading.

    Attributes:
        path: the file or the folder.
        spec: what all its replays share.
        replays: (R,) of `REPLAY_DTYPE`; first frames and actions count over the whole dataset.

    Raises:
        UserError: a missing, foreign, truncated or inconsistent file, named with its path.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._parts = [_load_part(part) for part in _part_paths(self.path)]
        first = self._parts[0]
        for part in self._parts[1:]:
            for what in ("image_size", "frame_interval_ms", "key_ms"):
                if getattr(part.spec, what) != getattr(first.spec, what):
                    found, expected = getattr(part.spec, what), getattr(first.spec, what)
                    raise UserError(
                        f"{part.path}: {what} is {found}, but {expected} in {first.path.name}"
                    )
        self.spec = first.spec
        self._frame_starts = np.cumsum([0, *(part.n_frames for part in self._parts)])
        self._action_starts = np.cumsum([0, *(part.n_actions for part in self._parts)])
        tables = [part.replays.copy() for part in self._parts]
        for i, table in enumerate(tables):
            table["first_frame"] += self._frame_starts[i]
            table["first_action"] += self._action_starts[i]
        self.replays: npt.NDArray[np.void] = np.concatenate(tables)
        names, counts = np.unique(self.replays["name"], return_counts=True)
        if (counts > 1).any():
            raise UserError(f"{self.path}: replay {names[counts > 1][0]!r} is in it twice")
        self._reset_handles()

    def _reset_handles(self) -> None:
        self._process = os.getpid()
        self._raw: dict[int, BinaryIO] = {}
        self._h5: dict[int, h5py.File] = {}

    @property
    def n_frames(self) -> int:
        return int(self._frame_starts[-1])

    @property
    def n_actions(self) -> int:
        return int(self._action_starts[-1])

    @property
    def n_replays(self) -> int:
        return len(self.replays)

    @property
    def image_size(self) -> tuple[int, int]:
        """Pixels (height, width)."""
        return self.spec.image_size

    @property
    def frame_interval_ms(self) -> int:
        return self.spec.frame_interval_ms

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one frame and its floats."""
        return self.image_size[0] * self.image_size[1] + 4 * N_FLOATS

    @property
    def tracks(self) -> list[str]:
        """Names of the tracks, in order of their first replay."""
        return list(dict.fromkeys(str(track) for track in self.replays["track"]))

    @functools.cached_property
    def frame_time_ms(self) -> npt.NDArray[np.int32]:
        """(N,) race time of each frame."""
        return self.read("frame_time_ms", 0, self.n_frames)

    @functools.cached_property
    def meters(self) -> npt.NDArray[np.float32]:
        """(N,) metres along the reference line at each frame."""
        return self.read("meters_advanced", 0, self.n_frames)

    @functools.cached_property
    def actions(self) -> npt.NDArray[np.uint8]:
        """(M,) actions of all replays, one per 10 ms."""
        return self.read("actions", 0, self.n_actions)

    @functools.cached_property
    def replay_of_frame(self) -> npt.NDArray[np.int32]:
        """(N,) index of the replay that each frame belongs to."""
        indices = np.arange(self.n_replays, dtype=np.int32)
        return np.repeat(indices, self.replays["frame_count"])

    def action_histogram(self) -> npt.NDArray[np.int64]:
        """(12,) 10 ms ticks spent in each action."""
        return np.bincount(self.actions, minlength=N_ACTIONS).astype(np.int64)

    def identity(self) -> str:
        """SHA-256 of the content, from the digests that the writer stored for each replay."""
        return identity_of(self.spec, self.replays)

    def read(self, name: str, first: int, count: int) -> npt.NDArray[Any]:
        """Rows [first, first + count) of a row dataset, over shard borders."""
        shape = row_shapes(count, count, self.image_size)[name]
        out = np.empty(shape, dtype=ROW_DTYPES[name])
        self.read_into(name, first, out)
        return out

    def read_into(self, name: str, first: int, out: npt.NDArray[Any]) -> None:
        """Fill `out` (contiguous) with rows from `first` on.

        Raises:
            IndexError: the rows do not exist.
            UserError: the file cannot be read any more.
        """
        starts = self._action_starts if name == "actions" else self._frame_starts
        if first < 0 or first + len(out) > starts[-1]:
            raise IndexError(f"rows {first} to {first + len(out)} of {starts[-1]} {name}")
        if os.getpid() != self._process:
            self._reset_handles()
        done = 0
        while done < len(out):
            row = first + done
            part = int(np.searchsorted(starts, row, side="right")) - 1
            count = int(min(len(out) - done, starts[part + 1] - row))
            self._read_part(part, name, int(row - starts[part]), out[done : done + count])
            done += count

    def _read_part(self, index: int, name: str, first: int, out: npt.NDArray[Any]) -> None:
        part = self._parts[index]
        try:
            if name not in part.offsets:  # chunked or compressed by another program
                if index not in self._h5:
                    self._h5[index] = open_part(part.path)
                self._h5[index][name].read_direct(out, np.s_[first : first + len(out)])
                return
            if index not in self._raw:
                self._raw[index] = part.path.open("rb", buffering=0)
            file = self._raw[index]
            file.seek(part.offsets[name] + first * out[:1].nbytes)
            view, got = out.data.cast("B"), 0
            while got < len(view):
                more = file.readinto(view[got:])  # type: ignore[attr-defined]
                if not more:
                    raise UserError(f"{part.path}: ends too early; copy or record it again")
                got += more
        except (OSError, RuntimeError) as error:
            raise UserError(f"{part.path}: cannot be read ({error})") from error

    def replay(self, index: int) -> ReplayRecord:
        """One whole replay, read from the disk."""
        row = self.replays[index]
        first, count = int(row["first_frame"]), int(row["frame_count"])
        first_action, n_actions = int(row["first_action"]), int(row["action_count"])
        return ReplayRecord(
            track=str(row["track"]),
            name=str(row["name"]),
            driver=str(row["driver"]),
            skill=float(row["skill"]),
            race_time_ms=int(row["race_time_ms"]),
            finished=bool(row["finished"]),
            finish_meters=float(row["finish_meters"]),
            frames=self.read("frames", first, count),
            floats=self.read("floats", first, count),
            frame_time_ms=self.read("frame_time_ms", first, count),
            meters=self.read("meters_advanced", first, count),
            actions=self.read("actions", first_action, n_actions),
            attempt=int(row["attempt"]),
        )

    def close(self) -> None:
        """Close the open files; reading again opens them again."""
        if os.getpid() == self._process:
            for handle in (*self._raw.values(), *self._h5.values()):
                handle.close()
        self._reset_handles()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.update(_raw={}, _h5={}, _process=-1)
        return state


def _part_paths(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    shards = sorted(path.glob("*.h5"))
    index = path / FOLDER_INDEX
    if index.exists():
        listed = [path / str(name) for name in read_json(index).get("shards", [])]
        missing = [shard for shard in listed if not shard.is_file()]
        if missing:
            raise UserError(f"{missing[0]}: this shard of the dataset is missing; copy it again")
        shards = listed
    if not shards:
        raise UserError(f"{path}: a folder without .h5 shards")
    return shards
