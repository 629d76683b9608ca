"""Files that are either whole or as they were: atomic writes, JSON, hashes."""

import contextlib
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.contract.errors import UserError


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
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path}: not a file") from error
    except ValueError as error:  # also bytes that are no text, and numbers of over 4,300 digits
        raise UserError(f"{path}: not a JSON file ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a JSON file (too deep)") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
