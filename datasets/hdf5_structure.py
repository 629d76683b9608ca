"""The structure of an HDF5 file as this program writes it, read without the library.

The library believes what a file of the format's first generation says: one changed bit can make it
loop without end or crash the process. So every address, length and count that the library would
follow is followed here first, within the bounds of the file.

Source: the HDF5 File Format Specification, version 3 (https://docs.hdfgroup.org): superblock of
version 0, object headers of version 1, symbol tables, local and global heaps.
"""

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
UNDEFINED: Final = 2**64 - 1
MAX_BLOCK: Final = 2**28
"""Bytes of structure that are read at once."""
MAX_MESSAGES: Final = 10_000
_FREE_NULL: Final = 1
_LEAF_ENTRIES, _TREE_ENTRIES = 8, 32
_DATASPACE, _DATATYPE, _FILL, _LAYOUT, _ATTRIBUTE = 0x01, 0x03, 0x05, 0x08, 0x0C
_NIL, _CONTINUATION, _SYMBOL_TABLE, _MODIFIED = 0x00, 0x10, 0x11, 0x12
_GROUP_MESSAGES: Final = {_NIL, _CONTINUATION, _SYMBOL_TABLE, _ATTRIBUTE}
_ROWS_MESSAGES: Final = {_NIL, _CONTINUATION, _DATASPACE, _DATATYPE, _FILL, _LAYOUT, _MODIFIED}
_REFERENCE: Final = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
"""Where a text of any length lies: in which global heap, and which of its objects it is."""
_STRING_CLASS: Final = 9
"""Class of data types of any length; in this program's files they are all texts."""


class DamagedError(Exception):
    """The file points outside of itself, or contradicts itself."""


class UnknownStructureError(Exception):
    """The file may be sound, but is not of the form that this program writes."""


@dataclass(frozen=True)
class Values:
    """How an attribute or a dataset is stored.

    Attributes:
        datatype: the message that describes the type of an element.
        dims: (rank,) elements along each dimension.
        fill: the message that describes what stands where nothing was written; empty for an
            attribute.
    """

    datatype: bytes
    dims: tuple[int, ...]
    fill: bytes = b""

    @property
    def count(self) -> int:
        """Number of elements."""
        count = 1
        for side in self.dims:
            count *= side
        return count

    @property
    def element_bytes(self) -> int:
        """Bytes of an element."""
        return int.from_bytes(self.datatype[4:8], "little")

    @property
    def is_text(self) -> bool:
        """Whether the elements are references to texts."""
        return self.datatype[0] & 0x0F == _STRING_CLASS


@dataclass(frozen=True)
class Structure:
    """What a file holds.

    Attributes:
        attributes: of the root group, by name.
        datasets: by path.
    """

    attributes: dict[str, Values]
    datasets: dict[str, Values]


def read_structure(file: BinaryIO) -> Structure:
    """Follow everything in a file.

    Raises:
        OSError: the file cannot be read.
        DamagedError: it is damaged.
        UnknownStructureError: its parts are of other kinds than those of this program's files.
    """
    return _Walk(file).structure()


