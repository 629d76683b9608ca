"""Floats of a captured replay, from the car's states as they were recorded.

A recorded state has positions and velocities in the world, and an orientation that is row-major
world to car. Floats have them in the car's frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract import floats as layout
from datasets.contract.actions import ACTION_MS
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.wheels import gear_and_wheels_in_contract_order

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_WIDTHS: Final = {
    "position": 3,
    "velocity": 3,
    "orientation_flat": 9,
    "angular_velocity": 3,
    "gear_and_wheels": 32,
    "is_freewheeling": 1,
    "current_zone_idx": 1,
    "zone_centers_in_car_frame": 3 * layout.N_WAYPOINTS,
    "margin": 1,
}
_OF_THE_CAR: Final = tuple(_WIDTHS)[:6]
_OF_THE_LINE: Final = tuple(_WIDTHS)[6:]
WHEELS: Final = slice(layout.WHEEL_SLIDING.start, layout.CONTACT_GROUPS.stop)
"""Floats 21 to 52, the 32 numbers of `gear_and_wheels`, where wheels are in the game's order."""
MAX_NUMBER: Final = 1e6
"""Beyond it nothing that a car's state holds: metres, metres per second, zones."""
_NOT_A_ROTATION: Final = 0.02
_SAME_PLACE_M: Final = 1e-3


@dataclass(frozen=True, eq=False)
class LineView:
    """What n positions are to a reference line.

    Attributes:
        waypoints: (n, 120) metres, car frame.
        margin: (n,) metres to the finish, at most 700.
        meters: (n,) metres along the line.
        finish_meters: metres at the finish; NaN if nothing says where it is.
    """

    waypoints: F64
    margin: F64
    meters: F64
    finish_meters: float


@dataclass(frozen=True, eq=False)
class CarStates:
    """n recorded states, by time.

    Attributes:
        times_ms: (n,) race times, ascending.
        columns: (n, d) by name of the field; NaN where it was not recorded.
    """

    times_ms: I64
    columns: dict[str, F64]

    @property
    def position(self) -> F64:
        """(n, 3) metres, world."""
        return self.columns["position"]

    @property
    def rotation(self) -> F64:
        """(n, 3, 3); rows are the car's left, up and forward axes in the world."""
        return self.columns["orientation_flat"].reshape(-1, 3, 3)

    @property
    def zone(self) -> I64:
        """(n,) zone on the line that the capture followed; -1 where it was not recorded."""
        zone = self.columns["current_zone_idx"][:, 0]
        return np.where(np.isfinite(zone), zone, -1).astype(np.int64)

    def usable(self, needs_line: bool) -> Flags:
        """(n,) whether the floats can be computed.

        Args:
            needs_line: the waypoints must be among what was recorded.
        """
        names = (*_OF_THE_CAR, *_OF_THE_LINE) if needs_line else _OF_THE_CAR
        known = np.all([np.isfinite(self.columns[name]).all(axis=1) for name in names], axis=0)
        product = np.einsum("nij,nkj->nik", self.rotation, self.rotation)
        with np.errstate(invalid="ignore"):
            error = np.abs(product - np.eye(3)).max(axis=(1, 2), initial=0.0)
            turns = (error < _NOT_A_ROTATION) & (np.linalg.det(self.rotation) > 0)
        if needs_line:
            ahead = np.diff(
                self.columns["zone_centers_in_car_frame"][:, :6].reshape(-1, 2, 3), axis=1
            )
            known &= (
                np.linalg.norm(ahead[:, 0], axis=1) > _SAME_PLACE_M
            )  # else it is only filled up
        return np.asarray(known & turns)

    def at(self, rows: I64) -> "CarStates":
        """Return the states of some rows."""
        return CarStates(self.times_ms[rows], {k: v[rows] for k, v in self.columns.items()})


def car_states(meta: Sequence[dict[str, Any]]) -> CarStates:
    """Return the recorded states by time; of several with one time, the last."""
    by_time: dict[int, dict[str, Any]] = {}
    for state in meta:
        time_ms = state.get("time_ms", state.get("race_time"))
        if type(time_ms) is int and abs(time_ms) <= LONGEST_RECORD_MS:
            by_time[time_ms] = state
    times = sorted(by_time)
    columns = {name: np.full((len(times), width), np.nan) for name, width in _WIDTHS.items()}
    columns["is_freewheeling"][:] = 0.0  # older captures do not record it
    for row, time_ms in enumerate(times):
        for name, width in _WIDTHS.items():
            value = _numbers(by_time[time_ms].get(name))
            if value is not None and value.size == width:
                columns[name][row] = value
    return CarStates(np.array(times, dtype=np.int64), columns)


