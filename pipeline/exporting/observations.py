"""Observations that a policy and the scripted drivers meet on a track."""

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_MS, TICKS_PER_ACTION
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import DriverPool
from rl.envs.sim.road import Track
from rl.evaluation.greedy import start_seeds
from rl.network.policy import Policy
from rl.network.prior import Driver

CARS: Final = 24
STEPS: Final = 160


def drive_observations(
    network: Driver, track: Track, *, cars: int = CARS, steps: int = STEPS, seed: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Drive half of the cars greedily and let drivers of all skills drive the others.

    A policy that has learnt little stays near its start; the drivers see the rest of the track.

    Args:
        network: of the greedy cars; says how frames look.
        track: where to drive.
        cars: number of cars, at least 2, each from its own varied start.
        steps: actions of 50 ms, at most; a car that stops earlier is left out from then on.
        seed: of starts and drivers.

    Returns:
        (B, H, W) uint8 frames (black for a network without an image encoder); (B, 184) floats.
    """
    config = network.config
    batch = RaceBatch(
        [track],
        np.zeros(cars, dtype=np.int64),
        image_size=config.image_hw,
        render=config.use_image_head,
    )
    seeds = start_seeds(seed, cars)
    batch.reset(np.arange(cars), seeds)
    drivers = DriverPool(batch, np.linspace(0.0, 1.0, cars), seeds, key_ms=ACTION_MS)
    policy = Policy(network)
    greedy = np.arange(cars) % 2 == 0
    frames, floats = [], []
    for _ in range(steps):
        live = ~(batch.finished | batch.truncated)
        if not live.any():
            break
        frames.append(batch.frames[live])
        floats.append(batch.floats[live])
        held = policy.values(batch.frames, batch.floats).argmax(axis=1).astype(np.uint8)
        for _ in range(TICKS_PER_ACTION):
            batch.tick(np.where(greedy, held, drivers.act()).astype(np.uint8))
        batch.observe()
    return np.concatenate(frames), np.concatenate(floats)
