"""Saved runs are driven again in the simulator, tick by tick, from their own starts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_MS, N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.road import Track
from rl.evaluation.greedy import DrivenRun


@dataclass(frozen=True, eq=False)
class DrivenTick:
    """The car of a run at one moment.

    Attributes:
        time_ms: race time; at the finish the recorded one.
        state: (STATE_SIZE,) float64, columns in `rl.envs.sim.car`.
        meters: progress along the track's line; only differences matter.
        action: the action held from here on, at the finish the one held until it.
        frame: (H, W) uint8, gray: what the driver saw; None between two frames.
    """

    time_ms: int
    state: npt.NDArray[np.float64]
    meters: float
    action: int
    frame: npt.NDArray[np.uint8] | None


def drive_again(
    track: Track,
    run: DrivenRun,
    *,
    image_size: tuple[int, int] | None = None,
    frame_ms: int = ACTION_MS,
) -> Iterator[DrivenTick]:
    """Drive a saved run.

    Args:
        track: that the run was driven on.
        run: its inputs and its start.
        image_size: pixels (height, width) of the frames; None draws none.
        frame_ms: race time between two frames, a multiple of 10 ms. The finish has a frame too.

    Yields:
        The car at its start, then after each tick of 10 ms.

    Raises:
        UserError: the inputs are no actions of this car, or do not finish in the recorded time,
            which shows after the last tick.
    """
    actions = _checked_actions(run)
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
    last = len(actions)
    for tick in range(last + 1):
        if tick:
            batch.tick(actions[tick - 1 : tick])
        draws = image_size is not None and (tick * TICK_MS % frame_ms == 0 or tick == last)
        if draws:
            batch.observe()
        yield DrivenTick(
            time_ms=run.race_time_ms if tick == last else tick * TICK_MS,
            state=batch.state[0].copy(),
            meters=float(batch.meters[0]),
            action=int(actions[min(tick, last - 1)]),
            frame=batch.frames[0].copy() if draws else None,
        )
    if not batch.finished[0] or int(batch.race_time_ms[0]) != run.race_time_ms:
        raise UserError(
            f"{run.track}: the inputs do not finish in the {run.race_time_ms} ms that were "
            "recorded: they belong to another map or to another version of the simulator"
        )


def _checked_actions(run: DrivenRun) -> npt.NDArray[np.uint8]:
    """Return the actions of a run, (M,) uint8.

    Raises:
        UserError: they are none of this car.
    """
    actions = run.actions
    whole = actions.ndim == 1 and actions.dtype.kind in "ui" and len(actions) > 0
    if not whole or actions.min() < 0 or actions.max() >= N_ACTIONS:
        raise UserError(f"{run.track}: the run's actions.npy holds no actions of this car")
    return actions.astype(np.uint8)