class _Block:
    """Bytes that are taken one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, form: str) -> tuple[int, ...]:
        """Take numbers, as `struct.unpack` does."""
        values: tuple[int, ...] = struct.unpack(form, self.raw(struct.calcsize(form)))
        return values

    def raw(self, count: int) -> bytes:
        """Take bytes."""
        if count > self.left:
            raise DamagedError("a part of it is longer than what it lies in")
        self._at += count
        return self._data[self._at - count : self._at]

    def padded(self, count: int) -> bytes:
        """Take bytes that end at a multiple of 8."""
        return self.raw(-(-count // 8) * 8)[:count]

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self._data) - self._at


class _Walk:
    """Follows the parts of one file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._heaps: dict[int, dict[int, int]] = {}

    def structure(self) -> Structure:
        header, tree, heap = self._superblock()
        messages = self._messages(header, _GROUP_MESSAGES)
        members = self._members(messages, (tree, heap))
        attributes = dict(self._attribute(body) for kind, body in messages if kind == _ATTRIBUTE)
        datasets: dict[str, Values] = {}
        for name, member in members.items():
            if not member.is_group:
                datasets[name] = self._rows(member.header)
                continue
            inner = self._messages(member.header, _GROUP_MESSAGES - {_ATTRIBUTE})
            for column, inside in self._members(inner, member.cached).items():
                if inside.is_group:
                    raise UnknownStructureError("a group inside a group")
                datasets[f"{name}/{column}"] = self._rows(inside.header)
        return Structure(attributes, datasets)

    def _block(self, address: int, size: int) -> _Block:
        """Return bytes of the file."""
        if size > MAX_BLOCK:
            raise UnknownStructureError("a very large part")
        if address + size > self._size:
            raise DamagedError("it points beyond its end")
        self._file.seek(address)
        return _Block(self._file.read(size))

    # -- groups -------------------------------------------------------------------------------

    def _superblock(self) -> tuple[int, int, int]:
        """Return the addresses of the root group's object header, name tree and name heap."""
        block = self._block(0, 96)
        if block.raw(8) != SIGNATURE:
            raise DamagedError("its head is damaged")
        if block.raw(16) != bytes([0, 0, 0, 0, 0, 8, 8, 0, 4, 0, 16, 0, 0, 0, 0, 0]):
            raise UnknownStructureError("a head of another version")
        base, free, end, driver = block.take("<4Q")
        if (base, free, driver) != (0, UNDEFINED, UNDEFINED):
            raise UnknownStructureError("a head with more parts")
        if end > self._size:
            raise DamagedError("truncated")
        _, header, cache, _, tree, heap = block.take("<QQIIQQ")
        if cache != 1:
            raise UnknownStructureError("a root group of another kind")
        return header, tree, heap

    def _messages(self, address: int, known: set[int]) -> list[tuple[int, bytes]]:
        """Return type and content of each message of an object's header."""
        version, _, count, _, size = self._block(address, 16).take("<BBHII")
        if version != 1 or count > MAX_MESSAGES:
            raise UnknownStructureError("an object header of another version")
        found: list[tuple[int, bytes]] = []
        blocks = [(address + 16, size)]
        for start, length in blocks:  # grows while it is read, by a message each
            block = self._block(start, length)
            while block.left >= 8:
                kind, size, flags = block.take("<HHBxxx")
                body = block.raw(size)
                found.append((kind, body))
                if len(found) > count or size % 8:
                    raise DamagedError("an object header contradicts itself")
                if kind not in known or flags & ~1:
                    raise UnknownStructureError(f"message {kind} with flags {flags}")
                if kind == _CONTINUATION:
                    start_of_next, length_of_next = _Block(body).take("<QQ")
                    blocks.append((start_of_next, length_of_next))
        if len(found) != count:
            raise DamagedError("an object header contradicts itself")
        return found

    def _members(
        self, messages: list[tuple[int, bytes]], cached: tuple[int, int] | None
    ) -> dict[str, "_Member"]:
        """Return what a group holds, by name.

        Args:
            messages: of its header.
            cached: addresses of its name tree and name heap, as whoever points to it says.
        """
        tables = [body for kind, body in messages if kind == _SYMBOL_TABLE]
        if len(tables) != 1:
            raise UnknownStructureError("a group without a table of its names")
        tree, heap = _Block(tables[0]).take("<QQ")
        if cached is not None and cached != (tree, heap):
            raise DamagedError("two addresses of one group")
        names = self._names(heap)
        block = self._block(tree, 24 + 8 * (2 * _TREE_ENTRIES + 1))
        mark, kind, level, used, left, right = struct.unpack("<4sBBHQQ", block.raw(24))
        if mark != b"TREE" or kind != 0 or used > _TREE_ENTRIES:
            raise DamagedError("a tree of names is none")
        if level or (left, right) != (UNDEFINED, UNDEFINED):
            raise UnknownStructureError("a group with very many members")
        found: dict[str, _Member] = {}
        names.at(block.take("<Q")[0])
        for _ in range(used):
            child, key = block.take("<QQ")
            names.at(key)
            found.update(self._leaf(child, names))
        return found

    def _leaf(self, address: int, names: "_Names") -> dict[str, "_Member"]:
        block = self._block(address, 8 + 40 * _LEAF_ENTRIES)
        mark, version, _, used = struct.unpack("<4sBBH", block.raw(8))
        if mark != b"SNOD" or version != 1 or used > _LEAF_ENTRIES:
            raise DamagedError("a list of names is none")
        found: dict[str, _Member] = {}
        for _ in range(used):
            name, header, cache, _, tree, heap = block.take("<QQIIQQ")
            if cache not in (0, 1):
                raise UnknownStructureError("a link that is no hard link")
            found[names.at(name)] = _Member(header, (tree, heap) if cache else None)
        return found

    def _names(self, address: int) -> "_Names":
        mark, version, size, free, data = struct.unpack(
            "<4sBxxxQQQ", self._block(address, 32).raw(32)
        )
        if mark != b"HEAP" or version != 0:
            raise DamagedError("a heap of names is none")
        names = _Names(self._block(data, size).raw(size))
        names.check_free(free)
        return names

    # -- attributes and datasets --------------------------------------------------------------

    def _attribute(self, body: bytes) -> tuple[str, Values]:
        block = _Block(body)
        version, _, name_size, type_size, space_size = block.take("<BBHHH")
        if version != 1:
            raise UnknownStructureError("an attribute of another version")
        name = block.padded(name_size).rstrip(b"\0").decode("ascii", "replace")
        datatype = _datatype(block.padded(type_size))
        values = Values(datatype, _dims(block.padded(space_size)))
        data = block.raw(values.count * values.element_bytes)
        if values.is_text:
            self._check_texts(data)
        return name, values

    def _rows(self, address: int) -> Values:
        """Return how a dataset is stored, which must be in one piece."""
        messages = self._messages(address, _ROWS_MESSAGES)
        parts = {kind: body for kind, body in messages if kind not in (_NIL, _CONTINUATION)}
        if not parts.keys() >= {_DATASPACE, _DATATYPE, _FILL, _LAYOUT}:
            raise UnknownStructureError("a dataset of another kind")
        datatype = _datatype(parts[_DATATYPE])
        values = Values(datatype, _dims(parts[_DATASPACE]), parts[_FILL])
        layout = _Block(parts[_LAYOUT])
        if layout.take("<BB") != (3, 1):
            raise UnknownStructureError("a dataset that is not in one piece")
        start, size = layout.take("<QQ")
        if size != values.count * values.element_bytes:
            raise DamagedError("a dataset has another size than its shape")
        if size and start == UNDEFINED:
            raise DamagedError("a dataset was never written")
        if size and start + size > self._size:
            raise DamagedError("truncated")
        if values.is_text and size:
            self._check_texts(self._block(start, size).raw(size))
        return values

    def _check_texts(self, data: bytes) -> None:
        """Check where texts lie."""
        references = np.frombuffer(data, _REFERENCE)
        references = references[references["address"] != 0]
        for address in set(references["address"].tolist()):
            sizes = self._heap(address)
            here = references[references["address"] == address]
            for index, length in zip(here["index"].tolist(), here["length"].tolist(), strict=True):
                if length > sizes.get(index, -1):
                    raise DamagedError("a text lies outside of its heap")

    def _heap(self, address: int) -> dict[int, int]:
        """Return the bytes of each object of a global heap."""
        if address not in self._heaps:
            mark, version, size = struct.unpack("<4sBxxxQ", self._block(address, 16).raw(16))
            if mark != b"GCOL" or version != 1 or size < 16:
                raise DamagedError("a heap of texts is none")
            block = self._block(address, size)
            block.raw(16)
            sizes: dict[int, int] = {}
            while block.left >= 16:
                index, _, length = block.take("<HHxxxxQ")
                if index == 0:  # what is free, up to the end
                    if length > block.left + 16 or length < 16:
                        raise DamagedError("a heap of texts contradicts itself")
                    break
                if index in sizes:
                    raise DamagedError("a heap of texts contradicts itself")
                block.padded(length)
                sizes[index] = length
            self._heaps[address] = sizes
        return self._heaps[address]


