"""Laps that the search begins with: scripted drivers, and runs that a training kept as inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.near_optimal.laps import U8, Laps
from datasets.contract.actions import ACTION_MS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.contract.race import DNF_MS
from datasets.inputs import read_inputs
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import SKILLS, DriverPool

EXPERTS: Final = 16
"""Expert drivers from the exact start; each has its own path."""
KEPT_STARTS: Final = 3
"""Fastest laps around which the search begins."""
SLOWEST: Final = 1.01
"""Laps that take longer, as a multiple of the fastest, are not begun with."""
_REST_MS: Final = 2_000
"""Race time for which the last keys of an input file are held on."""


@dataclass(frozen=True, eq=False)
class Start:
    """A lap to begin with.

    Attributes:
        source: driver or file.
        actions: (T,) uint8, one per 50 ms.
        race_time_ms: from the exact start.
    """

    source: str
    actions: U8
    race_time_ms: int


def expert_starts(laps: Laps, seed: int) -> list[Start]:
    """Let expert drivers who change keys every 50 ms drive from the exact start."""
    batch = RaceBatch([laps.track], [0] * EXPERTS, render=False, start_noise=0.0)
    seeds = np.arange(EXPERTS) + EXPERTS * seed
    batch.reset(np.arange(EXPERTS), seeds)
    pool = DriverPool(batch, np.full(EXPERTS, SKILLS["expert"]), seeds, key_ms=ACTION_MS)
    driven: list[U8] = []
    while not (batch.finished | batch.truncated).all():
        pressed = pool.act()
        driven.append(pressed)
        for _ in range(TICKS_PER_ACTION):
            batch.tick(pressed)
    actions = np.array(driven)
    starts = []
    for car in np.flatnonzero(batch.finished):
        time_ms = int(batch.race_time_ms[car])
        used = np.ascontiguousarray(actions[: -(-time_ms // ACTION_MS), car])
        starts.append(Start(f"expert driver {seeds[car]}", used, time_ms))
    return starts


def inputs_path(path: Path) -> Path:
    """Return the `.inputs` file of a kept run.

    Args:
        path: of the file, or of the run's folder.

    Raises:
        UserError: the folder is not that of one kept run.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.inputs"))
    if len(found) != 1:
        raise UserError(f"{path}: expected an .inputs file or the folder of one kept run")
    return found[0]


def track_of_run(path: Path) -> str | None:
    """Return the track that the notes beside an `.inputs` file name; None without notes."""
    notes = path.parent / "run.json"
    values = read_json(notes) if notes.is_file() else None
    track = values.get("track") if isinstance(values, dict) else None
    return track if isinstance(track, str) else None


def read_start(laps: Laps, path: Path) -> Start:
    """Read a run that was driven from the exact start.

    Args:
        laps: of the track.
        path: of an `.inputs` file.

    Raises:
        UserError: no such file, or a run that does not finish from the exact start with actions
            of 50 ms.
    """
    inputs = read_inputs(path)
    ticks = inputs.at_ticks(min(len(inputs.actions) + 1, DNF_MS // TICK_MS))
    slots = ticks[::TICKS_PER_ACTION]
    # Whether the last keys are held on to the finish is not in the file.
    rest = np.full(_REST_MS // ACTION_MS, inputs.rest, np.uint8)
    driven = laps.drive(np.ascontiguousarray(np.concatenate([slots, rest])))
    if driven is None:
        raise UserError(
            f"{path}: does not finish {laps.track.name} from its exact start with actions of "
            f"{ACTION_MS} ms: a run of another track, or one from a varied start"
        )
    return Start(path.name, driven.lap.actions, driven.lap.race_time_ms)


def fastest(starts: Sequence[Start]) -> list[Start]:
    """Return the fastest laps, no two with the same actions, none much slower than the first."""
    chosen: list[Start] = []
    for start in sorted(starts, key=lambda start: start.race_time_ms):
        if not any(np.array_equal(start.actions, other.actions) for other in chosen):
            chosen.append(start)
    slowest_ms = SLOWEST * chosen[0].race_time_ms if chosen else 0.0
    return [start for start in chosen[:KEPT_STARTS] if start.race_time_ms <= slowest_ms]
