"""`data capture`: input files are driven in the simulator and recorded.

So a run that was driven once can become data: a best run of a training, or an input script that a
person wrote.
"""

import hashlib
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from datasets.contract.race import MAX_RACE_MS
from datasets.format import DatasetSpec, ReplayRecord, check_text
from datasets.inputs import Inputs
from datasets.writer import DatasetWriter
from pipeline.recording.inputs import InputFile, find_inputs, key_time
from pipeline.recording.request import check_image_size, frame_interval
from pipeline.recording.tape import record_until_done

if TYPE_CHECKING:
    from rl.envs.sim.road import Track

logger = logging.getLogger(__name__)

CARS: Final = 64


@dataclass(frozen=True)
class CaptureRequest:
    """What to drive and how to record it.

    Attributes:
        replays: a folder of input files, searched with its subfolders, or one file.
        track: name, `random:SEED` or the path of a reference line.
        fps: frames per second of race.
        image_size: pixels (height, width).
        max_race_ms: race time at which a run is cut off.
        keep_unfinished: record runs that did not finish too.
    """

    replays: Path
    track: str
    fps: int = 20
    image_size: tuple[int, int] = (64, 64)
    max_race_ms: int = MAX_RACE_MS
    keep_unfinished: bool = False


@dataclass
class CaptureSummary:
    """What a capture did.

    Attributes:
        path: the dataset.
        recorded: replays of this call.
        already_there: replays that an earlier, interrupted call had recorded.
        unfinished: names of the runs of this call that did not finish.
        differing: names of the runs that took another time than they say.
    """

    path: Path
    recorded: int = 0
    already_there: int = 0
    unfinished: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


def capture_inputs(
    out: Path, request: CaptureRequest, *, overwrite: bool = False
) -> CaptureSummary:
    """Drive input files and write them as one dataset.

    Args:
        out: `NAME.h5`, or a name without that suffix for a folder of shards.
        overwrite: replace an existing dataset at the end.

    Raises:
        UserError: no input files, a bad line in one, an unknown track, an existing output.
    """
    from rl.envs.registry import find_track

    interval = frame_interval(request.fps)
    check_image_size(request.image_size)
    track = find_track(request.track)
    check_text("track", track.name, request.track)
    files = find_inputs(request.replays)
    others = sorted({file.map_name for file in files if file.map_name} - {track.name})
    if others:  # a warning: a map may have another name than its track
        logger.warning("runs of %s are driven on %s, too", ", ".join(others), track.name)
    summary = CaptureSummary(Path(out))
    columns = ("driving", BarColumn(), MofNCompleteColumn(), "runs", TimeRemainingColumn())
    spec = _spec(request, track, files, interval)
    with (
        DatasetWriter(summary.path, spec, overwrite=overwrite) as writer,
        Progress(*columns) as bar,
    ):
        waiting = [file for file in files if file.name not in writer.done_names]
        summary.already_there = len(files) - len(waiting)
        task = bar.add_task("drive", total=len(waiting))
        for first in range(0, len(waiting), CARS):
            group = waiting[first : first + CARS]
            for file, record in zip(group, _race(track, group, request, interval), strict=True):
                _judge(file, record, summary)
                if record.finished or request.keep_unfinished:
                    writer.add(record)
                    summary.recorded += 1
                bar.advance(task)
    _log_summary(summary, request)
    return summary


def _spec(
    request: CaptureRequest, track: "Track", files: Sequence[InputFile], interval_ms: int
) -> DatasetSpec:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.start_seed} {file.start_noise}".encode())
        digest.update(file.inputs.at_ticks(len(file.inputs.actions) + 1).tobytes())
    return DatasetSpec(
        image_size=request.image_size,
        frame_interval_ms=interval_ms,
        key_ms=key_time(files),
        source="simulator",
        parameters={
            "tracks": [track.name],
            "lines": [zlib.crc32(track.line.points.tobytes())],
            "inputs": digest.hexdigest(),
            "max_race_ms": request.max_race_ms,
            "keep_unfinished": request.keep_unfinished,
        },
    )


class _Players:
    """Hold the keys that the inputs of each car say."""

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._inputs, self._tick = inputs, 0

    def act(self) -> npt.NDArray[np.uint8]:
        """(B,) uint8 actions to hold for the next 10 ms."""
        tick = self._tick
        self._tick += 1
        held = [
            each.actions[tick] if tick < len(each.actions) else each.rest for each in self._inputs
        ]
        return np.array(held, dtype=np.uint8)


def _race(
    track: "Track", group: Sequence[InputFile], request: CaptureRequest, interval_ms: int
) -> list[ReplayRecord]:
    """Drive some files side by side until each has finished or was cut off."""
    from rl.envs.sim.batch import RaceBatch

    batch = RaceBatch(
        [track], [0] * len(group), image_size=request.image_size, max_race_ms=request.max_race_ms
    )
    for car, file in enumerate(group):
        batch.start_noise[car] = file.start_noise
        batch.reset([car], [file.start_seed])
    tapes = record_until_done(batch, _Players([file.inputs for file in group]), interval_ms)
    return [
        tape.record(
            batch, car, track=track.name, name=file.name, driver=file.driver, skill=float("nan")
        )
        for car, (file, tape) in enumerate(zip(group, tapes, strict=True))
    ]


def _judge(file: InputFile, record: ReplayRecord, summary: CaptureSummary) -> None:
    """Warn of what differs from the input file: respawns, no finish, another time."""
    took = f"{record.race_time_ms / 1000:.2f} s"
    if file.inputs.respawns_ms:
        logger.warning("%s: respawns are left out, the simulator has none", file.path)
    if not record.finished:
        summary.unfinished.append(file.name)
        logger.warning(
            "%s: did not finish, cut off after %s and %.0f m", file.path, took, record.finish_meters
        )
    elif file.race_time_ms not in (None, record.race_time_ms):
        summary.differing.append(file.name)
        logger.warning(
            "%s: finished in %s, not in its %.2f s", file.path, took, file.race_time_ms / 1000
        )


def _log_summary(summary: CaptureSummary, request: CaptureRequest) -> None:
    outcome = (
        "recorded too" if request.keep_unfinished else "left out; --keep-unfinished keeps them"
    )
    logger.info(
        "%s: %d replays recorded; %d runs did not finish%s",
        summary.path,
        summary.recorded + summary.already_there,
        len(summary.unfinished),
        f" and are {outcome}" if summary.unfinished else "",
    )