@dataclass(frozen=True)
class _Member:
    """What a group points to.

    Attributes:
        header: address of its object header.
        cached: of a group, the addresses of its name tree and name heap.
    """

    header: int
    cached: tuple[int, int] | None

    @property
    def is_group(self) -> bool:
        return self.cached is not None


class _Names:
    """A local heap: the names of a group's members."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def at(self, offset: int) -> str:
        """Return the name that begins there."""
        end = self._data.find(b"\0", offset) if offset < len(self._data) else -1
        if end < 0:
            raise DamagedError("a name lies outside of its heap")
        return self._data[offset:end].decode("ascii", "replace")

    def check_free(self, first: int) -> None:
        """Follow the list of free places."""
        seen: set[int] = set()
        at = first
        while at not in (_FREE_NULL, UNDEFINED):
            if at in seen or at + 16 > len(self._data):
                raise DamagedError("a list of free places has no end")
            seen.add(at)
            at, size = struct.unpack_from("<QQ", self._data, at)
            if size > len(self._data):
                raise DamagedError("a free place is larger than its heap")


def _datatype(body: bytes) -> bytes:
    if len(body) < 8:
        raise DamagedError("a data type is cut")
    return body


def _dims(body: bytes) -> tuple[int, ...]:
    """Return the dimensions of a dataspace."""
    block = _Block(body)
    version, rank, flags = block.take("<BBBxxxxx")
    if version != 1 or rank > 8 or flags not in (0, 1):
        raise UnknownStructureError("a dataspace of another version")
    dims = block.take(f"<{rank}Q")
    if flags and block.take(f"<{rank}Q") != dims:
        raise UnknownStructureError("a dataset that can grow")
    return dims
