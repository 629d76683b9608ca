"""Small made-up replays for the tests of datasets: valid ones, with every number different."""

from pathlib import Path

import numpy as np

from datasets.contract.floats import (
    CLOCK,
    N_FLOATS,
    PREVIOUS_ACTIONS,
    UP,
    VELOCITY,
    previous_actions,
)
from datasets.format import DatasetSpec, ReplayRecord
from datasets.writer import DatasetWriter

HEIGHT, WIDTH = 10, 12
SPEC = DatasetSpec((HEIGHT, WIDTH), 50, 50, "test", {"seed": 3})


def make_replay(
    number: int,
    *,
    track: str = "loop",
    n_frames: int = 23,
    interval_ms: int = 50,
    finished: bool = True,
) -> ReplayRecord:
    """A replay whose race ends 30 ms after its last frame."""
    rng = np.random.default_rng([17, number])
    times = np.arange(n_frames, dtype=np.int32) * interval_ms
    race_time_ms = int(times[-1]) + 30
    actions = rng.integers(0, 12, race_time_ms // 10).astype(np.uint8)
    floats = rng.normal(size=(n_frames, N_FLOATS)).astype(np.float32)
    floats[:, CLOCK] = 0
    floats[:, PREVIOUS_ACTIONS] = previous_actions(actions, times)
    advance = rng.uniform(0.5, 3.0, n_frames)
    meters = np.cumsum(advance).astype(np.float32) + 7
    floats[:, VELOCITY] = np.stack([0 * advance, 0 * advance, 1000 * advance / interval_ms], axis=1)
    floats[:, UP] = [0.0, 0.6, 0.8]
    return ReplayRecord(
        track=track,
        name=f"{track}_{number:05d}",
        driver="tester",
        skill=0.25,
        race_time_ms=race_time_ms,
        finished=finished,
        finish_meters=float(meters[-1]) + 1.5,
        frames=rng.integers(1, 255, (n_frames, HEIGHT, WIDTH)).astype(np.uint8),
        floats=floats,
        frame_time_ms=times,
        meters=meters,
        actions=actions,
    )


def write_dataset(
    path: Path, records: list[ReplayRecord], spec: DatasetSpec = SPEC, shard_bytes: int = 40_000
) -> Path:
    """Write records; `shard_bytes` is small, so that several shards are written."""
    with DatasetWriter(path, spec, shard_bytes=shard_bytes) as writer:
        for record in records:
            writer.add(record)
    return path


def sample_records(n_frames: int = 23) -> list[ReplayRecord]:
    """11 replays of different lengths on three tracks."""
    tracks = ["loop", "random:0", "random:1"]
    return [
        make_replay(i, track=tracks[i % 3], n_frames=n_frames + i, finished=i != 4)
        for i in range(11)
    ]
