"""Driving and recording: scripted drivers, or a policy, race on the simulator and become a dataset.

Each replay depends on the seed, its track, its number and nothing else: neither on the cars that
drive beside it nor on an interruption. (A policy's values may differ in their last bits with the
number of cars that it is asked for at once, and so rarely an action.)
"""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datasets.contract.errors import UserError
from datasets.format import DatasetSpec, ReplayRecord, check_text
from datasets.part import MAX_REPLAYS
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from pipeline.recording.correction import CorrectedPolicy, Corrector
from pipeline.recording.request import DriveRequest
from pipeline.recording.tape import Tape, record_until_done

if TYPE_CHECKING:
    from rl.envs.sim.batch import RaceBatch
    from rl.envs.sim.road import Track

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 5
"""Tries per replay: a run that does not finish is driven again from another seed."""
CARS: Final = 64
CARS_FRAMES_PER_S: Final = 64 * 20
"""Frames that the cars of one batch record per second of race, which bounds the memory."""


@dataclass(frozen=True)
class ReplayJob:
    """One replay to drive."""

    track: int
    track_name: str
    number: int
    tag: str = ""
    attempt: int = 1

    @property
    def name(self) -> str:
        """Name of the replay."""
        return f"{self.track_name}_{self.tag}{self.number:05d}"

    def draws(self, request: DriveRequest) -> tuple[int, int, float]:
        """Seed of the start, seed of the driver, skill."""
        track = zlib.crc32(self.track_name.encode())
        rng = np.random.default_rng([request.seed, track, self.number, self.attempt])
        start, driver = (int(seed) for seed in rng.integers(0, 2**62, size=2))
        low, high = request.skill_range()
        return start, driver, float(rng.uniform(low, high))


@dataclass
class DriveSummary:
    """What a recording did.

    Attributes:
        path: the dataset.
        recorded: replays of this call.
        already_there: replays that an earlier, interrupted call had recorded.
        unfinished: runs of this call that did not finish.
        given_up: replays for which no try finished.
    """

    path: Path
    recorded: int = 0
    already_there: int = 0
    unfinished: int = 0
    given_up: int = 0


