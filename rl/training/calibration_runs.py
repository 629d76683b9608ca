"""Runs of an injected policy before learning starts: what its values are calibrated to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from datasets.contract.floats import CLOCK
from datasets.contract.minirace import MINI_RACE_ACTIONS, draw_clock
from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.config.reward_weights import RewardConfig
from rl.config.schedules import ScheduleConfig
from rl.envs.rewards import potential, step_rewards
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout
from rl.transfer.calibration import CalibrationData, Watch, unwatched

LONGEST_RUN_MS: Final = 90_000
"""A policy that crawls for minutes says nothing about the scale of a good one's values."""
MOST_SAMPLES: Final = 20_000
"""More add nothing to a fit of a few hundred updates."""


def drive_warm_up(
    network: IQN,
    plan: CollectorPlan,
    *,
    rollouts: int,
    epsilon: float,
    watch: Watch = unwatched,
) -> list[Rollout]:
    """Let a policy drive the exploration entries of the cycle, one run per car.

    Args:
        network: the policy, left as it is.
        plan: of any collector of the run.
        rollouts: number of runs.
        epsilon: share of random actions.
        watch: told the share of the driving that is done, in [0, 1].
    """
    steady = ScheduleConfig.model_validate(
        {"epsilon_schedule": ((0, epsilon),), "epsilon_boltzmann_schedule": ((0, 0.0),)}
    )
    cycle = tuple(e for e in plan.cycle if e.is_exploration and e.fill_buffer)
    cutoff = "cutoff_rollout_if_race_not_finished_within_duration_ms"
    longest_ms = min(getattr(plan.environment, cutoff), LONGEST_RUN_MS)
    warm = replace(
        plan,
        cycle=cycle,
        schedules=steady,
        cars=plan.races.cars_at_once(rollouts),
        averaged_share=0.0,
        first_entry=0,
        environment=plan.environment.model_copy(update={cutoff: longest_ms}),
    )
    driver = IQN(network.config).to(next(network.parameters()).device)
    driver.load_state_dict(network.state_dict())
    collector = Collector(warm, driver)
    try:
        if warm.cars < rollouts:
            return _drive_in_turn(collector, rollouts, watch)
        return _drive_at_once(collector, watch)
    finally:
        collector.close()


def _drive_at_once(collector: Collector, watch: Watch) -> list[Rollout]:
    """Return one run of each car.

    The first runs to end are the short ones, so each car's first run counts, and no other.
    """
    first = {seed: car for car, seed in enumerate(collector.seeds.tolist())}
    waiting = set(first)
    driven: list[Rollout] = []
    done = np.zeros(len(first), dtype=np.bool_)
    while waiting:
        watch(float(np.where(done, 1.0, collector.progress).mean()))
        for rollout in collector.step(0):
            if rollout.seed in waiting:
                waiting.remove(rollout.seed)
                done[first[rollout.seed]] = True
                driven.append(rollout)
    return driven


def _drive_in_turn(collector: Collector, rollouts: int, watch: Watch) -> list[Rollout]:
    """Return the first runs of a collector's one car."""
    driven: list[Rollout] = []
    while len(driven) < rollouts:
        watch((len(driven) + float(collector.progress.mean())) / rollouts)
        driven += collector.step(0)
    return driven


def calibration_data(
    rollouts: Sequence[Rollout],
    rewards: RewardConfig,
    *,
    mini_race: bool,
    gamma: float,
    epsilon: float,
    rng: np.random.Generator,
) -> CalibrationData:
    """Observations of some runs with the returns that followed.

    Only observations whose horizon lies inside their run count: with mini-races, those with enough
    actions or the finish ahead; without, those of finished runs.

    Args:
        rollouts: of the policy to calibrate.
        rewards: weights of the step rewards.
        mini_race: whether values are over the rest of a 7 s window.
        gamma: discount per action.
        epsilon: 0 to 1, share of random actions in the runs.
        rng: draws mini-race clocks, and samples if there are too many.
    """
    samples: list[tuple[npt.NDArray[Any], ...]] = []
    for rollout in rollouts:
        clock = draw_clock(rng, len(rollout)) if mini_race else np.zeros(len(rollout), np.int64)
        horizon = MINI_RACE_ACTIONS - clock if mini_race else None
        returns, complete = _returns(rollout, rewards, horizon, gamma)
        floats = rollout.floats.copy()
        floats[:, CLOCK] = clock
        samples.append(
            (
                rollout.frames[complete],
                floats[complete],
                rollout.actions[complete],
                rollout.q_values[complete].argmax(axis=1),
                returns[complete],
            )
        )
    columns = [np.concatenate(column) for column in zip(*samples, strict=True)]
    count = len(columns[0])
    if count > MOST_SAMPLES:
        kept = np.sort(rng.choice(count, MOST_SAMPLES, replace=False))
        columns = [column[kept] for column in columns]
    frames, floats, actions, greedy, targets = columns
    return CalibrationData(
        frames=torch.from_numpy(frames).unsqueeze(1),
        floats=torch.from_numpy(floats),
        actions=torch.from_numpy(actions.astype(np.int64)),
        greedy=torch.from_numpy(greedy.astype(np.int64)),
        returns=torch.from_numpy(targets.astype(np.float32)),
        epsilon=epsilon,
    )


def _returns(
    rollout: Rollout,
    config: RewardConfig,
    horizon: npt.NDArray[np.int64] | None,
    gamma: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(L,) discounted rewards over each horizon, and whether it lies inside the run.

    The potential of an observation is taken off, as it is of a sampled transition; what lies at
    the horizon's end is terminal and has none.
    """
    steps = len(rollout)
    floats = rollout.all_floats()
    rewards = step_rewards(
        rollout.time_ms, rollout.meters, floats, rollout.finished, config
    ).astype(np.float64)
    start = np.arange(steps)
    end = np.full(steps, steps) if horizon is None else np.minimum(start + horizon, steps)
    reaches = np.full(steps, False) if horizon is None else start + horizon <= steps
    to_end = np.zeros(steps + 1)
    for step in range(steps - 1, -1, -1):
        to_end[step] = rewards[step] + gamma * to_end[step + 1]
    returns = to_end[start] - gamma ** (end - start) * to_end[end]
    returns -= potential(floats[:-1], config)
    return returns, reaches | rollout.finished
