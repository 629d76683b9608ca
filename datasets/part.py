"""One HDF5 file of a dataset: from a file that may hold anything to an object that can be trusted.

What is checked: that nothing lies in another file, and types, shapes, lengths and values of all
that describes the rows. The rows themselves are read later; `check_content` and the doctor look at
them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import h5py
import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, ACTION_MS, N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.files import parse_json
from datasets.contract.floats import FLOAT_NAMES, N_FLOATS
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.format import (
    FORMAT_MINOR,
    FORMAT_NAME,
    FORMAT_VERSION,
    LABEL_ACTIONS,
    REPLAY_DTYPE,
    ROW_DTYPES,
    TEXT_COLUMNS,
    DatasetSpec,
    row_shapes,
)
from datasets.hdf5_trust import check_rows, damaged, open_trusted
from datasets.wheels import CAPTURED_SOURCE, GAME

MAX_ATTRIBUTE_BYTES: Final = 2**24
MAX_TEXT: Final = 2**24
MAX_REPLAYS: Final = 1_000_000
MAX_SIDE: Final = 16_384
"""Pixels of a side of a frame."""
MAX_INTERVAL_MS: Final = 60_000
MAX_SOURCE: Final = 200


@dataclass(frozen=True)
class Part:
    """One HDF5 file of a dataset.

    Attributes:
        offsets: byte offset of each row dataset that is stored contiguously in the file, so that it
            can be read past the library, without its overhead and its global lock.
        labelled: whether it has label actions.
    """

    path: Path
    spec: DatasetSpec
    replays: npt.NDArray[np.void]
    n_frames: int
    n_actions: int
    offsets: dict[str, int]
    labelled: bool = False


def load_part(path: Path) -> Part:
    """Open a file and check it.

    Raises:
        UserError: it is missing, damaged, foreign, empty, or of another version.
    """
    with open_trusted(path) as handle:
        try:
            return _read(handle, path)
        except UserError:
            raise
        except Exception as error:  # of a damaged file the library raises nearly anything
            raise damaged(path, str(error)) from error


def _read(handle: h5py.File, path: Path) -> Part:
    spec = read_spec(handle, path)
    replays = _read_replay_table(handle, path)
    labelled = LABEL_ACTIONS in handle
    dtypes = {**ROW_DTYPES, **({LABEL_ACTIONS: np.uint8} if labelled else {})}
    rows = {name: _stored_here(handle, name, path) for name in dtypes}
    for name in ("frames", "actions"):
        if not rows[name].shape:
            raise UserError(f"{path}: {name} is a single value, expected rows")
    n_frames, n_actions = len(rows["frames"]), len(rows["actions"])
    shapes = {**row_shapes(n_frames, n_actions, spec.image_size), LABEL_ACTIONS: (n_actions,)}
    for name, dtype in dtypes.items():
        if rows[name].shape != shapes[name] or rows[name].dtype != dtype:
            raise UserError(
                f"{path}: {name} is {rows[name].dtype} {rows[name].shape}, "
                f"expected {np.dtype(dtype)} {shapes[name]}"
            )
    _check_ranges(path, replays, n_frames, n_actions)
    offsets = {name: rows[name].id.get_offset() for name in dtypes if rows[name].chunks is None}
    known = {name: int(offset) for name, offset in offsets.items() if offset is not None}
    size = path.stat().st_size
    if any(offset + rows[name].nbytes > size for name, offset in known.items()):
        raise damaged(path, "truncated")
    return Part(path, spec, replays, n_frames, n_actions, known, labelled)


# -- attributes ---------------------------------------------------------------------------------


def read_spec(handle: h5py.File, path: Path) -> DatasetSpec:
    """Check the attributes of an open file and read its specification.

    Raises:
        UserError: another format or version, other actions or floats, an attribute that is missing
            or has a value that it cannot have.
    """
    attributes = _Attributes(handle, path)
    if "format" not in handle.attrs or attributes.text("format") != FORMAT_NAME:
        raise UserError(f"{path}: an HDF5 file, but not a {FORMAT_NAME} dataset (attribute format)")
    _check_version(handle, path)
    if not np.array_equal(attributes.value("action_table"), ACTION_KEYS):
        raise UserError(f"{path}: its action table differs from the {N_ACTIONS} actions here")
    if not np.array_equal(attributes.value("float_names"), np.array(FLOAT_NAMES, dtype=object)):
        raise UserError(f"{path}: its float names differ from the {N_FLOATS} floats here")
    for name, expected in (("tick_ms", TICK_MS), ("action_ms", ACTION_MS)):
        if name in handle.attrs and attributes.whole(name, (1, LONGEST_RECORD_MS)) != expected:
            raise UserError(f"{path}: its {name} is not the {expected} ms here")
    source = attributes.text("source")
    if not 1 <= len(source) <= MAX_SOURCE:
        attributes.refuse("source", f"{len(source)} letters", f"1 to {MAX_SOURCE}")
    key_ms = attributes.whole("key_ms", (TICK_MS, MAX_INTERVAL_MS))
    if key_ms % TICK_MS:
        attributes.refuse("key_ms", key_ms, f"a multiple of {TICK_MS} ms")
    spec = DatasetSpec(
        image_size=attributes.size("image_size"),
        frame_interval_ms=attributes.whole("frame_interval_ms", (0, MAX_INTERVAL_MS)),
        key_ms=key_ms,
        source=source,
        parameters=attributes.json_object("parameters"),
    )
    minor = 0
    if "minor_version" in handle.attrs:
        minor = attributes.whole("minor_version", (0, FORMAT_MINOR))
    if minor < 1 and spec.source == CAPTURED_SOURCE and spec.has_floats:
        spec = replace(spec, wheel_order=GAME)
    return spec


def _check_version(handle: h5py.File, path: Path) -> None:
    """Refuse every version but this one: versions are whole numbers, without a minor one."""
    found = "none"
    if "version" in handle.attrs:
        value = _Attributes(handle, path).value("version")
        if value.size == 1 and value.dtype.kind in "iu" and value.item() == FORMAT_VERSION:
            return
        found = str(value.item()) if value.size == 1 else "of another form"
    raise UserError(f"{path}: format version {found}, this program reads {FORMAT_VERSION}")


class _Attributes:
    """Attributes of a file, read within bounds."""

    def __init__(self, handle: h5py.File, path: Path) -> None:
        self._handle, self._path = handle, path

    def refuse(self, name: str, found: object, expected: str) -> NoReturn:
        """Raise UserError for a value."""
        raise UserError(f"{self._path}: attribute {name} is {found}, expected {expected}")

    def value(self, name: str) -> npt.NDArray[Any]:
        """Return any value as an array."""
        if name not in self._handle.attrs:
            raise UserError(f"{self._path}: no attribute {name}; the file is damaged or foreign")
        if self._handle.attrs.get_id(name).get_storage_size() > MAX_ATTRIBUTE_BYTES:
            self.refuse(name, "very large", f"at most {MAX_ATTRIBUTE_BYTES:,} bytes")
        return np.asarray(self._handle.attrs[name])

    def text(self, name: str) -> str:
        """Return a text."""
        value = self.value(name)
        if value.size != 1 or not isinstance(value.item(), str) or len(value.item()) > MAX_TEXT:
            self.refuse(name, "something else", "a text")
        return str(value.item())

    def whole(self, name: str, within: tuple[int, int]) -> int:
        """Return a whole number."""
        value = self.value(name)
        lowest, highest = within
        if value.size != 1 or value.dtype.kind not in "iu":
            self.refuse(name, "something else", "a whole number")
        number = int(value.item())
        if not lowest <= number <= highest:
            self.refuse(name, number, f"{lowest} to {highest}")
        return number

    def size(self, name: str) -> tuple[int, int]:
        """Return the (height, width) of a picture."""
        value = self.value(name)
        if value.shape != (2,) or value.dtype.kind not in "iu":
            self.refuse(name, "something else", "height and width")
        height, width = (int(side) for side in value)
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            self.refuse(name, f"{height}x{width}", f"sides of 1 to {MAX_SIDE}")
        return height, width

    def json_object(self, name: str) -> dict[str, Any]:
        """Return a JSON object."""
        try:
            value = parse_json(self.text(name), parse_constant=_refuse_constant)
        except ValueError:
            self.refuse(name, "no JSON", "a JSON object")
        if not isinstance(value, dict):
            self.refuse(name, "something else", "a JSON object")
        return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


# -- replays ------------------------------------------------------------------------------------


def _read_replay_table(handle: h5py.File, path: Path) -> npt.NDArray[np.void]:
    """Read the table; (R,) of `REPLAY_DTYPE`."""
    assert REPLAY_DTYPE.names is not None
    columns = {name: _stored_here(handle, f"replays/{name}", path) for name in REPLAY_DTYPE.names}
    wrong = [name for name, column in columns.items() if column.ndim != 1]
    if wrong:
        raise UserError(
            f"{path}: replays/{wrong[0]} has {columns[wrong[0]].ndim} dimensions, not 1"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise UserError(f"{path}: the columns of replays/ have different lengths: {lengths}")
    if not lengths["name"]:
        raise UserError(f"{path}: no replays in it; record it again")
    if lengths["name"] > MAX_REPLAYS:
        raise UserError(f"{path}: {lengths['name']:,} replays, at most {MAX_REPLAYS:,}")
    table = np.zeros(lengths["name"], dtype=REPLAY_DTYPE)
    for name, column in columns.items():
        read = _texts if name in TEXT_COLUMNS else _numbers
        table[name] = read(column, name, path)
    _check_replays(table, path)
    return table


def _texts(column: h5py.Dataset, name: str, path: Path) -> npt.NDArray[np.object_]:
    if h5py.check_string_dtype(column.dtype) is None:
        raise UserError(f"{path}: replays/{name} is {column.dtype}, expected texts")
    texts: npt.NDArray[np.object_] = column.asstr()[:]
    longest = max(map(len, texts), default=0)
    if longest > TEXT_COLUMNS[name]:
        raise UserError(
            f"{path}: replays/{name} has a text of {longest} letters, at most {TEXT_COLUMNS[name]}"
        )
    return texts


def _numbers(column: h5py.Dataset, name: str, path: Path) -> npt.NDArray[Any]:
    expected = REPLAY_DTYPE[name]
    kinds = {"b": "biu", "i": "iu", "f": "fiu"}[expected.kind]
    if column.dtype.kind not in kinds:
        raise UserError(f"{path}: replays/{name} is {column.dtype}, expected {expected}")
    values: npt.NDArray[Any] = column[:]
    if expected.kind == "f":
        return values
    lowest, highest = (0, 1) if expected.kind == "b" else _limits(expected)
    outside = (values < lowest) | (values > highest)
    if outside.any():
        found = values[outside][0]
        raise UserError(f"{path}: replays/{name} has {found}, expected {lowest} to {highest}")
    return values


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _check_replays(table: npt.NDArray[np.void], path: Path) -> None:
    """Refuse values that no replay has."""
    rules: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]] = {
        "track": lambda texts: texts == "",
        "name": lambda texts: texts == "",
        "skill": np.isinf,
        "race_time_ms": lambda times: (times < 0) | (times > LONGEST_RECORD_MS),
        "finish_meters": lambda meters: ~np.isfinite(meters),
        "attempt": lambda numbers: numbers < 0,
    }
    for name, is_wrong in rules.items():
        wrong = is_wrong(table[name])
        if wrong.any():
            row = int(wrong.argmax())
            found = table[name][row]
            raise UserError(
                f"{path}: replay {row} ({table['name'][row]}): {name} is {str(found)!r}"
            )


def _check_ranges(path: Path, replays: npt.NDArray[np.void], n_frames: int, n_actions: int) -> None:
    """Check that the replays cover the rows one after another, without gap or overlap."""
    for kind, total in (("frame", n_frames), ("action", n_actions)):
        counts = replays[f"{kind}_count"]
        if (counts < 0).any():
            raise UserError(f"{path}: a replay has a negative number of {kind}s")
        if (counts > total).any():  # before they are added up
            raise UserError(f"{path}: the table of replays does not cover its {total} {kind}s")
        ends = np.cumsum(counts)
        if (
            not np.array_equal(ends - counts, replays[f"first_{kind}"])
            or (ends[-1:] != total).any()
        ):
            raise UserError(f"{path}: the table of replays does not cover its {total} {kind}s")


# -- row datasets -------------------------------------------------------------------------------


def _stored_here(handle: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset all of whose values lie in the file.

    Raises:
        UserError: it is missing or none, a link, or its values lie in other files or nowhere.
    """
    place: h5py.Group = handle
    for step in name.split("/"):
        if not isinstance(place, h5py.Group) or step not in place.keys():  # noqa: SIM118
            what = "column" if "/" in name else "dataset"
            shown = name if "/" in name else repr(name)
            raise UserError(f"{path}: no {what} {shown}; the file is damaged or foreign")
        if not isinstance(place.get(step, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: {name} is a link; copy the rows into the file")
        place = place[step]
    if not isinstance(place, h5py.Dataset):
        raise UserError(f"{path}: no dataset {name!r}; the file is damaged or foreign")
    check_rows(place, f"{path}: {name}")
    return place
