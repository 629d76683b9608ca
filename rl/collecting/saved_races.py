"""Half-driven races of a saved collector, checked before any of them is used.

The simulator's compiled routines index tables with the numbers of a car and check none of them: a
zone or a road section that the track has not would read or write beyond a table. The hash of a file
says only that its bytes are those that were saved, and a map file may have changed since.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_MS, N_ACTIONS, TICK_MS
from datasets.contract.config import LARGEST_INTEGER
from datasets.contract.line import EXTENSION_ZONES
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.contract.surfaces import N_SURFACES
from datasets.limits import check_keys, check_whole, check_within
from rl.config.sections import LARGEST_START_NOISE
from rl.envs.cars import CarBatch
from rl.envs.sim import car as columns
from rl.envs.sim.batch import RaceBatch

FARTHEST_M: Final = 5_000.0
"""Metres between a car and its section of the road: starts of the largest variation are nearer."""
LARGEST: Final = 1e7
"""What no number of a car's state reaches in SI units; products of several stay finite."""
LATEST_S: Final = 1e11
"""Unix time, some 3,000 years ahead."""
_FLAGS: Final = (columns.SLIDING, columns.AIRBORNE, columns.AT_WALL, columns.BRAKING)
_SURFACES: Final = slice(columns.FIRST_SURFACE, columns.FIRST_SURFACE + columns.N_WHEELS)
_WHOLE: Final = (*_FLAGS, columns.GEAR, *range(columns.STATE_SIZE)[_SURFACES])
_PLACE: Final = [columns.X, columns.Z]

Array = npt.NDArray[Any]


def check_races(
    saved: Mapping[str, Any],
    fresh: Mapping[str, Any],
    batch: CarBatch,
    track_of_entry: Sequence[int],
) -> None:
    """Refuse a state that no collector of the same plan can have had.

    The networks are not looked at, nor what the recorder, the guide and the prior check themselves.

    Args:
        saved: of `Collector.state_dict`, as it was read.
        fresh: of a collector that has just been built.
        batch: of that collector.
        track_of_entry: index of the map of each entry of the cycle.

    Raises:
        ValueError: it names the first place that is wrong.
    """
    optional = ("measured",) if "prior" in fresh else ("measured", "prior")
    check_keys("collector", saved, {**fresh, "measured": {}, "prior": {}}, optional=optional)
    check_whole("collector.weights_version", saved["weights_version"], 0, LARGEST_INTEGER)
    check_whole("collector.next_entry", saved["next_entry"], 0, LARGEST_INTEGER)
    _check_per_car(saved["per_car"], fresh["per_car"], len(track_of_entry))
    if isinstance(batch, RaceBatch):
        check_cars(saved["batch"], batch)
        clock_ms = ACTION_MS * np.asarray(saved["recorder"]["length"])
        if not np.array_equal(saved["batch"]["time_ms"], clock_ms):
            raise ValueError("collector.batch.time_ms: not the time of the recorded actions")
    tracks = np.asarray(track_of_entry)[saved["per_car"]["_entry"]]
    if not np.array_equal(saved["batch"]["track"], tracks):
        raise ValueError("collector.batch.track: not the maps of the cycle's entries")


def check_measured(saved: Any, cars: int, like: npt.NDArray[np.float32]) -> None:
    """Refuse weights of measured races that are no network's.

    Args:
        saved: car -> flat weights.
        cars: number of cars B.
        like: (P,) flat weights of a network.

    Raises:
        ValueError: it names the car.
    """
    if not isinstance(saved, dict):
        raise ValueError(f"collector.measured: expected a mapping, got {type(saved).__name__}")
    limit = float(np.finfo(np.float32).max)
    for car, weights in saved.items():
        check_whole("collector.measured", car, 0, cars - 1)
        check_within(f"collector.measured.{car}", weights, like, -limit, limit)


def check_cars(saved: Any, batch: RaceBatch) -> None:
    """Refuse a state that no car on the tracks of a batch can be in.

    Args:
        saved: of `RaceBatch.get_state`, as it was read.
        batch: that is to go on from it.

    Raises:
        ValueError: it names the first array that is wrong.
    """
    fresh, packed = batch.get_state(), batch.packed
    check_keys("collector.batch", saved, fresh)

    def check(name: str, lowest: npt.ArrayLike, highest: npt.ArrayLike) -> Array:
        check_within(f"collector.batch.{name}", saved[name], fresh[name], lowest, highest)
        found: Array = saved[name]
        return found

    track = check("track", 0, len(batch.tracks) - 1)
    sections, zones = np.diff(packed.road_offset)[track], np.diff(packed.line_offset)[track]
    row = check("road_index", 0, sections - 2)
    check("furthest_zone", 1, zones - EXTENSION_ZONES)
    check("zone", 1, saved["furthest_zone"])
    time_ms = check("time_ms", 0, LONGEST_RECORD_MS)
    if (time_ms % TICK_MS).any():
        raise ValueError("collector.batch.time_ms: not a multiple of a tick")
    check("progress_ms", 0, time_ms)
    check("gearbox_counter", 0, time_ms // TICK_MS)
    check("finished", 0, 1)
    check("truncated", 0, 1)
    check("meters", -LARGEST, LARGEST)
    check("history", 0, N_ACTIONS - 1)
    lowest, highest = _limits_of_state(row, packed.road_center[packed.road_offset[track] + row])
    state = check("state", lowest, highest)
    if (state[:, _WHOLE] % 1.0).any():
        raise ValueError("collector.batch.state: a gear, surface or flag that is no whole number")


def _limits_of_state(
    row: npt.NDArray[np.int64], center: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the (B, STATE_SIZE) least and largest numbers of the cars' state rows.

    Args:
        row: (B,) section of each car on its own road.
        center: (B, 3) metres, the middle of that section.
    """
    highest = np.full((len(row), columns.STATE_SIZE), LARGEST)
    lowest = -highest
    for first, last, columns_of in (
        (0.0, 1.0, list(_FLAGS)),
        (-1.0, 1.0, columns.STEER),
        (0.0, float(len(columns.GEAR_TOP_SPEED) - 1), columns.GEAR),
        (0.0, float(N_SURFACES - 1), _SURFACES),
    ):
        lowest[:, columns_of], highest[:, columns_of] = first, last
    lowest[:, columns.ROAD_S], highest[:, columns.ROAD_S] = row, row + 1
    lowest[:, _PLACE] = center[:, [0, 2]] - FARTHEST_M
    highest[:, _PLACE] = center[:, [0, 2]] + FARTHEST_M
    return lowest, highest


def _check_per_car(saved: Any, fresh: Mapping[str, Array], entries: int) -> None:
    """Refuse what a collector notes of each car.

    Args:
        saved: name -> (B,) array.
        fresh: of a collector that has just been built.
        entries: of the map cycle.
    """
    check_keys("collector.per_car", saved, fresh, optional=("_start_noise",))  # in older states
    highest = {
        "_entry": entries - 1,
        "_exploring": 1,
        "_started_at": LATEST_S,
        "_start_noise": LARGEST_START_NOISE,
    }
    for name, values in saved.items():
        limit = highest.get(name, LARGEST_INTEGER)
        check_within(f"collector.per_car.{name}", values, fresh[name], 0, limit)
