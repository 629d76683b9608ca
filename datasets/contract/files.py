"""Whole files: atomic writes, hashes; JSON and arrays that are checked before they are used."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from datasets.contract.errors import UserError

DEEPEST_JSON: Final = 50
"""Levels of lists and objects in each other; what this program writes has 6 at most."""
MAX_DIMENSIONS: Final = 8
_READERS: Final = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_KINDS: Final = "biuf"
"""Kinds of numbers that are read: booleans, whole numbers, real numbers."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    The file is flushed to disk before it is renamed. On any error the temporary file is removed and
    what was at `path` stays.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: could not be saved ({error.strerror or error}); nothing was replaced"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # such as a folder that is a file: nothing to remove
            temporary.unlink(missing_ok=True)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is at `path`, unless that was asked for.

    Raises:
        UserError: something is there and `overwrite` is false.
    """
    if not overwrite and Path(path).exists():
        raise UserError(f"{path} exists; choose another --out or add --overwrite")


def check_replaceable(folder: Path, index: str, names: re.Pattern[str]) -> None:
    """Refuse to remove a folder with anything in it that this program does not write there.

    Args:
        folder: that is to be replaced.
        index: name of the file that every such folder has.
        names: of everything that it may hold.

    Raises:
        UserError: another folder, or a file.
    """
    there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(name for name in there if not names.fullmatch(name))
    if index in there and not others:
        return
    reason = f"{others[0]} in it" if index in there else f"no {index} in it"
    raise UserError(
        f"{folder} is not a dataset that can be replaced ({reason}); choose another --out"
    )


def fsync_folder(folder: Path) -> None:
    """Flush what was made, renamed or removed in a folder, so that a power cut keeps it."""
    if os.name == "nt":  # a folder cannot be opened there; the rename itself is journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to `<name>.damaged`, so that nothing of it is lost.

    Returns:
        Its new path, with a number if that name is taken.
    """
    names = (f"{path.name}.damaged{'' if n == 1 else n}" for n in itertools.count(1))
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(free)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, or is not JSON.
        OSError: the system refuses to read it, which says nothing about its content.
    """
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: not a file") from error
    except ValueError as error:  # also bytes that are no text, and numbers of over 4,300 digits
        raise UserError(f"{path}: not a JSON file ({error})") from error


def parse_json(text: str | bytes, *, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Return the value of `text`, no deeper than `DEEPEST_JSON`.

    Args:
        parse_constant: called with `NaN`, `Infinity` and `-Infinity`, which JSON does not have;
            by default they become floats.

    Raises:
        ValueError: not JSON, or lists and objects that lie in each other too deep.
    """
    try:
        value = json.loads(text, parse_constant=parse_constant)
    except RecursionError as error:
        raise ValueError("too deep") from error
    check_depth(value)
    return value


def check_depth(value: Any, deepest: int = DEEPEST_JSON) -> None:
    """Refuse lists and objects that lie in each other too deep for code that calls itself.

    Raises:
        ValueError: more than `deepest` levels.
    """
    level = [value]
    for _ in range(deepest + 1):
        containers = [each for each in level if isinstance(each, list | dict)]
        if not containers:
            return
        level = [
            inner
            for each in containers
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    raise ValueError(f"more than {deepest} levels deep")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_array(path: Path, what: str) -> npt.NDArray[Any]:
    """Read the array of real numbers in a `.npy` file.

    Args:
        path: of the file.
        what: it should be, for errors, such as "reference line".

    Raises:
        UserError: it is missing, cut, no `.npy` file, or holds anything but plain numbers.
    """
    try:
        with Path(path).open("rb") as file:
            shape, fortran, dtype = _read_header(file)
            _check_size(shape, dtype, os.fstat(file.fileno()).st_size - file.tell())
            values = np.fromfile(file, dtype, math.prod(shape))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path}: not a .npy array of numbers ({error})") from error
    return values.reshape(shape, order="F" if fortran else "C")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type.

    Raises:
        ValueError: not a header of a `.npy` file.
    """
    try:
        version = npy.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"version {version}")
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = _READERS[version](file)
    except OSError:
        raise
    except Exception as error:  # the header is a Python literal, whose reader raises anything
        raise ValueError("its header is damaged, or it has none") from error
    return header


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], left: int) -> None:
    """Refuse what the rest of the file cannot hold, or what is no number."""
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise ValueError(f"it holds {dtype}")
    counts = (type(side) is int and side >= 0 for side in shape)  # numpy takes a bool for one
    if len(shape) > MAX_DIMENSIONS or not all(counts):
        raise ValueError(f"its shape is {shape}")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > left:
        raise ValueError(f"it claims {claimed:,} bytes and has {left:,}")
