"""Fastest known laps of the simulator's tracks from the exact start, kept as inputs.

They are what `python -m benchmarks.near_optimal` found, with actions of 50 ms as an agent's. A lap
counts only where it can be driven: in the version of the simulator that it was found in, and if it
takes the same time to the ms when it is driven again.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.files import read_json, write_json, write_text
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.inputs import Inputs, format_inputs, read_inputs
from datasets.validation import validating
from rl.envs.cars import RaceMap
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.car import CAR, GEAR_TOP_SPEED
from rl.envs.sim.road import Track, ground_table, pack_tracks

FOLDER: Final = Path("config_files/best_known")
"""`<track>.inputs`, and `<track>.json` with time, simulator version and origin."""
_DECIMALS: Final = 6
"""Of a road's numbers in its version: libraries of other machines differ in the last bits."""


class LapNotes(BaseModel):
    """What `<track>.json` says about a lap."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    track: str = Field(min_length=1, description="name of the track")
    race_time_ms: int = Field(ge=TICK_MS, le=LONGEST_RECORD_MS, description="ms, exact start")
    interpolated_ms: float = Field(gt=0.0, description="ms, interpolated within the last tick")
    simulator: str = Field(min_length=1, description="hex digits, see `simulator_version`")
    begun_from: tuple[str, ...] = Field(description="laps that the search began with")
    laps: float = Field(ge=0.0, description="laps that the search drove in all")
    laps_without_gain: float = Field(ge=0.0, description="laps that it drove after its last gain")
    cpu_seconds: float = Field(ge=0.0, description="s of CPU time that the search took")
    seed: int = Field(ge=0, description="of the search")


@dataclass(frozen=True, eq=False)
class BestKnownLap:
    """A lap that was driven again in the simulator as it is now.

    Attributes:
        actions: (M,) uint8, one per 10 ms tick.
        notes: time and origin.
    """

    actions: npt.NDArray[np.uint8]
    notes: LapNotes


@dataclass(frozen=True)
class BestKnown:
    """The best known lap of a track as a yardstick.

    Attributes:
        race_time_ms: its race time; None if there is none to compare with.
        reason: why there is none; empty if there is one.
    """

    race_time_ms: int | None
    reason: str = ""

    def above_percent(self, race_time_ms: float | None) -> float | None:
        """Return by how many per cent a time from the exact start is above the best known one."""
        if race_time_ms is None or self.race_time_ms is None:
            return None
        return 100.0 * (race_time_ms / self.race_time_ms - 1.0)

    def describe(self, race_time_ms: float | None) -> str:
        """Say how far a time from the exact start is from the best known one, or why not.

        Args:
            race_time_ms: None for a race without a finish.
        """
        if self.race_time_ms is None:
            return self.reason
        above = self.above_percent(race_time_ms)
        if above is None:
            return "no finish from the exact start to compare with the best known lap"
        side = "above" if above >= 0.0 else "below"
        return f"from the exact start {abs(above):.1f} % {side} the best known lap"

    def to_json(self) -> dict[str, int | str | None]:
        """Return the time in ms, and why there is none."""
        return {"race_time_ms": self.race_time_ms, "reason": self.reason}


def simulator_version(track: Track) -> str:
    """Return 12 hex digits that change with the car's constants, the road or its finish.

    A change of the simulator's code alone shows when a lap is driven again.
    """
    packed = pack_tracks([track])
    line = track.line.points[[0, 1, -2, -1]]
    digest = hashlib.sha256(repr((tuple(CAR), GEAR_TOP_SPEED)).encode())
    for values in (ground_table(packed), line):
        digest.update((np.round(values, _DECIMALS) + 0.0).tobytes())  # + 0.0: no negative zero
    return digest.hexdigest()[:12]


def read_best_known(name: str, version: str, folder: Path = FOLDER) -> BestKnownLap | None:
    """Read the best known lap of a track; it is not driven.

    Args:
        name: of the track.
        version: `simulator_version` of the track as it is now.
        folder: where best known laps lie.

    Returns:
        The lap, None if there is none for this version.

    Raises:
        UserError: the files are damaged, or belong to another track.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    with validating(path):
        notes = LapNotes.model_validate(read_json(path))
    if notes.track != name:
        raise UserError(f"{path}: a lap of {notes.track}, expected one of {name}")
    if notes.simulator != version:
        return None
    inputs = read_inputs(path.with_suffix(".inputs"))
    return BestKnownLap(inputs.at_ticks(notes.race_time_ms // TICK_MS), notes)


def best_known(track: Track, folder: Path = FOLDER) -> BestKnown:
    """Return the best known lap of a track, after it was driven again.

    Raises:
        UserError: its files are damaged.
    """
    if "/" in track.name or not (folder / f"{track.name}.json").is_file():
        return BestKnown(None, f"no best known lap of {track.name}")
    lap = read_best_known(track.name, simulator_version(track), folder)
    if lap is None:
        other = "belongs to another version of the simulator or to another road"
        return BestKnown(None, f"the best known lap of {track.name} {other}")
    driven_ms = drive_from_exact_start(track, lap.actions)
    if driven_ms != lap.notes.race_time_ms:
        now = "does not finish" if driven_ms is None else f"takes {driven_ms} ms"
        expected = f"in this simulator instead of {lap.notes.race_time_ms} ms"
        return BestKnown(None, f"the best known lap of {track.name} {now} {expected}")
    return BestKnown(lap.notes.race_time_ms)


def best_known_laps(maps: Mapping[str, RaceMap]) -> dict[str, BestKnown]:
    """Return the best known lap of each of the simulator's tracks; a damaged file is none."""
    found = {}
    for name, road in maps.items():
        if isinstance(road, Track):
            try:
                found[name] = best_known(road)
            except UserError as error:
                found[name] = BestKnown(None, str(error))
    return found


def save_best_known(actions: npt.NDArray[np.uint8], notes: LapNotes, folder: Path) -> Path:
    """Write a lap and its notes; return the path of its inputs.

    Args:
        actions: (M,) uint8, one per 10 ms tick.
        notes: written last, since a lap without them does not count.
        folder: as for `read_best_known`.
    """
    path = folder / f"{notes.track}.inputs"
    write_text(path, format_inputs(Inputs(actions)))
    write_json(folder / f"{notes.track}.json", notes.model_dump(mode="json"))
    return path


def drive_from_exact_start(track: Track, actions: npt.NDArray[np.uint8]) -> int | None:
    """Drive (M,) actions of 10 ms; return the race time in ms, None without a finish."""
    longest_ms = len(actions) * TICK_MS + 1
    batch = RaceBatch(
        [track],
        [0],
        image_size=(1, 1),
        render=False,
        start_noise=0.0,
        max_race_ms=longest_ms,
    )
    batch.reset([0], [0])
    for tick in range(len(actions)):
        batch.tick(actions[tick : tick + 1])
    return int(batch.race_time_ms[0]) if batch.finished[0] else None
