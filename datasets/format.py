"""The replay-frame file: names, shapes and attributes of what is written and read.

One HDF5 file, or a folder of such files (shards), holds replays one after another. Rows of a replay
are contiguous, and datasets are stored without chunks or compression, so that a reader can take any
block of frames with one read from the disk.

    frames          (N, H, W) uint8     gray, row 0 at the top
    floats          (N, 184) float32    raw observation floats, float 0 (the clock) written as 0
    frame_time_ms   (N,) int32          race time of each frame, from the start of its replay
    meters_advanced (N,) float32        metres along the reference line
    actions         (M,) uint8          one per 10 ms; actions[i] is held over [10i, 10i + 10) ms
    label_actions   (M,) uint8          optional: what to imitate there, where it is not `actions`
    replays/*       (R,)                one row per replay, see `REPLAY_DTYPE`
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, ACTION_MS, ACTION_NAMES, N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.floats import FLOAT_NAMES, N_FLOATS
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.wheels import CAPTURED_SOURCE, CONTRACT, WheelOrder

FORMAT_NAME: Final = "rulka-replays"
FORMAT_VERSION: Final = 1
FORMAT_MINOR: Final = 1
"""1: wheels are in the contract's order in all floats; before, those of captures were not."""
GENERATED_TRACK_PREFIX: Final = "random"
"""Names of generated tracks start so; there are endless many, so they are the ones to hold out."""

UNITS: Final = {
    "frames": "gray level 0..255",
    "floats": "SI units, car frame",
    "frame_time_ms": "ms since the start of the race",
    "meters_advanced": "m along the reference line",
    "actions": f"index of action_table, one per {TICK_MS} ms",
    "race_time_ms": "ms",
    "finish_meters": "m along the reference line",
}
ROW_DTYPES: Final[dict[str, type[np.generic]]] = {
    "frames": np.uint8,
    "floats": np.float32,
    "frame_time_ms": np.int32,
    "meters_advanced": np.float32,
    "actions": np.uint8,
}
LABEL_ACTIONS: Final = "label_actions"
"""Optional row dataset: for each tick the action that a labeller would have pressed."""
TEXT_COLUMNS: Final = {"track": 128, "name": 192, "driver": 64, "digest": 64}
REPLAY_DTYPE: Final = np.dtype(
    [
        ("track", f"U{TEXT_COLUMNS['track']}"),
        ("name", f"U{TEXT_COLUMNS['name']}"),
        ("driver", f"U{TEXT_COLUMNS['driver']}"),
        ("skill", np.float32),  # 0 novice to 1 expert; NaN if it is unknown
        ("race_time_ms", np.int32),
        ("finished", np.bool_),
        ("finish_meters", np.float32),  # metres at the end of the race, after the last frame
        ("attempt", np.int32),  # 1 = the first try; tries that did not finish are not recorded
        ("first_frame", np.int64),
        ("frame_count", np.int64),
        ("first_action", np.int64),
        ("action_count", np.int64),
        ("digest", f"U{TEXT_COLUMNS['digest']}"),  # SHA-256 over the replay's own rows
    ]
)


