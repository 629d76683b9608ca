"""Passes of the beam until further laps bring nothing, saved after each one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.near_optimal.beam import BeamSettings, drive_beam
from benchmarks.near_optimal.laps import U8, DrivenLap, Laps
from benchmarks.near_optimal.starts import Start
from datasets.contract.actions import N_ACTIONS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.errors import UserError
from datasets.contract.files import read_json, write_json
from datasets.validation import validating
from rl.evaluation.best_known import LapNotes, save_best_known, simulator_version

STATE_FILE: Final = "state.json"
LEAST_GAIN_MS: Final = 1.0
"""Of the interpolated race time: smaller gains are kept, but count as nothing."""
SCALES: Final = (1.0, 0.5, 0.25, 0.12)
"""Reach of the beam in successive passes."""
WIDTH: Final = 1_500
"""Cars of a layer at first; they double after `_PASSES_OF_WIDTH` passes without a gain."""
WIDEST: Final = 24_000
_PASSES_OF_WIDTH: Final = len(SCALES)


class SavedStart(BaseModel):
    """A lap that the search begins with, as it is saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    actions: tuple[int, ...] = Field(min_length=1)
    race_time_ms: int


class SearchState(BaseModel):
    """All that the rest of a search follows from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    track: str = Field(description="name")
    simulator: str = Field(description="see `simulator_version`")
    seed: int = Field(ge=0, description="of every pass")
    starts: tuple[SavedStart, ...] = Field(min_length=1, description="fastest first")
    actions: tuple[int, ...] = Field(min_length=1, description="one per 50 ms, of the best lap")
    interpolated_ms: float = Field(gt=0.0, description="ms, of the best lap")
    passes: int = Field(default=0, ge=0, description="of the beam")
    idle_passes: int = Field(default=0, ge=0, description="since the last gain")
    laps: float = Field(default=0.0, ge=0.0, description="driven in all")
    laps_without_gain: float = Field(default=0.0, ge=0.0, description="driven since the last gain")
    gain_from_ms: float = Field(gt=0.0, description="ms at the last gain")
    cpu_seconds: float = Field(default=0.0, ge=0.0, description="s of CPU time")


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Attributes:
        patience_laps: laps without a gain.
        deadline: `time.monotonic()` at which no further pass begins; infinite for none.
    """

    patience_laps: float
    deadline: float


def open_search(folder: Path, laps: Laps, starts: list[Start], seed: int) -> SearchState:
    """Return the state of a search: that of `folder`, or a new one.

    Args:
        folder: of the search on this track.
        laps: of the track.
        starts: laps to begin with, which also join a search that goes on.
        seed: of the passes.

    Raises:
        UserError: the folder belongs to another search, or its state is damaged.
    """
    path = folder / STATE_FILE
    version = simulator_version(laps.track)
    if not path.exists():
        return _with_starts(None, laps, starts, version, seed)
    with validating(path):
        state = SearchState.model_validate(read_json(path))
    if state.track != laps.track.name:
        raise UserError(f"{path}: a search on {state.track}, not on {laps.track.name}")
    if state.simulator != version:
        raise UserError(f"{path}: a search in another version of the simulator; choose --out")
    if state.seed != seed:
        raise UserError(f"{path}: a search of seed {state.seed}; give --seed {state.seed}")
    laps_of_state = [state.actions, *(start.actions for start in state.starts)]
    if any(not 0 <= a < N_ACTIONS for actions in laps_of_state for a in actions):
        raise UserError(f"{path}: actions that do not exist")
    return _with_starts(state, laps, starts, version, seed)


def _with_starts(
    state: SearchState | None, laps: Laps, starts: list[Start], version: str, seed: int
) -> SearchState:
    """Add laps to begin with; the fastest of all is the best lap."""
    known = () if state is None else state.starts
    saved = [
        SavedStart(source=s.source, actions=_plain(s.actions), race_time_ms=s.race_time_ms)
        for s in starts
    ]
    fresh = [start for start in saved if all(start.actions != old.actions for old in known)]
    best: DrivenLap | None = None
    for actions in [*([] if state is None else [state.actions]), *(s.actions for s in fresh)]:
        driven = laps.drive(np.array(actions, np.uint8))
        if driven is not None and (best is None or driven.lap.ticks < best.lap.ticks):
            best = driven
    if best is None:
        raise UserError(f"{laps.track.name}: no lap to begin with finishes; give one with --from")
    found: dict[str, Any] = {
        "starts": (*known, *fresh),
        "actions": _plain(best.lap.actions),
        "interpolated_ms": best.lap.exact_ms,
    }
    if state is not None:
        return state.model_copy(update=found)
    return SearchState(
        track=laps.track.name,
        simulator=version,
        seed=seed,
        gain_from_ms=best.lap.exact_ms,
        **found,
    )


