"""Saved runs are driven again in the simulator, tick by tick, from their own starts."""

from collections.abc import Iterator

import numpy as np

from datasets.contract.actions import N_ACTIONS
from datasets.contract.errors import UserError
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.road import Track
from rl.evaluation.greedy import DrivenRun


def drive_again(
    track: Track, run: DrivenRun, *, image_size: tuple[int, int] | None = None
) -> Iterator[RaceBatch]:
    """Drive a saved run.

    Args:
        track: that the run was driven on.
        run: its inputs and its start.
        image_size: pixels (height, width) of the pictures that `observe` draws; None draws none.

    Yields:
        A batch of one car: at its start, then after each tick of 10 ms. It is observed at the
        start only; whoever needs later observations calls `observe`.

    Raises:
        UserError: the inputs are no actions of this car, or do not finish in the recorded time,
            which shows after the last tick.
    """
    if len(run.actions) == 0 or run.actions.max() >= N_ACTIONS:
        raise UserError(f"{run.track}: the run's actions.npy holds no actions of this car")
    batch = RaceBatch(
        [track],
        [0],
        image_size=image_size or (1, 1),
        render=image_size is not None,
        start_noise=run.start_noise,
        no_progress_ms=run.race_time_ms + 1,
        max_race_ms=run.race_time_ms + 1,
    )
    batch.reset([0], [run.start_seed])
    yield batch
    for action in run.actions:
        batch.tick(np.array([action], dtype=np.uint8))
        yield batch
    if not batch.finished[0] or int(batch.race_time_ms[0]) != run.race_time_ms:
        raise UserError(
            f"{run.track}: the inputs do not finish in the {run.race_time_ms} ms that were "
            "recorded: they belong to another map or to another version of the simulator"
        )
