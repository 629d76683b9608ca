"""A beam of laps around a reference lap: a search of the whole lap at once.

All cars of a layer have the same race time. Each is driven 50 ms with its actions; cells of
(distance from the reference, heading, speed, steering) keep the car that is furthest ahead of the
reference at its own place on the road, and the best cells go on. Cells make sure that a car which
brakes for the next corner survives beside one that is still faster.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.near_optimal.kernels import Grid, Layer, expand_layer, keep_best
from benchmarks.near_optimal.laps import U8, DrivenLap, Laps
from datasets.contract.actions import TICKS_PER_ACTION
from rl.envs.sim.car import STATE_SIZE

I32 = npt.NDArray[np.int32]

REACH: Final = np.array([4.0, 0.16, 5.0])
"""m, sine of the angle, m/s: greatest distance from the reference lap at scale 1."""
CELLS: Final = np.array([14.0, 14.0, 10.0])
"""Cells on each side of the reference."""
_ROOM: Final = 6
"""Cells of a layer that are filled before the best are chosen, as a multiple of the beam."""


@dataclass(frozen=True)
class BeamSettings:
    """One pass of the beam.

    Attributes:
        width: cars of a layer.
        scale: reach of the beam around the reference, 1 for `REACH`.
        seed: of the cells' offsets and of the actions that are left out.
    """

    width: int
    scale: float
    seed: int


def drive_beam(
    laps: Laps,
    reference: DrivenLap,
    settings: BeamSettings,
    watch: Callable[[float], None] | None = None,
) -> tuple[U8 | None, int]:
    """Search around a lap.

    Args:
        laps: of the track.
        reference: lap around which cars are kept. Its own cars are in every layer, so that a pass
            can only improve it.
        settings: of this pass.
        watch: called with the slots of 50 ms that were driven so far.

    Returns:
        Actions of a faster lap, None if there is none; and how many slots of 50 ms were driven.
    """
    beam = _Beam(laps, reference, settings)
    for slot in range(len(reference.lap.actions)):
        if not beam.advance(slot):
            break
        if watch is not None:
            watch(beam.driven)
    found = None if beam.found is None else np.array(beam.found, np.uint8)
    return found, beam.driven


class _Beam:
    """The cars of the present layer, and how those of all layers came there.

    Attributes:
        driven: slots of 50 ms so far.
        found: actions of the fastest finish, None while none is faster than the reference.
    """

    def __init__(self, laps: Laps, reference: DrivenLap, settings: BeamSettings) -> None:
        """Put one car at the start."""
        self._circuit, self._reference, self._width = laps.circuit, reference, settings.width
        self._grid = _grid(settings)
        most = settings.width * _ROOM + 1
        self._layer, self._following = _new_layer(most), _new_layer(most)
        self._layer.states[0], self._layer.rows[0] = laps.start, laps.start_row
        self._count = 1
        self._table = np.zeros(2 ** math.ceil(math.log2(3 * most)), np.int32)
        self._best = np.array([reference.lap.ticks, -1.0, -1.0])
        self._history: list[tuple[I32, U8]] = []
        self.driven = 0
        self.found: list[int] | None = None

    def advance(self, slot: int) -> bool:
        """Drive the layer of a slot for 50 ms; return whether another layer follows."""
        before = self._best[0]
        filled, driven = expand_layer(
            slot,
            self._count,
            self._layer,
            self._following,
            self._table,
            self._reference.profile,
            self._circuit,
            self._grid,
            self._best,
        )
        self.driven += driven
        if self._best[0] < before:
            self.found = [*self._actions_to(int(self._best[1])), int(self._best[2])]
        following_slot = slot + 1
        if (
            filled == 0
            or self._best[0] <= following_slot * TICKS_PER_ACTION
            or following_slot == len(self._reference.lap.actions)
        ):
            return False
        count = keep_best(filled, self._width, self._following)
        self._append_reference(count, following_slot)
        self._count = count + 1
        layer = self._following
        self._history.append(
            (layer.parents[: self._count].copy(), layer.actions[: self._count].copy())
        )
        self._layer, self._following = layer, self._layer
        return True

    def _append_reference(self, count: int, slot: int) -> None:
        """Put the car of the reference behind the others, with itself as its parent."""
        layer, reference = self._following, self._reference
        layer.states[count], layer.rows[count] = reference.states[slot], reference.rows[slot]
        layer.values[count] = 0.0
        layer.actions[count] = reference.lap.actions[slot - 1]
        layer.parents[count] = len(self._history[-1][0]) - 1 if self._history else 0

    def _actions_to(self, car: int) -> list[int]:
        """Return the actions that led to a car of the present layer."""
        found: list[int] = []
        for parents, actions in reversed(self._history):
            found.append(int(actions[car]))
            car = int(parents[car])
        return found[::-1]


def _grid(settings: BeamSettings) -> Grid:
    rng = np.random.default_rng([settings.seed, 1])
    reach = REACH * settings.scale
    return Grid(
        reach=reach,
        cell=reach / CELLS,
        shift=rng.uniform(0.0, 1.0, 3),
        speed_worth_s=float(rng.uniform(0.0, 0.06)),
        window_s=0.35 * settings.scale,
        other_share=0.35,
        seed=np.uint64(rng.integers(0, 2**63)),
    )


def _new_layer(most: int) -> Layer:
    return Layer(
        states=np.zeros((most, STATE_SIZE)),
        rows=np.zeros(most, np.int64),
        values=np.zeros(most),
        parents=np.zeros(most, np.int32),
        actions=np.zeros(most, np.uint8),
        keys=np.zeros(most, np.int64),
    )
