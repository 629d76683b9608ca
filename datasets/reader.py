"""Reading a dataset: one file or a folder of shards, lazily and in bounded memory.

The table of replays, the frame times, the metres and the action timeline are small (under 1 % of
a dataset) and are held; frames and floats are read block by block. Handles are opened on first use
and never cross a process boundary, so a reader can be sent to a worker.
"""

import functools
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
import numpy.typing as npt

from datasets.contract.actions import N_ACTIONS
from datasets.contract.errors import UserError
from datasets.contract.floats import N_FLOATS
from datasets.format import (
    LABEL_ACTIONS,
    ROW_DTYPES,
    ReplayRecord,
    identity_of,
    row_shapes,
)
from datasets.hdf5_trust import open_trusted
from datasets.shards import load_parts


class ReplayFile:
    """A dataset opened for reading.

    Args:
        skip_bad: leave out bad shards of a folder instead of refusing it.

    Attributes:
        path: the file or the folder.
        skipped: one line for each shard that was left out, with its path.
        spec: what all its replays share.
        replays: (R,) of `REPLAY_DTYPE`; first frames and actions count over the whole dataset.

    Raises:
        UserError: a missing, foreign, truncated or inconsistent file, named with its path.
    """

    def __init__(self, path: Path | str, *, skip_bad: bool = False) -> None:
        self.path = Path(path)
        self._parts, self.skipped = load_parts(self.path, skip_bad=skip_bad)
        self.spec = self._parts[0].spec
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
        """Number of frames N."""
        return int(self._frame_starts[-1])

    @property
    def n_actions(self) -> int:
        """Number of actions of 10 ms."""
        return int(self._action_starts[-1])

    @property
    def n_replays(self) -> int:
        """Number of replays R."""
        return len(self.replays)

    @property
    def image_size(self) -> tuple[int, int]:
        """Pixels (height, width)."""
        return self.spec.image_size

    @property
    def frame_interval_ms(self) -> int:
        """Time in ms between frames."""
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

    @property
    def has_labels(self) -> bool:
        """Whether a part of the dataset says what to imitate apart from what was driven."""
        return any(part.labelled for part in self._parts)

    @functools.cached_property
    def label_actions(self) -> npt.NDArray[np.uint8]:
        """(M,) actions to imitate, one per 10 ms: the driven ones where there are no others.

        Raises:
            UserError: a file that cannot be read.
        """
        if not self.has_labels:
            return self.actions
        wanted = self.actions.copy()
        starts = self._action_starts[:-1]
        for index, (part, first) in enumerate(zip(self._parts, starts, strict=True)):
            if part.labelled and part.n_actions:
                self._read_part(index, LABEL_ACTIONS, 0, wanted[first : first + part.n_actions])
        return wanted

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
                    self._h5[index] = open_trusted(part.path)
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
        except UserError:
            raise
        except Exception as error:  # of damaged chunks the library raises nearly anything
            raise UserError(f"{part.path}: cannot be read ({error})") from error

    def replay(self, index: int) -> ReplayRecord:
        """One whole replay, read from the disk."""
        row = self.replays[index]
        first, count = int(row["first_frame"]), int(row["frame_count"])
        first_action, n_actions = int(row["first_action"]), int(row["action_count"])
        actions = self.read("actions", first_action, n_actions)
        labels = self.label_actions[first_action : first_action + n_actions]
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
            actions=actions,
            attempt=int(row["attempt"]),
            label_actions=None if np.array_equal(labels, actions) else labels.copy(),
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
