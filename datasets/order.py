"""The order in which frames are delivered: shuffled, seeded, and cheap to read from a disk.

Frames are cut into blocks of neighbours. Each epoch shuffles the blocks, gathers some of them into
a window and shuffles the frames inside it. So a read is one block, memory holds one window, and any
batch of any epoch is found from the seed alone: a stop in the middle of an epoch continues exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

BLOCK_FRAMES: Final = 64
WINDOW_BLOCKS: Final = 256
_STREAM_SHARES, _STREAM_BLOCKS, _STREAM_WINDOWS = 11, 12, 13


@dataclass(frozen=True)
class Window:
    """Some blocks, and the order of their frames.

    Attributes:
        blocks: (n, 2) int64 first frame and number of frames of each block, in reading order.
        order: (w,) int64 delivered position -> row of the window (blocks one after another).
    """

    blocks: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    @property
    def frames(self) -> npt.NDArray[np.int64]:
        """(w,) indices of the frames, in delivered order."""
        return span_rows(self.blocks[:, 0], self.blocks[:, 1])[self.order]


class FrameOrder:
    """The order of one share of the selected frames, for every epoch.

    Args:
        ranges: (r, 2) first frame and number of frames of each selected replay.
        shuffle: False delivers frames as they are stored, in every epoch.
        share: which of the disjoint shares this is, and of how many (ranks of a distributed run).
    """

    def __init__(
        self,
        ranges: npt.NDArray[np.integer],
        *,
        seed: int,
        shuffle: bool,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        index, total = share
        if not 0 <= index < total:
            raise ValueError(f"share {index} of {total}")
        self._seed, self._shuffle = seed, shuffle
        blocks = _cut(_merge(np.asarray(ranges, dtype=np.int64).reshape(-1, 2)))
        if total > 1:  # the same blocks in every epoch, so that a share has a constant length
            blocks = blocks[np.random.default_rng([seed, _STREAM_SHARES]).permutation(len(blocks))]
        shares = [blocks[i::total] for i in range(total)]
        self.blocks = shares[index]
        self.n_frames = int(self.blocks[:, 1].sum())
        self.smallest_share_frames = min(int(part[:, 1].sum()) for part in shares)

    def windows(self, epoch: int) -> Iterator[Window]:
        """Return the windows of an epoch, in order."""
        blocks = self.blocks
        if self._shuffle:
            rng = np.random.default_rng([self._seed, _STREAM_BLOCKS, epoch])
            blocks = blocks[rng.permutation(len(blocks))]
        for number, start in enumerate(range(0, len(blocks), WINDOW_BLOCKS)):
            chosen = blocks[start : start + WINDOW_BLOCKS]
            count = int(chosen[:, 1].sum())
            if self._shuffle:
                rng = np.random.default_rng([self._seed, _STREAM_WINDOWS, epoch, number])
                yield Window(chosen, rng.permutation(count))
            else:
                yield Window(chosen, np.arange(count))


def span_rows(first: npt.NDArray[np.int64], count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return, for each i in order, the count[i] numbers from first[i] on."""
    starts = np.cumsum(count) - count
    return np.repeat(first - starts, count) + np.arange(int(count.sum()))


def _merge(ranges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Join ranges that touch, so that short replays do not make short blocks."""
    merged: list[list[int]] = []
    for first, count in ranges[np.argsort(ranges[:, 0], kind="stable")]:
        if count == 0:
            continue
        if merged and sum(merged[-1]) == first:
            merged[-1][1] += int(count)
        else:
            merged.append([int(first), int(count)])
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def _cut(ranges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Cut ranges into blocks of at most `BLOCK_FRAMES`."""
    blocks = [
        (start, min(BLOCK_FRAMES, first + count - start))
        for first, count in ranges
        for start in range(first, first + count, BLOCK_FRAMES)
    ]
    return np.array(blocks, dtype=np.int64).reshape(-1, 2)
