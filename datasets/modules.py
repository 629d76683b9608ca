"""Lightning data modules: frames for the visual stage, replays for behavioural cloning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import numpy.typing as npt

from datasets.batches import CACHE_BYTES, BatchSettings, Field, FrameBatches
from datasets.content import check_content
from datasets.contract.errors import UserError
from datasets.reader import ReplayFile
from datasets.split import Split, SplitBy, frames_of_replays, split_replays


class FramesModule(L.LightningDataModule):
    """Batches of frames alone: {frames (B, n_stack, H, W) uint8, frame_index (B,) int64}.

    Args:
        path: dataset file or folder.
        batch_size: frames of a batch on one rank.
        image_size: pixels of a side that the network expects; None takes what the file has.
        val_fraction: share of the frames to validate on, held out as in `split_replays`.
        seed: of the split and of the order.
        split_by: "auto", "track" or "replay".
        skip_bad_shards: leave out bad shards of a folder instead of refusing it.
        cache_bytes: RAM for holding the training frames, and again for the validation frames.
        n_stack: consecutive frames of a replay in an observation.

    Raises:
        UserError: from `setup`, when the file does not fit what is asked.
    """

    fields: tuple[Field, ...] = ("frames",)

    def __init__(
        self,
        path: Path | str,
        *,
        batch_size: int,
        image_size: int | tuple[int, int] | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        split_by: SplitBy = "auto",
        skip_bad_shards: bool = False,
        cache_bytes: int = CACHE_BYTES,
        n_stack: int = 1,
    ) -> None:
        super().__init__()
        self.n_stack = n_stack
        self.path = Path(path)
        self.batch_size, self.seed = batch_size, seed
        self.val_fraction, self.split_by = val_fraction, split_by
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.skip_bad_shards, self.cache_bytes = skip_bad_shards, cache_bytes
        self._file: ReplayFile | None = None
        self._split: Split | None = None
        self._train: FrameBatches | None = None

    @property
    def file(self) -> ReplayFile:
        """The open dataset."""
        if self._file is None:
            self.setup()
        assert self._file is not None
        return self._file

    @property
    def split(self) -> Split:
        """Which replays train and which validate."""
        if self._split is None:
            self.setup()
        assert self._split is not None
        return self._split

    def setup(self, stage: str | None = None) -> None:
        """Open the file and split it; the same on every rank."""
        if self._file is not None:
            return
        file = ReplayFile(self.path, skip_bad=self.skip_bad_shards)
        if self.image_size is not None and file.image_size != tuple(self.image_size):
            height, width = file.image_size
            raise UserError(
                f"{self.path} has images of {height}x{width} pixels, the config asks for "
                f"{self.image_size[0]}x{self.image_size[1]}; record again with --image-size"
            )
        check_content(file)
        self._split = split_replays(file, self.val_fraction, self.seed, self.split_by)
        self._file = file

    def _settings(self, **changes: Any) -> BatchSettings:
        trainer = self.trainer
        share = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return BatchSettings(
            batch_size=self.batch_size,
            fields=self.fields,
            seed=self.seed,
            cache_bytes=self.cache_bytes,
            n_stack=self.n_stack,
            **{"share": share, **changes},
        )

    def train_dataloader(self) -> FrameBatches:
        """Shuffled batches of the training replays.

        The last one of an epoch may be smaller; with several ranks it is left out then.

        Raises:
            UserError: too few frames for a batch on each rank.
        """
        if self._train is None:
            self._train = FrameBatches(
                self.file, self._settings(), self.split.train, self._current_epoch
            )
            if len(self._train) == 0:
                raise UserError(self._too_few("training", self._train, self.batch_size))
        return self._train

    def _current_epoch(self) -> int:
        return 0 if self.trainer is None else int(self.trainer.current_epoch)

    def val_dataloader(self) -> FrameBatches | list[FrameBatches]:
        """Return the validation frames as they are stored; none if no replay was held out.

        Raises:
            UserError: too few frames for all ranks.
        """
        if len(self.split.val) == 0:
            return []
        batches = FrameBatches(self.file, self._settings(shuffle=False), self.split.val)
        if batches.smallest_share_frames == 0:
            raise UserError(self._too_few("held-out", batches, 1))
        return batches

    def held_out(self) -> FrameBatches:
        """All validation frames as they are stored, whatever rank this is."""
        return FrameBatches(self.file, self._settings(shuffle=False, share=(0, 1)), self.split.val)

    def _too_few(self, part: str, batches: FrameBatches, needed: int) -> str:
        ranks = batches.settings.share[1]
        return (
            f"{self.path}: {batches.smallest_share_frames} {part} frames for one of {ranks} "
            f"processes, which needs {needed}; train with fewer devices, or drive more replays"
        )

    def describe(self) -> dict[str, Any]:
        """Return what a stage writes down about its data: plain JSON values."""
        replays = self.file.replays
        return {
            "path": self.path.as_posix(),
            "identity": self.file.identity(),
            "source": self.file.spec.source,
            "wheel_order": self.file.spec.wheel_order,
            "skipped_shards": len(self.file.skipped),
            "n_frames": self.file.n_frames,
            "n_replays": self.file.n_replays,
            "tracks": self.file.tracks,
            "frame_interval_ms": self.file.frame_interval_ms,
            "split": {
                "by": self.split.by,
                "seed": self.seed,
                "train_replays": len(self.split.train),
                "val_replays": len(self.split.val),
                "val_tracks": sorted({str(t) for t in replays["track"][self.split.val]}),
            },
        }

    def frames_of(self, part: Literal["train", "val"]) -> npt.NDArray[np.int64]:
        """(n,) indices of the frames of a part, ascending."""
        replays = self.split.train if part == "train" else self.split.val
        return frames_of_replays(self.file, replays)


class ReplayModule(FramesModule):
    """Batches for behavioural cloning: frames, floats, labels, decisions and mini-race returns.

    Args:
        path: dataset file or folder.
        batch_size: frames of a batch on one rank.
        offsets_ms: K offsets of the labels, multiples of 10 ms.
        decided_only: mask labels of actions that were decided before the frame.
        use_floats: deliver the floats.
        use_returns: deliver the mini-race returns.
        previous_action_dropout: probability, per training sample, of hiding the previous-action
            floats; validation always shows them.
        previous_action_fill: what hides them: "forward" or "zeros".
        **options: those of `FramesModule`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        batch_size: int,
        offsets_ms: Sequence[int] = (0,),
        decided_only: bool = True,
        use_floats: bool = True,
        use_returns: bool = True,
        previous_action_dropout: float = 0.0,
        previous_action_fill: Literal["forward", "zeros"] = "forward",
        **options: Any,
    ) -> None:
        super().__init__(path, batch_size=batch_size, **options)
        self.offsets_ms = tuple(int(offset) for offset in offsets_ms)
        self.decided_only = decided_only
        self.previous_action_dropout = previous_action_dropout
        self.previous_action_fill: Literal["forward", "zeros"] = previous_action_fill
        wanted: list[tuple[Field, bool]] = [
            ("frames", True),
            ("floats", use_floats),
            ("labels", True),
            ("decisions", True),
            ("returns", use_returns),
        ]
        self.fields = tuple(name for name, used in wanted if used)

    def setup(self, stage: str | None = None) -> None:
        """Open the file and split it; refuse floats and returns that it does not have."""
        super().setup(stage)
        if {"floats", "returns"} & set(self.fields) and not self.file.spec.has_floats:
            raise UserError(
                f"{self.path}: imported with --frames-only, so its floats are unknown; set "
                "use_floats: false, or import it again with meta"
            )

    def _settings(self, **changes: Any) -> BatchSettings:
        training = changes.get("shuffle", True)
        return super()._settings(
            offsets_ms=self.offsets_ms,
            decided_only=self.decided_only,
            previous_action_dropout=self.previous_action_dropout if training else 0.0,
            previous_action_fill=self.previous_action_fill,
            **changes,
        )
