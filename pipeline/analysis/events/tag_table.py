"""The tags of an event file as numbers in the order of their first entry."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.jit import Int, compiled

FNV_OFFSET: Final = 0xCBF29CE484222325
FNV_PRIME: Final = 0x100000001B3


class TagTable(NamedTuple):
    """Tags by their bytes, as a hash table with open addressing.

    Attributes:
        slots: (S,) int32 number of the tag by FNV-1a hash, S a power of two; -1 is free.
        places: (T, 2) where each tag lies in the pool: begin and length.
        other_plugin: (T,) 1 for a tag of another plugin than `scalars`.
        pool: (P,) bytes of all tags.
        used: (2,) numbers of tags and of bytes in the pool.
    """

    slots: npt.NDArray[np.int32]
    places: npt.NDArray[np.int64]
    other_plugin: npt.NDArray[np.uint8]
    pool: npt.NDArray[np.uint8]
    used: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, tags: int, pool_bytes: int) -> "TagTable":
        """Return a table with room for `tags` tags of `pool_bytes` bytes in all."""
        return cls(
            slots=np.full(1 << (4 * tags - 1).bit_length(), -1, np.int32),
            places=np.zeros((tags, 2), np.int64),
            other_plugin=np.zeros(tags, np.uint8),
            pool=np.zeros(pool_bytes, np.uint8),
            used=np.zeros(2, np.int64),
        )

    def grown(self, more_tags: int, more_bytes: int) -> "TagTable":
        """Return the table with room for more tags and bytes; itself where it has the room."""
        n_tags, n_bytes = self.used.tolist()
        capacity = min(len(self.places), len(self.slots) // 2)
        if n_tags + more_tags <= capacity and n_bytes + more_bytes <= len(self.pool):
            return self
        tags = len(self.places) if n_tags + more_tags <= capacity else 2 * (n_tags + more_tags)
        room = (
            len(self.pool) if n_bytes + more_bytes <= len(self.pool) else 2 * n_bytes + more_bytes
        )
        other = TagTable.empty(tags, room)
        other.places[:n_tags] = self.places[:n_tags]
        other.other_plugin[:n_tags] = self.other_plugin[:n_tags]
        other.pool[:n_bytes] = self.pool[:n_bytes]
        other.used[:] = self.used
        fill_slots(other)
        return other

    def names(self) -> tuple[str, ...]:
        """Return all tags; bytes that are no UTF-8 are replaced."""
        pool = self.pool.tobytes()
        places = self.places[: self.used[0]].tolist()
        return tuple(pool[b : b + n].decode("utf-8", errors="replace") for b, n in places)


@compiled
def hash_of(data: npt.NDArray[np.uint8], low: int, high: int) -> Int:
    """Return the FNV-1a hash of data[low:high] as uint64."""
    hashed = np.uint64(FNV_OFFSET)
    for at in range(low, high):
        hashed = (hashed ^ np.uint64(data[at])) * np.uint64(FNV_PRIME)
    return hashed


@compiled
def fill_slots(table: TagTable) -> None:
    """Enter all tags of a table into its empty slots."""
    mask = len(table.slots) - 1
    for number in range(table.used[0]):
        begin, length = table.places[number, 0], table.places[number, 1]
        slot = np.int64(hash_of(table.pool, begin, begin + length) & np.uint64(mask))
        while table.slots[slot] >= 0:
            slot = (slot + 1) & mask
        table.slots[slot] = number


@compiled
def number_of(table: TagTable, data: npt.NDArray[np.uint8], low: int, high: int) -> Int:
    """Return the number of the tag data[low:high]; a new tag is entered.

    Args:
        table: with room for one more tag and its bytes.
        data: bytes of the file.
        low: where the tag begins.
        high: where it ends.
    """
    slots, places, pool = table.slots, table.places, table.pool
    mask = len(slots) - 1
    slot = np.int64(hash_of(data, low, high) & np.uint64(mask))
    while slots[slot] >= 0:
        found = slots[slot]
        same = places[found, 1] == high - low
        i = 0
        while same and i < high - low:
            same = pool[places[found, 0] + i] == data[low + i]
            i += 1
        if same:
            return np.int64(found)
        slot = (slot + 1) & mask
    new, used = table.used[0], table.used[1]
    slots[slot] = new
    places[new, 0], places[new, 1] = used, high - low
    for i in range(high - low):
        pool[used + i] = data[low + i]
    table.used[0] += 1
    table.used[1] += high - low
    return new
