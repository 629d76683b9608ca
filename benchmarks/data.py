"""How fast batches come from a dataset: `uv run python -m benchmarks.data`.

A file of noise is written, read once to warm it, and then delivered as uint8 batches by one
process: streamed block by block, from RAM, and by a plain HDF5 dataset behind torch's `DataLoader`.
Then a pass of each pretraining stage, forward and backward, is timed on such batches: the loader's
share of a stage is the time that a batch takes to be delivered, over that time and the pass
together. The last line is one JSON object.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.batches import (
    ALL_FIELDS,
    CACHE_BYTES,
    Batch,
    BatchSettings,
    Field,
    FrameBatches,
)
from datasets.contract.floats import N_FLOATS
from datasets.format import DatasetSpec, ReplayRecord
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from pretrain.bc.config import BCConfig
from pretrain.bc.module import BCModule
from pretrain.hardware import StageModule
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule

REPLAY_FRAMES = 500
TARGET_FRAMES_PER_S = 150_000
TARGET_LOADER_SHARE = 0.05


class PlainDataset(Dataset[torch.Tensor]):
    """What one writes first: the file stays open, each index reads one frame."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r")
        self._frames = self._file["frames"]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._frames[index]).unsqueeze(0)


def write_noise(path: Path, n_frames: int, size: int) -> None:
    """Return a dataset of random frames, floats and actions."""
    rng = np.random.default_rng(0)
    times = np.arange(REPLAY_FRAMES, dtype=np.int32) * 50
    with DatasetWriter(path, DatasetSpec((size, size), 50, 50, "noise")) as writer:
        for number in range(n_frames // REPLAY_FRAMES):
            writer.add(
                ReplayRecord(
                    track="noise",
                    name=f"noise_{number:05d}",
                    driver="noise",
                    skill=0.5,
                    race_time_ms=REPLAY_FRAMES * 50,
                    finished=True,
                    finish_meters=1000.0,
                    frames=rng.integers(0, 255, (REPLAY_FRAMES, size, size)).astype(np.uint8),
                    floats=rng.random((REPLAY_FRAMES, N_FLOATS), dtype=np.float32),
                    frame_time_ms=times,
                    meters=(times / 25).astype(np.float32),
                    actions=rng.integers(0, 12, REPLAY_FRAMES * 5).astype(np.uint8),
                )
            )


def frames_per_second(
    batches: Iterable[object], count: Callable[[object], int], seconds: float
) -> float:
    """Time the fastest pass within `seconds`, which other load disturbs least.

    A pass that takes longer than that is measured over its first `seconds`.
    """
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        frames, start = 0, time.perf_counter()
        for batch in batches:
            frames += count(batch)
            if time.perf_counter() - start >= seconds:
                break
        best = max(best, frames / (time.perf_counter() - start))
    return best


def count_batch(batch: object) -> int:
    """Frames of a batch, of either kind."""
    return len(batch["frames"] if isinstance(batch, dict) else batch)  # type: ignore[arg-type]


def measure(path: Path, batch_size: int, seconds: float) -> dict[str, float]:
    """Frames per second of each way of reading."""
    kinds: dict[str, tuple[tuple[Field, ...], int]] = {
        "streamed_frames": (("frames",), 0),
        "streamed_all": (ALL_FIELDS, 0),
        "cached_frames": (("frames",), CACHE_BYTES),
        "cached_all": (ALL_FIELDS, CACHE_BYTES),
    }
    rates = {}
    with ReplayFile(path) as file:
        for name, (fields, cache_bytes) in kinds.items():
            settings = BatchSettings(
                batch_size, fields, (0, 10, 100), cache_bytes=cache_bytes, drop_last=True
            )
            batches = FrameBatches(file, settings)
            for _ in batches:  # warms the file, and fills the cache where there is one
                pass
            rates[name] = frames_per_second(batches, count_batch, seconds)
    loader = DataLoader(PlainDataset(path), batch_size=batch_size, shuffle=True)
    rates["plain_h5py_dataloader"] = frames_per_second(loader, count_batch, seconds)
    return rates


def loader_shares(path: Path, frames: int, seconds: float) -> dict[str, float]:
    """Share of the training time that each stage waits for its batches, streamed from the file.

    Args:
        frames: of a pass.
        seconds: for the passes of a stage, and again for its batches.
    """
    with ReplayFile(path) as file:
        size = file.image_size
        bc = BCConfig.model_validate({"image_size": size})
        stages: dict[str, tuple[StageModule, tuple[Field, ...], tuple[int, ...]]] = {
            "vis": (VisModule(VisConfig.model_validate({"image_size": size})), ("frames",), (0,)),
            "bc": (BCModule(bc), ALL_FIELDS, bc.bc_time_offsets_ms),
        }
        shares = {}
        for stage, (module, fields, offsets) in stages.items():
            settings = BatchSettings(frames, fields, offsets, cache_bytes=0, drop_last=True)
            batches = FrameBatches(file, settings)
            batch = next(iter(batches))
            loading = frames / frames_per_second(batches, count_batch, seconds)
            shares[stage] = loading / (loading + pass_seconds(module, batch, seconds))
    return shares


def pass_seconds(module: StageModule, batch: Batch, seconds: float) -> float:
    """Time the fastest forward and backward pass within `seconds`."""
    best, end = math.inf, time.perf_counter() + seconds
    module.train()
    module.batch_loss(batch).backward()  # type: ignore[no-untyped-call]
    while time.perf_counter() < end or math.isinf(best):
        start = time.perf_counter()
        module.batch_loss(batch).backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=50_000, help="frames in the file")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=3.0, help="per way of reading")
    parser.add_argument("--pass-frames", type=int, default=1024, help="frames of a training pass")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.h5"
        write_noise(path, arguments.frames, arguments.size)
        rates = measure(path, arguments.batch_size, arguments.seconds)
        shares = loader_shares(path, arguments.pass_frames, arguments.seconds)
    for stage, share in shares.items():
        print(f"{'loader_share_of_' + stage:24} {share:12.2%}")
    for name, rate in rates.items():
        print(f"{name:24} {rate:12,.0f} frames/s")
    streamed = rates["streamed_frames"]
    result = {
        "benchmark": "data",
        "frames_per_s": {name: round(rate) for name, rate in rates.items()},
        "times_plain": round(streamed / rates["plain_h5py_dataloader"], 1),
        "image_size": arguments.size,
        "batch_size": arguments.batch_size,
        "target_frames_per_s": TARGET_FRAMES_PER_S,
        "loader_share": {stage: round(share, 4) for stage, share in shares.items()},
        "target_loader_share": TARGET_LOADER_SHARE,
        "reached": min(streamed, rates["streamed_all"]) >= TARGET_FRAMES_PER_S
        and max(shares.values()) <= TARGET_LOADER_SHARE,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
