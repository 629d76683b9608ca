"""Loading windows of frames: from RAM when the selection fits, else blocks from the disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.format import ROW_DTYPES, row_shapes
from datasets.order import BLOCK_FRAMES, WINDOW_BLOCKS, FrameOrder, Window, span_rows
from datasets.reader import ReplayFile


@dataclass(frozen=True)
class LoadedWindow:
    """A window whose rows are in memory, until the next one is loaded.

    Attributes:
        arrays: rows by name of their dataset.
        rows: (w,) int64 row in `arrays` of each delivered position.
        frames: (w,) int64 index in the dataset of each delivered position.
        back: (w, n_stack) int64 how many rows before `rows` each frame of a stack lies.
    """

    arrays: dict[str, npt.NDArray[Any]]
    rows: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    back: npt.NDArray[np.int64]


def frames_back(
    file: ReplayFile, frames: npt.NDArray[np.integer], n_stack: int
) -> npt.NDArray[np.int64]:
    """How far back each frame of a stack lies; at a replay's start its first frame is repeated.

    Args:
        frames: (w,) indices of the newest frames.

    Returns:
        (w, n_stack) int64, oldest first: n_stack - 1 to 0, or less where the replay is younger.
    """
    steps = np.arange(n_stack - 1, -1, -1)
    if n_stack == 1:
        return np.zeros((len(frames), 1), dtype=np.int64)
    first = file.replays["first_frame"][file.replay_of_frame[frames]]
    back: npt.NDArray[np.int64] = np.minimum(steps, (frames - first)[:, None])
    return back


def read_stacks(
    file: ReplayFile, frames: npt.NDArray[np.integer], n_stack: int
) -> npt.NDArray[np.uint8]:
    """Read a few observations: (w, n_stack, H, W) uint8, oldest frame first."""
    stacks = frames[:, None] - frames_back(file, frames, n_stack)
    out = np.empty((stacks.size, *file.image_size), dtype=np.uint8)
    for place, index in enumerate(stacks.ravel().tolist()):
        file.read_into("frames", index, out[place : place + 1])
    return out.reshape(*stacks.shape, *file.image_size)


class WindowSource:
    """Loads windows of one selection of frames, and what precedes each block in its replay.

    What is delivered does not depend on whether it is cached.

    Args:
        names: the row datasets to load.
        cache_bytes: RAM for holding the whole selection; above it one window is held.
        n_stack: frames of an observation, the frame itself included.
    """

    def __init__(
        self,
        file: ReplayFile,
        order: FrameOrder,
        names: tuple[str, ...],
        cache_bytes: int,
        n_stack: int = 1,
    ) -> None:
        self._file, self._names, self._n_stack = file, names, n_stack
        blocks = order.blocks[np.argsort(order.blocks[:, 0], kind="stable")]
        self._firsts = blocks[:, 0]
        self._blocks, self._leads = self._with_lead(blocks)
        self._starts = np.cumsum(self._blocks[:, 1]) - self._blocks[:, 1]
        row_bytes = sum(a.nbytes for a in self._empty(1).values())
        self._cached = int(self._blocks[:, 1].sum()) * row_bytes <= cache_bytes
        self._arrays: dict[str, npt.NDArray[Any]] | None = None

    def _with_lead(
        self, blocks: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Blocks (n, 2) that begin with the older frames of their first stack, and how many."""
        lead = frames_back(self._file, blocks[:, 0], self._n_stack)[:, 0]
        return blocks + np.stack([-lead, lead], axis=1), lead

    def _empty(self, n: int) -> dict[str, npt.NDArray[Any]]:
        shapes = row_shapes(n, 0, self._file.image_size)
        return {name: np.empty(shapes[name], dtype=ROW_DTYPES[name]) for name in self._names}

    def load(self, window: Window) -> LoadedWindow:
        """Return the window's rows, which stay valid until the next call."""
        frames = window.frames
        back = frames_back(self._file, frames, self._n_stack)
        first, count = window.blocks[:, 0], window.blocks[:, 1]
        if self._cached:
            if self._arrays is None:
                self._arrays = self._empty(int(self._blocks[:, 1].sum()))
                self._read(self._blocks, self._arrays)
            place = np.searchsorted(self._firsts, first)
            held = self._starts[place] + self._leads[place]
        else:
            if self._arrays is None:
                longest = BLOCK_FRAMES + self._n_stack - 1
                self._arrays = self._empty(WINDOW_BLOCKS * longest)
            blocks, lead = self._with_lead(window.blocks)
            self._read(blocks, self._arrays)
            held = np.cumsum(blocks[:, 1]) - blocks[:, 1] + lead
        return LoadedWindow(self._arrays, span_rows(held, count)[window.order], frames, back)

    def _read(self, blocks: npt.NDArray[np.int64], arrays: dict[str, npt.NDArray[Any]]) -> None:
        starts = np.cumsum(blocks[:, 1]) - blocks[:, 1]
        for (first, count), start in zip(blocks.tolist(), starts.tolist(), strict=True):
            for name, array in arrays.items():
                self._file.read_into(name, first, array[start : start + count])