@dataclass(frozen=True)
class DatasetSpec:
    """What all replays of a dataset share, and what the recording was asked for.

    Attributes:
        image_size: pixels (height, width).
        frame_interval_ms: ms between frames; 0 when it varies.
        key_ms: ms for which the driver holds its keys at least.
        source: where the replays come from, e.g. "simulator".
        parameters: the request, plain JSON values; a recording continues only with equal ones.
        wheel_order: of the floats; the game's in captures that an earlier version imported.
    """

    image_size: tuple[int, int]
    frame_interval_ms: int
    key_ms: int
    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    wheel_order: WheelOrder = CONTRACT

    @property
    def has_floats(self) -> bool:
        """Whether floats and metres are known; frames can be imported without them."""
        return self.parameters.get("floats") is not False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, equal for equal specifications."""
        values = {
            "image_size": list(self.image_size),
            "frame_interval_ms": self.frame_interval_ms,
            "key_ms": self.key_ms,
            "source": self.source,
            "parameters": dict(self.parameters),
        }
        if self.source == CAPTURED_SOURCE:
            values["wheel_order"] = self.wheel_order
        return values


@dataclass(frozen=True)
class ReplayRecord:
    """One replay: its frames, its floats and its 10 ms action timeline.

    `label_actions` is what to imitate, where somebody else than the one who drove says it.
    """

    track: str
    name: str
    driver: str
    skill: float
    race_time_ms: int
    finished: bool
    finish_meters: float
    frames: npt.NDArray[np.uint8]
    floats: npt.NDArray[np.float32]
    frame_time_ms: npt.NDArray[np.int32]
    meters: npt.NDArray[np.float32]
    actions: npt.NDArray[np.uint8]
    attempt: int = 1
    label_actions: npt.NDArray[np.uint8] | None = None

    def check(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError when a shape or a value cannot be stored, UserError for a text."""
        n = len(self.frame_time_ms)
        expected: dict[str, tuple[npt.NDArray[Any], tuple[int, ...]]] = {
            "frames": (self.frames, (n, *image_size)),
            "floats": (self.floats, (n, N_FLOATS)),
            "meters": (self.meters, (n,)),
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise ValueError(f"{self.name}: {name} has shape {array.shape}, expected {shape}")
        if self.actions.ndim != 1 or (self.actions.size and self.actions.max() >= N_ACTIONS):
            raise ValueError(f"{self.name}: actions must be (m,) indices below {N_ACTIONS}")
        labels = self.actions if self.label_actions is None else self.label_actions
        if labels.shape != self.actions.shape or (labels.size and labels.max() >= N_ACTIONS):
            raise ValueError(f"{self.name}: label_actions must be like actions")
        for column in ("track", "name", "driver"):
            check_text(column, getattr(self, column), self.name)
        if not 0 <= self.race_time_ms <= LONGEST_RECORD_MS:
            raise ValueError(f"{self.name}: a race of {self.race_time_ms} ms")
        if not 0 <= self.attempt < 2**31 or not math.isfinite(self.finish_meters):
            raise ValueError(f"{self.name}: attempt {self.attempt}, {self.finish_meters} metres")

    @property
    def has_labels(self) -> bool:
        """Whether there is anything else to imitate than what was driven."""
        return self.label_actions is not None and not np.array_equal(
            self.label_actions, self.actions
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the rows of this replay by the name of their dataset, in the stored types.

        Label actions are among them where they are not the actions.
        """
        rows = {
            "frames": self.frames,
            "floats": self.floats,
            "frame_time_ms": self.frame_time_ms,
            "meters_advanced": self.meters,
            "actions": self.actions,
        }
        arrays = {n: np.ascontiguousarray(a, dtype=ROW_DTYPES[n]) for n, a in rows.items()}
        if self.has_labels:
            arrays[LABEL_ACTIONS] = np.ascontiguousarray(self.label_actions, dtype=np.uint8)
        return arrays

    def digest(self) -> str:
        """SHA-256 over the rows and the facts of this replay, in hexadecimal."""
        digest = content_hash(self.track, int(self.race_time_ms), bool(self.finished))
        for array in self.arrays().values():
            digest.update(array.data)
        return digest.hexdigest()

    def row(self, first_frame: int, first_action: int) -> npt.NDArray[np.void]:
        """Return the row of the replay table, () of `REPLAY_DTYPE`."""
        values = (
            *(self.track, self.name, self.driver, self.skill, self.race_time_ms, self.finished),
            *(self.finish_meters, self.attempt, first_frame, len(self.frame_time_ms)),
            *(first_action, len(self.actions), self.digest()),
        )
        return np.array(values, dtype=REPLAY_DTYPE)


def check_text(column: str, text: str, source: str) -> None:
    """Refuse a text that a column of the replay table cannot hold, or no file's name could have.

    Args:
        column: "track", "name" or "driver".
        text: to be stored.
        source: where it comes from, for the error.

    Raises:
        UserError: it is empty, too long, or has control characters or half characters.
    """
    longest = TEXT_COLUMNS[column]
    if not 1 <= len(text) <= longest:
        raise UserError(f"{source}: {column} has {len(text)} letters, expected 1 to {longest}")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise UserError(f"{source}: {column} {text!r} has characters that cannot be shown")


def content_hash(track: str, race_time_ms: int, finished: bool) -> "hashlib._Hash":
    """Return the hash of a replay, before its rows.

    These follow in order: frames, floats, times, metres, actions, and label actions where they are
    not the actions.
    """
    return hashlib.sha256(json.dumps([track, race_time_ms, finished]).encode())


def create_layout(
    handle: h5py.File, spec: DatasetSpec, n_frames: int, n_actions: int, *, labelled: bool = False
) -> dict[str, h5py.Dataset]:
    """Attributes and empty row datasets of a new file; the replay table is written separately.

    Args:
        labelled: whether there are label actions too.
    """
    attributes: dict[str, Any] = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "minor_version": FORMAT_MINOR if spec.wheel_order == CONTRACT else 0,
        "units": json.dumps(UNITS),
        "action_table": ACTION_KEYS,
        "action_names": list(ACTION_NAMES),
        "float_names": list(FLOAT_NAMES),
        "image_size": np.array(spec.image_size, dtype=np.int32),
        "frame_interval_ms": spec.frame_interval_ms,
        "tick_ms": TICK_MS,
        "action_ms": ACTION_MS,
        "key_ms": spec.key_ms,
        "source": spec.source,
        "parameters": json.dumps(dict(spec.parameters)),
    }
    handle.attrs.update(attributes)
    shapes = row_shapes(n_frames, n_actions, spec.image_size)
    layout = {
        name: handle.create_dataset(name, shape=shapes[name], dtype=dtype)
        for name, dtype in ROW_DTYPES.items()
    }
    if labelled:
        layout[LABEL_ACTIONS] = handle.create_dataset(LABEL_ACTIONS, (n_actions,), np.uint8)
    return layout


def row_shapes(
    n_frames: int, n_actions: int, image_size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the row datasets of a file with N frames and M actions."""
    return {
        "frames": (n_frames, *image_size),
        "floats": (n_frames, N_FLOATS),
        "frame_time_ms": (n_frames,),
        "meters_advanced": (n_frames,),
        "actions": (n_actions,),
    }


def write_replay_table(handle: h5py.File, replays: npt.NDArray[np.void]) -> None:
    """Write the table as one dataset per column under `replays/`."""
    assert REPLAY_DTYPE.names is not None
    for name in REPLAY_DTYPE.names:
        column, dtype = replays[name], None
        if name in TEXT_COLUMNS:
            column, dtype = column.tolist(), h5py.string_dtype()
        handle.create_dataset(f"replays/{name}", data=column, dtype=dtype)


def identity_of(spec: DatasetSpec, replays: npt.NDArray[np.void]) -> str:
    """SHA-256 of what a dataset holds, whatever the order of its replays or their shards."""
    lines = sorted(f"{row['track']}/{row['name']}:{row['digest']}" for row in replays)
    header = json.dumps([FORMAT_VERSION, list(spec.image_size), spec.frame_interval_ms])
    return hashlib.sha256("\n".join([header, *lines]).encode()).hexdigest()
