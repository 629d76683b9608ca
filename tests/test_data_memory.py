"""A process that trains needs as much memory for much data as for little."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.format import DatasetSpec, ReplayRecord
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
REPLAY_BYTES = 8 * 2**20
MAX_SHARE = 0.03
"""Of the data that is added: the table of replays, times, metres and actions are held."""

EPOCH = """
    import json, resource, sys
    from datasets.batches import BatchSettings, FrameBatches
    from datasets.reader import ReplayFile
    with ReplayFile(sys.argv[1]) as file:
        settings = BatchSettings(4096, offsets_ms=(0, 100), cache_bytes=0)
        frames = sum(len(batch["frames"]) for batch in FrameBatches(file, settings))
        assert frames == file.n_frames
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "frames": frames}))
"""


def long_replay(record: ReplayRecord) -> ReplayRecord:
    """The frames of a replay again and again, on one timeline."""
    times = -(-REPLAY_BYTES // (record.frames[:1].nbytes + record.floats[:1].nbytes))
    rows = np.arange(times) % len(record.frames)
    frame_time_ms = np.arange(times, dtype=np.int32) * 50
    ticks = np.arange(times * 5) % len(record.actions)
    return replace(
        record,
        race_time_ms=times * 50,
        frames=record.frames[rows],
        floats=record.floats[rows],
        frame_time_ms=frame_time_ms,
        meters=(frame_time_ms / 25).astype(np.float32),
        actions=record.actions[ticks],
    )


def write_large(path: Path, record: ReplayRecord, spec: DatasetSpec, size: int) -> Path:
    with DatasetWriter(path, spec) as writer:
        for number in range(size // REPLAY_BYTES):
            writer.add(replace(record, name=f"replay_{number:05d}"))
    return path


def peak_bytes(path: Path) -> int:
    """Peak memory of a process that reads an epoch."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EPOCH), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(json.loads(done.stdout)["peak"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    drive_dataset(tmp_path / "short.h5", DriveRequest(("short",), 1))
    with ReplayFile(tmp_path / "short.h5") as file:
        record, spec = long_replay(file.replay(0)), file.spec
    peaks = {}
    for size in (GIB, 3 * GIB):
        folder = write_large(tmp_path / f"data{size}", record, spec, size)
        peaks[size] = peak_bytes(folder)
        for shard in folder.iterdir():
            shard.unlink()
    assert peaks[3 * GIB] - peaks[GIB] < MAX_SHARE * 2 * GIB, peaks
