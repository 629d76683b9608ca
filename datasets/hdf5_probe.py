"""A process that opens an HDF5 file which may hang or crash the library: `python -m … PATH`.

It follows all groups, links, attributes and types, reads the texts, and walks the lists of chunks.
Its exit code is 0 unless it crashes: an error that the library reports will be reported again.
"""

import contextlib
import sys
from typing import Final

import h5py

MAX_MEMORY: Final = 8 * 2**30
MAX_CPU_SECONDS: Final = 30
"""A sound file takes less than one, unless it has very many parts."""
MAX_ATTRIBUTE: Final = 2**26
MAX_TEXTS: Final = 10_000_000


def main(path: str) -> None:
    """Open and follow a file."""
    _limit_resources()
    with contextlib.suppress(Exception), h5py.File(path, "r") as handle:
        _follow(handle)


def _limit_resources() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _follow(group: h5py.Group) -> None:
    _read_attributes(group)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        with contextlib.suppress(Exception):
            member = group[name]
            if isinstance(member, h5py.Group):
                _follow(member)
            elif isinstance(member, h5py.Dataset):
                _read_attributes(member)
                _follow_rows(member)


def _follow_rows(rows: h5py.Dataset) -> None:
    if h5py.check_vlen_dtype(rows.dtype) is not None or h5py.check_string_dtype(rows.dtype):
        if rows.size <= MAX_TEXTS:
            rows[()]
    elif rows.chunks is not None:
        rows.id.get_chunk_info(max(rows.id.get_num_chunks() - 1, 0))


def _read_attributes(owner: h5py.Group | h5py.Dataset) -> None:
    for name in owner.attrs:
        with contextlib.suppress(Exception):
            if owner.attrs.get_id(name).get_storage_size() <= MAX_ATTRIBUTE:
                owner.attrs[name]


if __name__ == "__main__":
    main(sys.argv[1])
