"""How fast are event files read back? Ours, cold and from the cache, beside TensorBoard's reader.

    uv run python -m benchmarks.event_logs --runs 10 --scalars 1000000

Writes runs of synthetic scalars with the tags of a long run (once, under --folder), reads all of
them cold and from the cache, and the first of them with `EventAccumulator` keeping every entry. The
largest memory is that of the process that read them all. The last line is one JSON object.
"""

import argparse
import json
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import track

from pipeline.analysis.events.crc import CRC_TABLES, masked_crc

TAGS: Final = 40
"""Tags that share a run's scalars evenly."""


def main() -> None:
    """Write the runs, then measure each reader in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--scalars", type=int, default=1_000_000, help="of each run")
    parser.add_argument("--folder", type=Path, default=Path("output/benchmarks/event_logs"))
    parser.add_argument("--measure", choices=("ours", "tensorboard"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = [f"run{i}" for i in range(arguments.runs)]
    if arguments.measure == "ours":
        print(json.dumps(_read_ours(arguments.folder, names)))
        return
    if arguments.measure == "tensorboard":
        print(json.dumps(_read_tensorboard(arguments.folder / names[0])))
        return
    write_run(arguments.folder / names[0], arguments.scalars)
    for name in names[1:]:  # the same bytes cost a reader the same
        shutil.copytree(arguments.folder / names[0], arguments.folder / name, dirs_exist_ok=True)
    cache = arguments.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    _compile()
    cold, theirs = _measure(arguments, "ours"), _measure(arguments, "tensorboard")
    cached = _measure(arguments, "ours")
    report = {
        "benchmark": "event_logs",
        "runs": arguments.runs,
        "scalars": arguments.scalars,
        "cold_s": cold["seconds"],
        "cold_cpu_s": cold["cpu_s"],
        "cached_s": cached["seconds"],
        "cached_cpu_s": cached["cpu_s"],
        "largest_memory_mib": cold["memory_mib"],
        "tensorboard_one_run_s": theirs["seconds"],
        "tensorboard_one_run_cpu_s": theirs["cpu_s"],
        "times_as_fast": round(theirs["seconds"] * arguments.runs / cold["seconds"], 1),
        "times_as_fast_by_cpu": round(theirs["cpu_s"] * arguments.runs / cold["cpu_s"], 1),
    }
    print(json.dumps(report))


def write_run(folder: Path, scalars: int) -> None:
    """Write an event file of `scalars` entries, unless it is there; several share one step."""
    path = folder / "events.out.tfevents.1700000000.host.1.0"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(scalars)
    values = rng.random(scalars).astype(np.float32).tolist()
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        for i, value in enumerate(track(values, description="writing a run")):
            tag = f"Performance/instrumentation__number_{i % TAGS}".encode()
            step = 100 * (i // TAGS) + 1
            summary = b"\x0a" + bytes([len(tag)]) + tag + b"\x15" + struct.pack("<f", value)
            summary = b"\x0a" + bytes([len(summary)]) + summary
            event = b"\x09" + struct.pack("<d", 1.7e9 + i / 50) + b"\x10" + _varint(step)
            file.write(record(event + b"\x2a" + bytes([len(summary)]) + summary))
    temporary.replace(path)


def record(data: bytes) -> bytes:
    """Return `data` as a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _crc(length) + data + _crc(data)


def _crc(data: bytes) -> bytes:
    crc = int(masked_crc(np.frombuffer(data, np.uint8), 0, len(data), CRC_TABLES))
    return struct.pack("<I", crc)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _compile() -> None:
    """Compile the routines into numba's cache, so that no measurement includes it."""
    code = "from benchmarks.event_logs import *; warm()"
    subprocess.run([sys.executable, "-c", code], check=True)


def warm() -> None:
    """Read a small log without the cache."""
    from tempfile import TemporaryDirectory

    from pipeline.analysis.run_log import read_runs

    with TemporaryDirectory() as folder:
        write_run(Path(folder) / "small", 100)
        read_runs(["small"], Path(folder).resolve(), cache=None)


def _measure(arguments: argparse.Namespace, reader: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.event_logs", "--measure", reader]
    command += ["--runs", str(arguments.runs), "--folder", str(arguments.folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _read_ours(folder: Path, names: list[str]) -> dict[str, float]:
    from pipeline.analysis.run_log import read_runs

    started, cpu = time.perf_counter(), time.process_time()
    runs = read_runs(names, folder.resolve(), cache=folder / "cache")
    entries = sum(len(run.series(tag)) for run in runs for tag in run.tags[:1])
    assert entries > 0
    return _cost(started, cpu)


def _read_tensorboard(folder: Path) -> dict[str, float]:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    started, cpu = time.perf_counter(), time.process_time()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return _cost(started, cpu)


def _cost(started: float, cpu: float) -> dict[str, float]:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "memory_mib": round(kib / 1024, 0),
    }


if __name__ == "__main__":
    main()
