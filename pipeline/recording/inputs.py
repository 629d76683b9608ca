"""The input files that `data capture` drives: where they lie, and what each says of its run.

A run that a training kept has `run.json` beside it, which says how its start was varied; any other
file starts at a standstill, exactly on the line.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from datasets.contract.actions import ACTION_MS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.errors import UserError
from datasets.format import check_text
from datasets.inputs import Inputs, read_inputs
from datasets.names import UNKNOWN_DRIVER, leaderboard_name, natural_key

INPUT_SUFFIXES: Final = (".inputs", ".txt", ".tmi", ".script")
AGENT: Final = "agent"


@dataclass(frozen=True)
class InputFile:
    """One run to drive.

    Attributes:
        path: the input file.
        name: of its replay.
        inputs: what it says.
        start_seed, start_noise: variation of the start and its scale.
        race_time_ms: the time it should take; None if nothing says it.
        driver: from a leaderboard's name, "agent" for a run that a training kept, else "unknown".
        map_name: short name of the map that such a run was driven on; None if nothing says it.
    """

    path: Path
    name: str
    inputs: Inputs
    start_seed: int
    start_noise: float
    race_time_ms: int | None
    driver: str
    map_name: str | None = None


def find_inputs(replays: Path) -> list[InputFile]:
    """Read the input files of a folder, in natural order; names are unique.

    Raises:
        UserError: none there, or a bad line in one.
    """
    if replays.is_file():
        paths = [replays]
    else:
        found = (path for path in replays.rglob("*") if path.suffix in INPUT_SUFFIXES)
        paths = sorted(
            (path for path in found if path.is_file()),
            key=lambda path: [natural_key(part) for part in path.parts],
        )
    if not paths:
        raise UserError(f"{replays}: no input files there; expected {', '.join(INPUT_SUFFIXES)}")
    count = Counter(path.stem for path in paths)
    files = [
        _input_file(path, path.stem if count[path.stem] == 1 else _long_name(path, replays))
        for path in paths
    ]
    for file in files:
        check_text("name", file.name, str(file.path))
        check_text("driver", file.driver, str(file.path))
    twice = [name for name, number in Counter(file.name for file in files).items() if number > 1]
    if twice:
        raise UserError(f"{replays}: two input files give the name {twice[0]}; rename one")
    return files


def _long_name(path: Path, root: Path) -> str:
    return "_".join(path.relative_to(root).with_suffix("").parts)


def _input_file(path: Path, name: str) -> InputFile:
    from rl.evaluation.best_runs import RUN_FILE, load_run

    leaderboard = leaderboard_name(path.stem)
    map_name, seed, noise, time_ms = None, 0, 0.0, leaderboard.race_time_ms if leaderboard else None
    driver = leaderboard.driver if leaderboard else UNKNOWN_DRIVER
    if (path.parent / RUN_FILE).is_file():
        run = load_run(path.parent)
        seed, noise, time_ms, driver = run.start_seed, run.start_noise, run.race_time_ms, AGENT
        map_name = run.track
    return InputFile(path, name, read_inputs(path), seed, noise, time_ms, driver, map_name)


def key_time(files: Sequence[InputFile]) -> int:
    """Return the shortest time in ms that any run holds its keys: 50, as an agent does, or 10."""
    for file in files:
        ticks = len(file.inputs.actions) + 1
        if file.race_time_ms is not None:  # what the text releases at the finish is no change
            ticks = min(ticks, -(-file.race_time_ms // TICK_MS))
        changed = np.flatnonzero(np.diff(file.inputs.at_ticks(ticks))) + 1
        if (changed % TICKS_PER_ACTION).any():
            return TICK_MS
    return ACTION_MS
