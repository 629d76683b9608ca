"""Batches of recorded frames as torch tensors: deterministic, resumable, bounded in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from datasets.contract.actions import ACTION_FORWARD, ACTION_KEYS
from datasets.contract.floats import CLOCK, N_PREVIOUS_ACTIONS, PREVIOUS_ACTIONS
from datasets.contract.minirace import draw_clock
from datasets.format import ROW_DTYPES, row_shapes
from datasets.labels import check_offsets, frame_decisions, frame_labels
from datasets.order import FrameOrder
from datasets.reader import ReplayFile
from datasets.returns import ReturnTable
from datasets.windows import LoadedWindow, WindowSource

Field = Literal["frames", "floats", "labels", "decisions", "returns"]
ALL_FIELDS: Final[tuple[Field, ...]] = ("frames", "floats", "labels", "decisions", "returns")
ROW_FIELDS: Final = ("frames", "floats")
"""Fields that are read from the disk; the others are derived."""
CACHE_BYTES: Final = 2**30
"""A selection up to this size is held in RAM after its first reading."""
FORWARD_HISTORY: Final = np.tile(ACTION_KEYS[ACTION_FORWARD], N_PREVIOUS_ACTIONS)
_STREAM_CLOCK, _STREAM_DROPOUT = 21, 22

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class BatchSettings:
    """What a batch holds and how it is drawn.

    Attributes:
        batch_size: frames of a batch.
        fields: which tensors to deliver; leaving out what is not needed saves its reading.
        offsets_ms: K offsets of the labels.
        decided_only: mask labels of actions that were decided before the frame.
        shuffle: False delivers frames as they are stored, and draws the same clocks in every epoch.
        drop_last: leave out the last batch of an epoch when it is not full.
        seed: of the order, the clocks and the dropout.
        previous_action_dropout: probability, per sample, of hiding the previous-action floats. A
            policy that always sees them learns to hold its keys instead of looking.
        previous_action_fill: what hides them: "forward" (as at the start) or "zeros".
        cache_bytes: RAM for holding the whole selection; 0 always streams from the disk.
        share: this rank and the number of ranks; their frames are disjoint. Ranks that train meet
            after each batch, so what one has more than others is left out, differently each epoch.
        n_stack: consecutive frames of a replay in an observation.
    """

    batch_size: int
    fields: tuple[Field, ...] = ALL_FIELDS
    offsets_ms: tuple[int, ...] = (0,)
    decided_only: bool = False
    shuffle: bool = True
    drop_last: bool = False
    seed: int = 0
    previous_action_dropout: float = 0.0
    previous_action_fill: Literal["forward", "zeros"] = "forward"
    cache_bytes: int = CACHE_BYTES
    share: tuple[int, int] = (0, 1)
    n_stack: int = 1


class FrameBatches:
    """Iterates over the batches of an epoch; each iteration is the next epoch.

    A batch is a dict of CPU tensors: frames (B, n_stack, H, W) uint8, oldest first, the replay's
    first frame repeated where it has no older ones; floats (B, 184) float32, raw, with
    a clock drawn for each sample in float 0; labels (B, K) int64, -1 where masked; decisions (B,)
    uint8, see `frame_decisions`; returns (B,) float32 mini-race returns at that clock, NaN where
    the record ends too early; frame_index (B,) int64 place in the dataset.

    `state_dict` and `load_state_dict` continue in the middle of an epoch with the same batches.

    Args:
        file: the dataset.
        replays: (r,) indices of the replays to use; all when None.
        first_epoch: tells which epoch is the first, when no state was loaded: a trainer that
            continues at the end of an epoch restores its own count alone.

    Raises:
        UserError: the dataset lacks the offsets.
    """

    def __init__(
        self,
        file: ReplayFile,
        settings: BatchSettings,
        replays: npt.NDArray[np.integer] | None = None,
        first_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        if settings.batch_size < 1:
            raise ValueError(f"batch_size is {settings.batch_size}")
        chosen = np.arange(file.n_replays) if replays is None else np.asarray(replays)
        if "labels" in settings.fields:
            check_offsets(file, settings.offsets_ms, chosen)
        self.file, self.settings = file, settings
        rows = file.replays[chosen]
        self._order = FrameOrder(
            np.stack([rows["first_frame"], rows["frame_count"]], axis=1),
            seed=settings.seed,
            shuffle=settings.shuffle,
            share=settings.share,
        )
        self._returns = ReturnTable.of(file) if "returns" in settings.fields else None
        self._rows = tuple(name for name in ROW_FIELDS if name in settings.fields)
        self._source = WindowSource(
            file, self._order, self._rows, settings.cache_bytes, settings.n_stack
        )
        self._first_epoch = first_epoch
        self._next: tuple[int, int] | None = None
        self._position = (0, 0)

    @property
    def n_frames(self) -> int:
        """Frames of this share, before `drop_last`."""
        return self._order.n_frames

    @property
    def smallest_share_frames(self) -> int:
        """Frames of the rank that has the fewest."""
        return self._order.smallest_share_frames

    def __len__(self) -> int:
        """Batches of an epoch; shuffled, for training, they are as many on all ranks."""
        size = self.settings.batch_size
        is_training_share = self.settings.share[1] > 1 and self.settings.shuffle
        if is_training_share or self.settings.drop_last:
            return self._order.smallest_share_frames // size
        return -(-self._order.n_frames // size)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration deliver this epoch, from this batch on."""
        self._next = self._position = (epoch, batch)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch stands."""
        return {"epoch": self._position[0], "batch": self._position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state_dict` was taken."""
        self.set_epoch(int(state["epoch"]), int(state["batch"]))

    def sample(self) -> Batch:
        """Return a batch for trial runs; the order of the next batches stays the same."""
        position = self._position
        batch = next(self._epoch_batches(0, 0))
        self._position = position
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """Return the next epoch, which is chosen when its first batch is asked for."""
        if self._next is None:
            self._next = (self._first_epoch(), 0)
        epoch, first = self._next
        if first >= len(self):
            epoch, first = epoch + 1, 0
        self._next = (epoch + 1, 0)
        yield from self._epoch_batches(epoch, first)

    def _epoch_batches(self, epoch: int, first: int) -> Iterator[Batch]:
        number, skip = first, first * self.settings.batch_size
        batch = self._empty_rows(number)
        for window in self._order.windows(epoch):
            n = len(window.order)
            if skip >= n:  # delivered before a restart, not read again
                skip -= n
                continue
            loaded = self._source.load(window)
            at, skip = skip, 0
            while at < n and number < len(self):
                at += batch.fill(loaded, at)
                if batch.is_full:
                    number += 1
                    self._position = (epoch, number)
                    yield self._finish(batch, epoch, number - 1)
                    batch = self._empty_rows(number)

    def _empty_rows(self, number: int) -> "_Rows":
        size = self.settings.batch_size
        left = max(min(size, self.n_frames - number * size), 0)
        return _Rows(self._rows, self.file, left, self.settings.n_stack)

    def _finish(self, rows: "_Rows", epoch: int, number: int) -> Batch:
        """Turn gathered rows into tensors, with everything that is drawn or derived per sample."""
        settings = self.settings
        batch: Batch = {"frame_index": torch.from_numpy(rows.index)}
        draw = (settings.seed, settings.share[0], epoch if settings.shuffle else 0, number)
        if "frames" in rows.arrays:
            batch["frames"] = torch.from_numpy(rows.arrays["frames"])
        clock = draw_clock(np.random.default_rng([_STREAM_CLOCK, *draw]), len(rows.index))
        if "floats" in rows.arrays:
            floats = rows.arrays["floats"]
            floats[:, CLOCK] = clock
            self._hide_previous_actions(floats, np.random.default_rng([_STREAM_DROPOUT, *draw]))
            batch["floats"] = torch.from_numpy(floats)
        if "labels" in settings.fields:
            wanted = frame_labels(
                self.file, rows.index, settings.offsets_ms, decided_only=settings.decided_only
            )
            batch["labels"] = torch.from_numpy(wanted)
        if "decisions" in settings.fields:
            batch["decisions"] = torch.from_numpy(frame_decisions(self.file, rows.index))
        if self._returns is not None:
            batch["returns"] = torch.from_numpy(self._returns.returns(rows.index, clock))
        return batch

    def _hide_previous_actions(
        self, floats: npt.NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        if self.settings.previous_action_dropout <= 0:
            return
        hidden = rng.random(len(floats)) < self.settings.previous_action_dropout
        forward = self.settings.previous_action_fill == "forward"
        floats[hidden, PREVIOUS_ACTIONS] = FORWARD_HISTORY if forward else 0.0


class _Rows:
    """The arrays of one batch while they are filled."""

    def __init__(self, names: tuple[str, ...], file: ReplayFile, size: int, n_stack: int) -> None:
        shapes = row_shapes(size, 0, file.image_size)
        shapes["frames"] = (size, n_stack, *file.image_size)
        self.arrays: dict[str, npt.NDArray[Any]] = {
            name: np.empty(shapes[name], dtype=ROW_DTYPES[name]) for name in names
        }
        self.index = np.empty(size, dtype=np.int64)
        self._filled = 0

    @property
    def is_full(self) -> bool:
        return self._filled == len(self.index)

    def fill(self, window: LoadedWindow, at: int) -> int:
        """Take rows of a window from `at` on; the number taken."""
        count = min(len(window.rows) - at, len(self.index) - self._filled)
        place = slice(self._filled, self._filled + count)
        rows = window.rows[at : at + count]
        stacks = rows[:, None] - window.back[at : at + count]
        for name, array in self.arrays.items():
            wanted = stacks if name == "frames" else rows
            # "clip" lets numpy write into the output without a copy; the rows are in range
            np.take(window.arrays[name], wanted, axis=0, out=array[place], mode="clip")
        self.index[place] = window.frames[at : at + count]
        self._filled += count
        return count