def run_search(
    folder: Path,
    laps: Laps,
    state: SearchState,
    budget: Budget,
    watch: Callable[[SearchState, float], None],
) -> SearchState:
    """Pass after pass until the budget is used up; the state is saved after each.

    Args:
        folder: of the search on this track.
        laps: of the track.
        state: where to begin.
        budget: when to end.
        watch: called with the state and the laps of the present pass.
    """
    _save(folder, laps, state)
    while state.laps_without_gain < budget.patience_laps and time.monotonic() < budget.deadline:
        state = _one_pass(laps, state, watch)
        _save(folder, laps, state)
    return state


def settings_of(state: SearchState) -> BeamSettings:
    """Return the settings of the next pass; they follow from the state alone."""
    first = state.passes < len(state.starts)
    doublings = 0 if first else state.idle_passes // _PASSES_OF_WIDTH
    seed = int(np.random.SeedSequence([state.seed, state.passes]).generate_state(1)[0])
    return BeamSettings(
        width=min(WIDTH * 2**doublings, WIDEST),
        scale=SCALES[0] if first else SCALES[state.passes % len(SCALES)],
        seed=seed,
    )


def _one_pass(
    laps: Laps, state: SearchState, watch: Callable[[SearchState, float], None]
) -> SearchState:
    """Drive one pass around a start or around the best lap, and count it."""
    began = time.process_time()
    best = laps.drive(np.array(state.actions, np.uint8))
    assert best is not None
    reference = best
    if state.passes < len(state.starts):
        start = laps.drive(np.array(state.starts[state.passes].actions, np.uint8))
        reference = best if start is None else start
    slots = len(reference.lap.actions)
    found, driven_slots = drive_beam(
        laps, reference, settings_of(state), lambda slots_so_far: watch(state, slots_so_far / slots)
    )
    if found is not None:
        driven = laps.drive(found)
        if driven is None or laps.race(driven.lap.actions) != driven.lap.race_time_ms:
            raise RuntimeError(f"{state.track}: a lap of the beam cannot be driven again")
        if driven.lap.ticks < best.lap.ticks:
            best = driven
    gained = best.lap.exact_ms <= state.gain_from_ms - LEAST_GAIN_MS
    drove = driven_slots / slots
    return state.model_copy(
        update={
            "actions": _plain(best.lap.actions),
            "interpolated_ms": best.lap.exact_ms,
            "passes": state.passes + 1,
            "idle_passes": 0 if gained else state.idle_passes + 1,
            "laps": state.laps + drove,
            "laps_without_gain": 0.0 if gained else state.laps_without_gain + drove,
            "gain_from_ms": best.lap.exact_ms if gained else state.gain_from_ms,
            "cpu_seconds": state.cpu_seconds + time.process_time() - began,
        }
    )


def save_lap(folder: Path, laps: Laps, state: SearchState) -> Path:
    """Write the best lap of a search as inputs with notes; return the path of the inputs."""
    driven = laps.drive(np.array(state.actions, np.uint8))
    assert driven is not None
    ticks = driven.lap.actions.repeat(TICKS_PER_ACTION)[: driven.lap.race_time_ms // TICK_MS]
    notes: dict[str, Any] = {
        key: getattr(state, key)
        for key in ("track", "simulator", "seed", "interpolated_ms", "laps_without_gain", "laps")
    }
    return save_best_known(
        ticks,
        LapNotes(
            race_time_ms=driven.lap.race_time_ms,
            begun_from=tuple(f"{s.source}, {s.race_time_ms} ms" for s in state.starts),
            cpu_seconds=round(state.cpu_seconds, 1),
            **notes,
        ),
        folder,
    )


def _save(folder: Path, laps: Laps, state: SearchState) -> None:
    save_lap(folder, laps, state)
    write_json(folder / STATE_FILE, state.model_dump(mode="json"))


def _plain(actions: U8) -> tuple[int, ...]:
    return tuple(int(action) for action in actions)
