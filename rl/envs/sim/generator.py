"""Endless tracks from seeds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from rl.envs.sim.pieces import Crest, Jump, Piece, Straight, Turn, build_track, center_of
from rl.envs.sim.road import Track

F64 = npt.NDArray[np.float64]

_ATTEMPTS = 200
_MIN_CLEARANCE_M = 55.0  # between stretches of road that are not neighbours
_BRIDGE_M = 7.0  # or they are this far above one another


def _turn(rng: np.random.Generator, climb: float) -> Turn:
    radius = float(np.exp(rng.uniform(np.log(22.0), np.log(130.0))))
    # Tight bends turn far, wide ones little: both take a few seconds.
    longest = min(150.0, np.degrees(140.0 / radius))
    degrees = float(rng.uniform(min(35.0, 0.5 * longest), longest))
    return Turn(round(radius), round(degrees * rng.choice([-1.0, 1.0])), climb)


def _climb(rng: np.random.Generator) -> float:
    return float(round(rng.uniform(-6.0, 6.0))) if rng.random() < 0.3 else 0.0


def random_pieces(rng: np.random.Generator) -> list[Piece]:
    """Return a list of pieces of about 600 to 1,800 m in all."""
    pieces: list[Piece] = [Straight(round(rng.uniform(60, 130)))]
    for _ in range(int(rng.integers(4, 10))):
        pieces.append(_turn(rng, _climb(rng)))
        kind = rng.random()
        if kind < 0.12:
            pieces += [Straight(40), Jump(25, round(rng.uniform(1.5, 2.6), 1)), Straight(70)]
        elif kind < 0.27:
            pieces.append(Crest(50, round(rng.uniform(-1.5, 2.2), 1)))
        else:
            pieces.append(Straight(round(rng.uniform(30, 120)), _climb(rng)))
    pieces.append(Straight(60))
    return pieces


def runs_into_itself(center: F64) -> bool:
    """Whether a path (M, 3) of 1 m steps crosses itself without a bridge."""
    rows = center[::4]
    apart = np.linalg.norm(rows[:, None, [0, 2]] - rows[None, :, [0, 2]], axis=2)
    level = np.abs(rows[:, None, 1] - rows[None, :, 1]) < _BRIDGE_M
    order = np.arange(len(rows))
    far_along = np.abs(order[:, None] - order[None, :]) * 4 > 3.0 * _MIN_CLEARANCE_M
    return bool((far_along & level & (apart < _MIN_CLEARANCE_M)).any())


def generated_track(seed: int, *, attempts: int = _ATTEMPTS) -> Track:
    """Return the track of a seed, the same on every machine.

    Raises:
        UserError: every attempt ran into itself; seeds need a handful of attempts at most.
    """
    rng = np.random.default_rng([seed, 3])
    for _ in range(attempts):
        pieces = random_pieces(rng)
        if not runs_into_itself(center_of(pieces)[0]):
            return build_track(f"random:{seed}", pieces, seed)
    raise UserError(f"random:{seed}: all {attempts} tracks drawn run into themselves; take another")