def drive_dataset(
    out: Path, request: DriveRequest, *, overwrite: bool = False, cars: int | None = None
) -> DriveSummary:
    """Drive all replays of a request and write them as one dataset.

    An interrupted call with the same arguments continues where it stopped.

    Args:
        out: `NAME.h5`, or a name without that suffix for a folder of shards.
        overwrite: replace an existing dataset at the end.
        cars: cars that race at once; the result does not depend on it.

    Raises:
        UserError: a wrong request, an existing output, or a full disk.
    """
    request.check()
    tracks = _tracks_of(request)
    corrector = None if request.policy is None else Corrector.load(request)
    tag = "" if corrector is None else corrector.tag(request)
    summary = DriveSummary(Path(out))
    spec = _spec(request, tracks, corrector)
    with DatasetWriter(Path(out), spec, overwrite=overwrite) as writer:
        jobs = [
            ReplayJob(i, track.name, number, tag)
            for i, track in enumerate(tracks)
            for number in range(request.replays)
        ]
        waiting = [job for job in jobs if job.name not in writer.done_names]
        summary.already_there = len(jobs) - len(waiting)
        if summary.already_there:
            logger.info(
                "continuing: %d of %d replays are there", len(jobs) - len(waiting), len(jobs)
            )
        cars = cars or max(4, min(CARS, CARS_FRAMES_PER_S // request.fps))
        races = _Races(tracks, request, corrector)
        _drive_jobs(races, waiting, writer, summary, cars)
    _log_summary(summary, request)
    return summary


def _log_summary(summary: DriveSummary, request: DriveRequest) -> None:
    outcome = "are recorded too" if request.keeps_unfinished else "were left out and driven again"
    logger.info(
        "%s: %d replays recorded; %d runs did not finish%s%s",
        summary.path,
        summary.recorded + summary.already_there,
        summary.unfinished,
        f" and {outcome}" if summary.unfinished else "",
        f"; {summary.given_up} replays were given up" if summary.given_up else "",
    )


def _tracks_of(request: DriveRequest) -> list["Track"]:
    """Tracks without repetition."""
    from rl.envs.registry import find_tracks

    found: dict[str, Track] = {}
    for spec in dict.fromkeys(request.tracks):
        for track in find_tracks(spec):
            check_text("track", track.name, spec)
            if found.setdefault(track.name, track) is not track:
                raise UserError(f"two tracks are called {track.name!r}; rename one of the files")
    total = len(found) * request.replays
    if total > MAX_REPLAYS:
        raise UserError(f"{total:,} replays on {len(found)} tracks, at most {MAX_REPLAYS:,}")
    return list(found.values())


def _spec(
    request: DriveRequest,
    tracks: Sequence["Track"],
    corrector: Corrector | None,
) -> DatasetSpec:
    return DatasetSpec(
        image_size=request.image_size,
        frame_interval_ms=request.frame_interval_ms,
        key_ms=request.key_ms,
        source="simulator",
        parameters={
            "tracks": [track.name for track in tracks],
            "lines": [zlib.crc32(track.line.points.tobytes()) for track in tracks],
            "replays": [request.replays] * len(tracks),
            "driver": request.driver,
            "skills": list(request.skill_range()),
            "seed": request.seed,
            "max_race_ms": request.max_race_ms,
            "keep_unfinished": request.keeps_unfinished,
            **({} if corrector is None else corrector.parameters(request)),
        },
    )


@dataclass(frozen=True)
class _Races:
    """Where and how all jobs of a recording are driven."""

    tracks: Sequence["Track"]
    request: DriveRequest
    corrector: Corrector | None


def _drive_jobs(
    races: _Races,
    waiting: list[ReplayJob],
    writer: DatasetWriter,
    summary: DriveSummary,
    cars: int,
) -> None:
    request = races.request
    columns = ("driving", BarColumn(), MofNCompleteColumn(), "replays", TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[frames]:,} frames")) as bar:
        task = bar.add_task("drive", total=len(waiting), frames=0)
        frames = 0
        while waiting:
            group, waiting = waiting[:cars], waiting[cars:]
            for job, record in _race(races, group):
                if record.finished or request.keeps_unfinished:
                    writer.add(record)
                    summary.recorded += 1
                    frames += len(record.frames)
                    bar.update(task, advance=1, frames=frames)
                if not record.finished:
                    summary.unfinished += 1
                    if request.keeps_unfinished:
                        continue
                    if job.attempt < MAX_ATTEMPTS:
                        waiting.append(replace(job, attempt=job.attempt + 1))
                    else:
                        summary.given_up += 1
                        bar.update(task, advance=1)


def _race(races: _Races, group: Sequence[ReplayJob]) -> list[tuple[ReplayJob, ReplayRecord]]:
    """Drive some jobs side by side until each has finished or was cut off."""
    from rl.envs.sim.batch import RaceBatch

    tracks, request = races.tracks, races.request
    used = sorted({job.track for job in group})
    draws = [job.draws(request) for job in group]
    batch = RaceBatch(
        [tracks[i] for i in used],
        [used.index(job.track) for job in group],
        image_size=request.image_size,
        max_race_ms=request.max_race_ms,
    )
    batch.reset(np.arange(len(group)), np.array([start for start, _, _ in draws]))
    tapes = _record(batch, races, draws)
    return [
        (
            job,
            tape.record(
                batch,
                car,
                track=job.track_name,
                name=job.name,
                driver=_driver_name(request),
                skill=draws[car][2] if request.policy is None else np.nan,
                attempt=job.attempt,
            ),
        )
        for car, (job, tape) in enumerate(zip(group, tapes, strict=True))
    ]


def _driver_name(request: DriveRequest) -> str:
    if request.policy is not None:
        return f"policy, labelled by {request.label_by}"
    return request.driver if request.skills is None else "scripted"


def _record(
    batch: "RaceBatch", races: _Races, draws: Sequence[tuple[int, int, float]]
) -> list[Tape]:
    """Let scripted drivers drive, or the policy with them as its labellers."""
    from rl.envs.sim.drivers import DriverPool

    request, corrector = races.request, races.corrector
    seeds = [driver for _, driver, _ in draws]
    skills = np.array([skill for _, _, skill in draws])
    pool = DriverPool(
        batch, skills, np.array(seeds), key_ms=request.key_ms, attentive=corrector is not None
    )
    interval = request.frame_interval_ms
    if corrector is None:
        return record_until_done(batch, pool, interval)
    policy = CorrectedPolicy(
        *(batch, corrector.network, pool, seeds),
        policy_share=request.policy_share,
        observed_ms=interval,
    )
    return record_until_done(batch, policy, interval, lambda: policy.labels)


@dataclass(frozen=True)
class DefaultDataset:
    """A dataset that is driven when a config names it and it is not there."""

    request: DriveRequest
    description: str


DEFAULT_DATASETS: Final[dict[str, DefaultDataset]] = {
    "output/datasets/default.h5": DefaultDataset(
        DriveRequest(("A01",), 200), "the default dataset: 200 replays of A01, 20 frames per second"
    ),
    "output/datasets/default_100fps.h5": DefaultDataset(
        DriveRequest(("A01",), 40, fps=100), "40 replays of A01, 100 frames per second"
    ),
}
"""By path from the root of the repository.

`vis` and `bc` share the first one. A frame every 50 ms lies at each decision of the drivers, and
their timeline of 10 ms labels any offset from it; five times the frames show the same decisions.
"""


def ensure_dataset(path: Path) -> None:
    """Drive a default dataset if it is missing; any other path must exist.

    Raises:
        UserError: a missing dataset that is not one of `DEFAULT_DATASETS`.
    """
    path = Path(path)
    try:
        relative = path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    except ValueError:
        relative = path.as_posix()
    default = DEFAULT_DATASETS.get(relative)
    if path.exists():
        if default is not None:
            _warn_of_another_request(path, default.request)
        return
    if default is None:
        raise UserError(
            f"{path}: no such dataset; record one with `rulka-pipeline data drive --tracks A01 "
            f"--replays 40 --out {path}`"
        )
    logger.info("%s is not there: driving and recording %s", path, default.description)
    drive_dataset(path, default.request)


def _warn_of_another_request(path: Path, request: DriveRequest) -> None:
    """Warn if the dataset of a default path was recorded for other tracks or numbers of replays."""
    with ReplayFile(path, skip_bad=True) as file:
        recorded = file.spec.parameters
    names = [track.name for track in _tracks_of(request)]
    counts = [request.replays] * len(names)
    if recorded.get("tracks") != names or recorded.get("replays") != counts:
        logger.warning(
            "%s was recorded with tracks %s and replays %s, not with today's default (%s, %s): it "
            "is used as it is; delete it to record the default",
            *(path, recorded.get("tracks"), recorded.get("replays"), names, counts),
        )
