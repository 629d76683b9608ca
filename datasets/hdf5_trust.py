"""Opening HDF5 files from anywhere: none may stop the program, crash it or lead to another file.

A file of this program's own form is followed without the library (`hdf5_structure`). For any other
form, such as what other programs write, a process of its own opens the file first: if that does not
end well and soon, the file is refused.
"""

import functools
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from datasets.contract.errors import UserError
from datasets.format import REPLAY_DTYPE, DatasetSpec, create_layout, write_replay_table
from datasets.hdf5_structure import (
    DamagedError,
    Structure,
    UnknownStructureError,
    Values,
    read_structure,
)

PROBE_SECONDS: Final = 300.0
"""For opening a file of another form, on a machine that is busy; the process itself ends when it
has used much less of a processor (`hdf5_probe`)."""
ROOT: Final = Path(__file__).resolve().parent.parent


def open_trusted(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        UserError: it is missing, not HDF5, truncated or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    check_structure(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise damaged(path, str(error)) from error


def check_structure(path: Path) -> None:
    """Refuse a file that the library cannot be trusted with.

    Raises:
        UserError: it is no HDF5 file, cannot be read, or is damaged.
    """
    try:
        if not h5py.is_hdf5(path):
            raise UserError(f"{path}: not an HDF5 file, or its head is damaged")
        with path.open("rb") as file:
            found = read_structure(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DamagedError as error:
        raise damaged(path, str(error)) from error
    except UnknownStructureError:
        probe(path)
        return
    if not _is_alike(found, _own_structure()):
        probe(path)


def check_self_contained(path: Path) -> None:
    """Refuse a file of any form that leads to other files.

    Raises:
        UserError: it does, or it is damaged.
    """
    with open_trusted(path) as handle:
        try:
            _check_members(handle, path)
        except UserError:
            raise
        except Exception as error:  # of a damaged file the library raises nearly anything
            raise damaged(path, str(error)) from error


def _check_members(group: h5py.Group, path: Path) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: {group.name}/{name} is a link; copy the data into the file")
        member = group[name]
        if isinstance(member, h5py.Group):
            _check_members(member, path)
        elif isinstance(member, h5py.Dataset):
            check_rows(member, f"{path}: {member.name}")


def check_rows(rows: h5py.Dataset, place: str) -> None:
    """Refuse a dataset whose values lie in other files, or nowhere.

    Raises:
        UserError: they do.
    """
    if rows.external is not None or rows.is_virtual:
        raise UserError(f"{place}: its values lie in other files; copy them into this one")
    if rows.size and not _is_written(rows):
        raise UserError(f"{place}: its values were never written; copy or record the file again")


def _is_written(rows: h5py.Dataset) -> bool:
    """Whether every value has a place in the file: a shape alone may claim more than any disk."""
    if rows.chunks is not None:
        needed = 1
        for side, chunk in zip(rows.shape, rows.chunks, strict=True):
            needed *= -(-side // chunk)
        return int(rows.id.get_num_chunks()) == needed
    return bool(rows.id.get_storage_size() >= rows.nbytes)


def damaged(path: Path, why: str) -> UserError:
    """Return the error that says that a file is damaged."""
    kind = "truncated" if "truncated" in why else "damaged"
    return UserError(f"{path}: {kind} HDF5 file; copy or record it again")


def probe(path: Path) -> None:
    """Let a process of its own open the file and follow everything but the data.

    Raises:
        UserError: it crashed or did not end.
    """
    command = [sys.executable, "-m", "datasets.hdf5_probe", str(path.resolve())]
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise damaged(path, "") from error


@functools.cache
def _own_structure() -> Structure:
    """Return the structure of a file as this program writes it, with every dataset."""
    with h5py.File("own.h5", "w", driver="core", backing_store=False) as handle:
        spec = DatasetSpec((8, 8), 50, 50, "own")
        for rows in create_layout(handle, spec, 1, 1, labelled=True).values():
            rows[:] = 0  # else it has no place in the file
        write_replay_table(handle, np.ones(1, dtype=REPLAY_DTYPE))
        handle.flush()
        return read_structure(io.BytesIO(handle.id.get_file_image()))


def _is_alike(found: Structure, own: Structure) -> bool:
    """Whether all parts are of the types that this program writes; numbers of rows may differ."""
    if not found.attributes.items() <= own.attributes.items():  # older files have fewer
        return False
    if not found.datasets.keys() <= own.datasets.keys():
        return False
    return all(_type_of(found.datasets[n]) == _type_of(own.datasets[n]) for n in found.datasets)


def _type_of(values: Values) -> tuple[bytes, int, bytes]:
    return values.datatype, len(values.dims), values.fill
