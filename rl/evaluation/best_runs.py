"""Fastest runs, kept as inputs: the form that a human's replay has, so they can be data again."""

import itertools
import re
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from datasets.contract.actions import N_ACTIONS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.config import LARGEST_INTEGER
from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path, load_array, read_json, write_json, write_text
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.inputs import Inputs, format_inputs
from datasets.validation import validating
from rl.config.sections import LARGEST_START_NOISE
from rl.evaluation.greedy import DrivenRun
from rl.replay.rollout import Rollout

KEPT_PER_MAP: Final = 10
RUN_FILE: Final = "run.json"
"""Of a run kept as inputs. Written last and removed first: without it a folder holds no run."""


def run_of_rollout(rollout: Rollout) -> DrivenRun:
    """Return a finished rollout as inputs."""
    ticks = -(-rollout.race_time_ms // TICK_MS)
    actions = rollout.actions.repeat(TICKS_PER_ACTION)[:ticks]
    noise = rollout.start_noise
    return DrivenRun(rollout.track, rollout.seed, noise, rollout.race_time_ms, actions)


def save_best_run(
    folder: Path,
    run: DrivenRun,
    notes: dict[str, Any],
    q_values: npt.NDArray[np.float32] | None = None,
) -> Path:
    """Write a run into `<folder>/<map>_<ms>/` and drop all but the map's `KEPT_PER_MAP` fastest.

    Returns:
        The run's folder.
    """
    target = folder / _name_of(run)
    if not _holds(target, run):  # as it does where a resumed run drives a race again
        _save_run(target, run, notes, q_values)
    for slower in saved_runs(folder, run.track)[KEPT_PER_MAP:]:
        (slower / RUN_FILE).unlink()  # first: a run is whole or does not count
        shutil.rmtree(slower, ignore_errors=True)
    return target


def save_good_run(folder: Path, run: DrivenRun, notes: dict[str, Any]) -> None:
    """Write a run beside all others, unless it is there already.

    Args:
        folder: gets `<map>_<ms>/`, or `<map>_<ms>.2/` and so on where runs took the same time.
        run: that finished.
        notes: as for `save_best_run`.
    """
    name = _name_of(run)
    for each in itertools.chain([name], (f"{name}.{number}" for number in itertools.count(2))):
        if _holds(folder / each, run):
            return
        if not (folder / each / RUN_FILE).exists():
            _save_run(folder / each, run, notes)
            return


def _holds(folder: Path, run: DrivenRun) -> bool:
    """Whether a folder holds this run."""
    if not (folder / RUN_FILE).exists():
        return False
    try:
        saved = load_run(folder)
    except UserError:
        return False
    return saved.start_seed == run.start_seed and np.array_equal(saved.actions, run.actions)


def _save_run(
    target: Path,
    run: DrivenRun,
    notes: dict[str, Any],
    q_values: npt.NDArray[np.float32] | None = None,
) -> None:
    """Write a run into its folder.

    The folder holds `<map>_<ms>.inputs`, `actions.npy` ((M,) uint8 per 10 ms tick), `run.json`
    (track, time, seed and scale of the start's variation, `notes`), and `q_values.npy` if they
    are given.
    """
    (target / RUN_FILE).unlink(missing_ok=True)  # of a run with the same time: never half of each
    write_text(target / f"{_name_of(run)}.inputs", format_inputs(Inputs(run.actions)))
    _save_array(target / "actions.npy", run.actions)
    if q_values is not None:
        _save_array(target / "q_values.npy", q_values)
    write_json(
        target / RUN_FILE,
        {
            "track": run.track,
            "race_time_ms": run.race_time_ms,
            "start_seed": run.start_seed,
            "start_noise": run.start_noise,
            **notes,
        },
    )


def remove_partial_runs(folder: Path) -> None:
    """Delete run folders of `folder` that a killed process left without their last file."""
    for run in folder.glob("*_*"):
        if run.is_dir() and not (run / RUN_FILE).exists():
            shutil.rmtree(run, ignore_errors=True)


def saved_runs(folder: Path, track: str) -> list[Path]:
    """Return the folders of a map's saved runs, fastest first."""
    name = re.compile(re.escape(track) + r"_(\d+)(\.\d+)?")
    found = [
        (int(match[1]), run_file.parent)
        for run_file in folder.glob(f"*/{RUN_FILE}")
        if (match := name.fullmatch(run_file.parent.name)) is not None
    ]
    return [path for _, path in sorted(found)]


def _name_of(run: DrivenRun) -> str:
    return f"{run.track}_{run.race_time_ms}"


def load_run(folder: Path) -> DrivenRun:
    """Read a saved run.

    Raises:
        UserError: the folder holds no run, or not all of it.
    """
    values = read_json(folder / RUN_FILE)
    with validating(folder / RUN_FILE):
        notes = _RunNotes.model_validate(values)
    return DrivenRun(
        track=notes.track,
        start_seed=notes.start_seed,
        start_noise=notes.start_noise,
        race_time_ms=notes.race_time_ms,
        actions=_load_actions(folder / "actions.npy"),
    )


class _RunNotes(BaseModel):
    """What `run.json` says of the run itself; notes about the training stand beside it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    track: str = Field(min_length=1, description="name of the map")
    race_time_ms: int = Field(ge=1, le=LONGEST_RECORD_MS, description="ms")
    start_seed: int = Field(ge=0, le=LARGEST_INTEGER, description="of the start's variation")
    start_noise: float = Field(
        ge=0.0, le=LARGEST_START_NOISE, description="scale of the start's variation"
    )


def _load_actions(path: Path) -> npt.NDArray[np.uint8]:
    """Read (M,) actions.

    Raises:
        UserError: there are none, or they are no actions.
    """
    actions = load_array(path, "list of actions")
    if actions.ndim != 1 or actions.dtype != np.uint8 or not len(actions):
        raise UserError(f"{path}: expected a row of uint8 actions, one per {TICK_MS} ms")
    if actions.max() >= N_ACTIONS:
        raise UserError(f"{path}: action {actions.max()} is not below {N_ACTIONS}")
    return actions


def _save_array(path: Path, array: npt.NDArray[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
