"""Speed of the simulator on one core, and of a well-known peer in the same run.

Rates are per second of CPU time, so that other programs on the machine count little, and threads
would count as cores. Prints a JSON object as its last line; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import SKILLS, DriverPool

U8 = npt.NDArray[np.uint8]
Work = tuple[Callable[[], None], int]
Starts = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]

STEPS = 500
REPEATS = 5


def record_drive(track: str, cars: int, steps: int) -> tuple[U8, Starts]:
    """Actions (steps, cars) of good drivers, and which cars start again after each step."""
    batch = RaceBatch([find_track(track)], [0] * cars, render=False)
    skill = np.full(cars, SKILLS["good"])
    everyone = np.arange(cars)
    drivers = DriverPool(batch, skill, everyone, key_ms=50)
    batch.reset(everyone, everyone)
    drivers.reset(everyone, everyone, skill)
    actions = np.zeros((steps, cars), np.uint8)
    starts: Starts = []
    for step in range(steps):
        for tick in range(5):
            pressed = drivers.act()
            if tick == 0:
                actions[step] = pressed
            batch.tick(pressed)
        ended = np.flatnonzero(batch.finished | batch.truncated)
        seeds = ended + cars * (step + 1)
        starts.append((ended, seeds))
        if len(ended):
            batch.reset(ended, seeds)
            drivers.reset(ended, seeds, skill[ended])
    return actions, starts


def simulator_work(track: str, actions: U8, starts: Starts, image_size: int | None) -> Work:
    """Drive it again, with frames if there is a size; return its steps."""
    steps, cars = actions.shape
    size = (image_size, image_size) if image_size else (1, 1)
    batch = RaceBatch([find_track(track)], [0] * cars, image_size=size, render=bool(image_size))
    everyone = np.arange(cars)

    def drive() -> None:
        batch.reset(everyone, everyone)
        for row, (ended, seeds) in zip(actions, starts, strict=True):
            batch.step(row)
            if len(ended):
                batch.reset(ended, seeds)

    return drive, steps * cars


def car_racing_work(env: gymnasium.Env[Any, Any], steps: int = 150) -> Work:
    """Drive the peer, one 96x96 picture per step; return its steps."""
    env.reset(seed=0)
    env.action_space.seed(0)

    def drive() -> None:
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    return drive, steps


def best_rates(works: Sequence[Work]) -> list[float]:
    """Return the steps per CPU second of each in its best repetition.

    They take turns, so that whatever slows the machine for a while slows all of them.
    """
    best = [math.inf] * len(works)
    for _ in range(REPEATS):
        for index, (work, _) in enumerate(works):
            begin = time.process_time()
            work()
            best[index] = min(best[index], time.process_time() - begin)
    return [count / seconds for (_, count), seconds in zip(works, best, strict=True)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--track", default="A01")
    parser.add_argument("--cars", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    options = parser.parse_args()
    actions, starts = record_drive(options.track, options.cars, STEPS)
    env = gymnasium.make("CarRacing-v3", continuous=False)
    frames, blind, peer = best_rates(
        [
            simulator_work(options.track, actions, starts, options.image_size),
            simulator_work(options.track, actions, starts, None),
            car_racing_work(env),
        ]
    )
    env.close()
    print(
        json.dumps(
            {
                "benchmark": "sim",
                "track": options.track,
                "cars": options.cars,
                "image_size": options.image_size,
                "env_steps_per_s_with_frames": round(frames),
                "env_steps_per_s_without_frames": round(blind),
                "car_racing_steps_per_s": round(peer, 1),
                "times_car_racing": round(frames / peer),
            }
        )
    )


if __name__ == "__main__":
    main()