def _numbers(value: Any) -> F64 | None:
    """Return numbers within bounds as a flat array; None for anything else."""
    if value is None:
        return None
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return numbers if (np.abs(numbers) <= MAX_NUMBER).all() else None


def write_floats(states: CarStates, everything: CarStates, view: LineView) -> F32:
    """Floats of n states, without the previous actions.

    Args:
        states: (n) states of the frames.
        everything: all recorded states, from which the gearbox is counted.
        view: of the n states.

    Returns:
        (n, 184) float32.
    """
    out = np.zeros((len(states.times_ms), layout.N_FLOATS), dtype=np.float32)
    rotation, columns = states.rotation, states.columns
    out[:, WHEELS] = gear_and_wheels_in_contract_order(columns["gear_and_wheels"])
    counter = _gearbox_counter(states.times_ms, everything)
    if counter is not None:
        out[:, layout.GEARBOX_COUNTER] = counter
    for place, name in (
        (layout.ANGULAR_VELOCITY, "angular_velocity"),
        (layout.VELOCITY, "velocity"),
    ):
        out[:, place] = np.einsum("nij,nj->ni", rotation, columns[name])
    out[:, layout.UP] = rotation[:, :, 1]
    out[:, layout.WAYPOINTS] = view.waypoints
    out[:, layout.MARGIN] = view.margin
    out[:, layout.FREEWHEELING] = columns["is_freewheeling"][:, 0]
    return out


def _gearbox_counter(times_ms: I64, everything: CarStates) -> I64 | None:
    """(n,) actions for which the gearbox has been shifting.

    None if not every action's state was recorded; what the capture counted is in other steps then.
    """
    first, last = int(everything.times_ms[0]), int(everything.times_ms[-1])
    steps = np.arange(-(-max(first, 0) // ACTION_MS), last // ACTION_MS + 1) * ACTION_MS
    rows = np.searchsorted(everything.times_ms, steps)
    if len(steps) == 0 or (everything.times_ms[rows] != steps).any():
        return None
    gear = layout.GEARBOX_STATE - WHEELS.start
    shifting = np.nan_to_num(everything.columns["gear_and_wheels"][rows, gear]) != 0
    shifting &= steps > 0
    counts = np.arange(len(steps)) - np.maximum.accumulate(
        np.where(shifting, -1, np.arange(len(steps)))
    )
    counts = np.where(shifting, counts, 0)
    places = np.searchsorted(steps, times_ms, side="right") - 1
    return np.where(places >= 0, counts[places], 0)


def recorded_line(states: CarStates) -> LineView:
    """Waypoints and margin as recorded, and metres along the line that the waypoints show.

    The waypoints of all states together are nearly all zone centres of the line. Those between
    them are interpolated, which is exact to centimetres.
    """
    waypoints, margin = states.columns["zone_centers_in_car_frame"], states.columns["margin"][:, 0]
    zone, rotation = states.zone, states.rotation
    in_car = waypoints.reshape(len(zone), -1, 3)
    world = states.position[:, None] + np.einsum("nji,nkj->nki", rotation, in_car)
    indices = zone[:, None] + np.arange(layout.N_WAYPOINTS) * layout.WAYPOINT_STRIDE_ZONES
    known, rows = np.unique(indices, return_index=True)
    places = world.reshape(-1, 3)[rows]
    spacing = np.linalg.norm(places[1] - places[0]) / (known[1] - known[0])
    every = np.arange(known[0], known[-1] + 1)
    centers = np.stack([np.interp(every, known, places[:, axis]) for axis in range(3)], axis=1)
    centers = np.vstack([2 * centers[0] - centers[1], centers])  # of the zone before the first one
    transitions = (centers[:-1] + centers[1:]) / 2
    steps = np.diff(transitions, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)]) + (known[0] - 1) * spacing
    at = zone - known[0]
    axes = steps[at] / lengths[at, None]
    offset = ((states.position - transitions[at]) * axes).sum(axis=1)
    meters = along[at] + np.clip(offset, 0.0, lengths[at])
    near = np.flatnonzero(margin < layout.MARGIN_CAP_M)
    finish = meters[near[-1]] + margin[near[-1]] if len(near) else np.nan
    return LineView(waypoints, margin, meters, float(finish))
