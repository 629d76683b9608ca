"""Drives an input file in the game, tick by tick."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from datasets.inputs import Inputs
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.link import LinkError
from rl.envs.tmnf.map_loading import MapNotLoadedError

logger = logging.getLogger(__name__)

REST_MS: Final = 20_000
"""How long the last keys of a file are held."""


@dataclass(frozen=True)
class DrivenInputs:
    """Outcome of a run.

    Attributes:
        finished: whether it crossed the finish.
        race_time_ms: at the finish, or where driving stopped.
        checkpoint_times_ms: of the checkpoints that were passed.
        way_m: distance between the start and the last place.
    """

    finished: bool
    race_time_ms: int
    checkpoint_times_ms: tuple[int, ...]
    way_m: float


def drive_inputs(
    connection: GameConnection,
    path: str,
    inputs: Inputs,
    watch: Callable[[float], None] = lambda share: None,
) -> DrivenInputs:
    """Drive a run from the start of a map.

    Args:
        connection: to a game, without frames.
        path: of the map, below the game's folder of challenges.
        inputs: what to press; the last keys are held for a while.
        watch: told the share of the run that is driven, in [0, 1].

    Raises:
        UserError: the map is not there, or the link broke.
    """
    if inputs.respawns_ms:
        logger.warning("respawns are left out: the car drives on where it is")
    if inputs.has_analog:
        logger.warning("analog steering is driven as the keys that come nearest to it")
    ticks = inputs.at_ticks(len(inputs.actions) + REST_MS // TICK_MS)
    try:
        race = connection.race_on(path)
        seen = race.start()
        start = seen.state.position
        for tick, action in enumerate(ticks, start=1):
            seen = race.tick(int(action))
            watch(tick / len(ticks))
            if seen.finished:
                break
    except MapNotLoadedError as error:
        raise UserError(
            f"the game does not load the map {path!r}: is it in its folder Tracks/Challenges?"
        ) from error
    except LinkError as error:
        raise UserError(f"the link to the game broke: {error}") from error
    finally:
        connection.close()
    state = seen.state
    passed = tuple(time_ms for time_ms in state.checkpoint_times_ms if time_ms >= 0)
    way = float(np.linalg.norm(state.position - start))
    return DrivenInputs(seen.finished, seen.time_ms, passed, way)
