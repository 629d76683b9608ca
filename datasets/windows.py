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
    """

    arrays: dict[str, npt.NDArray[Any]]
    rows: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]


class WindowSource:
    """Loads windows of one selection of frames.

    What is delivered does not depend on whether it is cached.

    Args:
        names: the row datasets to load.
        cache_bytes: RAM for holding the whole selection; above it one window is held.
    """

    def __init__(
        self, file: ReplayFile, order: FrameOrder, names: tuple[str, ...], cache_bytes: int
    ) -> None:
        self._file, self._names = file, names
        blocks = order.blocks[np.argsort(order.blocks[:, 0], kind="stable")]
        self._blocks = blocks
        self._starts = np.cumsum(blocks[:, 1]) - blocks[:, 1]
        row_bytes = sum(a.nbytes for a in self._empty(1).values())
        self._cached = order.n_frames * row_bytes <= cache_bytes
        self._arrays: dict[str, npt.NDArray[Any]] | None = None

    def _empty(self, n: int) -> dict[str, npt.NDArray[Any]]:
        shapes = row_shapes(n, 0, self._file.image_size)
        return {name: np.empty(shapes[name], dtype=ROW_DTYPES[name]) for name in self._names}

    def load(self, window: Window) -> LoadedWindow:
        """The window's rows; they stay valid until the next call."""
        if self._cached:
            if self._arrays is None:
                self._arrays = self._empty(int(self._blocks[:, 1].sum()))
                self._read(self._blocks, self._arrays)
            first, count = window.blocks[:, 0], window.blocks[:, 1]
            held = self._starts[np.searchsorted(self._blocks[:, 0], first)]
            return LoadedWindow(self._arrays, span_rows(held, count)[window.order], window.frames)
        if self._arrays is None:
            self._arrays = self._empty(WINDOW_BLOCKS * BLOCK_FRAMES)
        self._read(window.blocks, self._arrays)
        return LoadedWindow(self._arrays, window.order, window.frames)

    def _read(self, blocks: npt.NDArray[np.int64], arrays: dict[str, npt.NDArray[Any]]) -> None:
        starts = np.cumsum(blocks[:, 1]) - blocks[:, 1]
        for (first, count), start in zip(blocks.tolist(), starts.tolist(), strict=True):
            for name, array in arrays.items():
                self._file.read_into(name, first, array[start : start + count])
