"""Step rewards and the potential, computed from observations alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract import floats as layout
from rl.config.reward_weights import RewardConfig

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_LATERAL: Final = layout.VELOCITY.start
_FORWARD: Final = layout.VELOCITY.start + 2
_NEWEST_KEYS: Final = slice(layout.PREVIOUS_ACTIONS.stop - 4, layout.PREVIOUS_ACTIONS.stop)
_FIRST_WAYPOINT: Final = slice(layout.WAYPOINTS.start, layout.WAYPOINTS.start + 3)
_SECOND_WAYPOINT: Final = slice(layout.WAYPOINTS.start + 3, layout.WAYPOINTS.start + 6)

# Side force that a speed slide balances at, over the forward speed in km/h.
_SLIDE_KMH: Final = (0.0, 100.0, 200.0, 300.0, 400.0, 500.0)
_SLIDE_FORCE: Final = (80.0, 80.0, 75.0, 67.0, 60.0, 55.0)
_NEOSLIDE_MPS: Final = 2.0


def step_rewards(
    time_ms: npt.NDArray[np.integer],
    meters: npt.NDArray[np.floating],
    floats: F32,
    finished: bool,
    config: RewardConfig,
) -> F32:
    """Reward of each step of a run.

    Args:
        time_ms: (L + 1,) race time of each observation; the last is the finish if `finished`.
        meters: (L + 1,) progress along the line.
        floats: (L + 1, 184) raw floats.
        finished: whether the last observation is the finish, whose floats earn nothing.
        config: weights.

    Returns:
        (L,) float32, the reward of getting from observation i to i + 1.
    """
    at_finish = np.zeros(len(floats) - 1, np.bool_)
    at_finish[-1:] = finished
    return transition_rewards(
        np.diff(np.asarray(time_ms, dtype=np.float64)),
        np.diff(np.asarray(meters, dtype=np.float64)),
        floats[:-1],
        floats[1:],
        at_finish,
        config,
    )


def transition_rewards(
    duration_ms: npt.NDArray[np.floating | np.integer],
    progress_m: npt.NDArray[np.floating],
    before: F32,
    after: F32,
    at_finish: npt.NDArray[np.bool_],
    config: RewardConfig,
) -> F32:
    """Rewards of steps that need not follow one another.

    Args:
        duration_ms, progress_m: (L,) race time and metres from one observation to the other.
        before, after: (L, 184) raw floats of both.
        at_finish: (L,) whether the step reached the finish.

    Returns:
        (L,) float32.
    """
    rewards = config.constant_reward_per_ms * np.asarray(duration_ms, dtype=np.float64)
    rewards += config.reward_per_m_advanced_along_centerline * progress_m
    extra = _speed_gain(before, after, config) + _engineered(after, config)
    return (rewards + np.where(at_finish, 0.0, extra)).astype(np.float32)


def potential(floats: F32, config: RewardConfig) -> F32:
    """Potential of observations; added at sampling as gamma^n phi(s') - phi(s).

    Args:
        floats: (..., 184) raw floats.

    Returns:
        (...) float32; higher is closer to the line.
    """
    nearest = floats[..., _FIRST_WAYPOINT].astype(np.float64)
    distance = np.clip(
        np.linalg.norm(nearest, axis=-1),
        config.shaped_reward_min_dist_to_cur_vcp,
        config.shaped_reward_max_dist_to_cur_vcp,
    )
    value = config.shaped_reward_dist_to_cur_vcp * distance
    if config.shaped_reward_point_to_vcp_ahead:
        ahead = floats[..., _SECOND_WAYPOINT].astype(np.float64) - nearest
        facing = ahead[..., 2] / np.maximum(np.linalg.norm(ahead, axis=-1), 1e-9)
        value = value + config.shaped_reward_point_to_vcp_ahead * (facing - 1.0)
    return np.asarray(value, dtype=np.float32)


def _speed(floats: F32) -> F64:
    return np.asarray(np.linalg.norm(floats[:, layout.VELOCITY].astype(np.float64), axis=1))


def _speed_gain(before: F32, after: F32, config: RewardConfig) -> F64:
    """(L,) for gained speed, while driving forward."""
    if not config.final_speed_reward_as_if_duration_s:
        return np.zeros(len(after))
    weight = (
        config.reward_per_m_advanced_along_centerline * config.final_speed_reward_as_if_duration_s
    )
    return np.where(after[:, _FORWARD] > 0.0, weight * (_speed(after) - _speed(before)), 0.0)


def _engineered(floats: F32, config: RewardConfig) -> F64:
    """(L,) optional extras for the observations (L, 184) that steps lead to."""
    extra = np.zeros(len(floats))
    sideways = np.abs(floats[:, _LATERAL].astype(np.float64))
    wheels = floats[:, layout.WHEEL_CONTACT].sum(axis=1)
    if config.speedslide:
        extra += config.speedslide * _slide_quality(floats, sideways) * (wheels == layout.N_WHEELS)
    if config.neoslide:
        extra += config.neoslide * (sideways >= _NEOSLIDE_MPS)
    if config.kamikaze:
        keys = floats[:, _NEWEST_KEYS]
        plain_gas = (keys[:, 0] > 0.5) & (keys[:, 1] < 0.5)
        extra += config.kamikaze * (plain_gas | (wheels <= 1))
    if config.close_to_vcp:
        distance = np.linalg.norm(floats[:, _FIRST_WAYPOINT].astype(np.float64), axis=1)
        low = config.engineered_reward_min_dist_to_cur_vcp
        high = config.engineered_reward_max_dist_to_cur_vcp
        extra += config.close_to_vcp * np.clip(distance, low, high)
    return extra


def _slide_quality(floats: F32, sideways: F64) -> F64:
    """(L,) in [0, 1]: 1 where the sideways speed is exactly what a speed slide needs."""
    forward_kmh = floats[:, _FORWARD].astype(np.float64) * 3.6
    force = np.interp(forward_kmh, _SLIDE_KMH, _SLIDE_FORCE)
    quality = np.maximum((20.0 * sideways - force) / force, 0.0)
    return np.maximum(0.0, 1.0 - np.abs(quality - 1.0))
