"""Step rewards and the potential."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.contract import floats as layout
from rl.config.reward_weights import RewardConfig
from rl.envs.rewards import potential, step_rewards


def _floats(n: int) -> np.ndarray:
    rows = np.zeros((n, layout.N_FLOATS), np.float32)
    rows[:, layout.VELOCITY.start + 2] = 50.0
    rows[:, layout.WHEEL_CONTACT] = 1.0
    return rows


def test_time_costs_and_progress_pays() -> None:
    rewards = step_rewards(
        np.array([0, 50, 100, 130]),
        np.array([7.0, 9.0, 8.5, 12.0]),
        _floats(4),
        True,
        RewardConfig(),
    )
    expected = [-0.06 + 0.02, -0.06 - 0.005, -0.036 + 0.035]
    np.testing.assert_allclose(rewards, expected, atol=1e-6)
    assert rewards.dtype == np.float32


def test_at_a_hundred_and_twenty_a_step_breaks_even() -> None:
    rewards = step_rewards(
        np.array([0, 50]), np.array([0.0, 6.0]), _floats(2), False, RewardConfig()
    )
    assert rewards[0] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("forward", "gain"), [(1.0, 0.01 * 2.0 * 10.0), (-1.0, 0.0)])
def test_gained_speed_counts_only_forward(forward: float, gain: float) -> None:
    floats = _floats(2)
    floats[1, layout.VELOCITY] = [0.0, 0.0, 60.0 * forward]
    config = RewardConfig(final_speed_reward_as_if_duration_s=2.0)
    still = step_rewards(np.array([0, 0]), np.zeros(2), floats, False, config)
    assert still[0] == pytest.approx(gain, abs=1e-5)


def test_the_finish_earns_no_extras() -> None:
    floats = _floats(3)
    floats[:, layout.VELOCITY.start] = 5.0
    config = RewardConfig(neoslide=0.5)
    times, meters = np.array([0, 50, 100]), np.zeros(3)
    np.testing.assert_allclose(
        step_rewards(times, meters, floats, False, config), [0.44, 0.44], atol=1e-6
    )
    np.testing.assert_allclose(
        step_rewards(times, meters, floats, True, config), [0.44, -0.06], atol=1e-6
    )


def test_a_perfect_speed_slide_earns_its_weight_on_four_wheels() -> None:
    floats = _floats(4)
    floats[:, layout.VELOCITY.start + 2] = 200 / 3.6
    floats[1:, layout.VELOCITY.start] = [2.0 * 75 / 20, 1.5 * 75 / 20, 2.0 * 75 / 20]
    floats[3, layout.WHEEL_CONTACT.start] = 0.0
    config = RewardConfig(constant_reward_per_ms=0.0, speedslide=0.4)
    rewards = step_rewards(np.arange(4) * 50, np.zeros(4), floats, False, config)
    np.testing.assert_allclose(rewards, [0.4, 0.2, 0.0], atol=1e-5)


def test_kamikaze_and_distance_extras() -> None:
    floats = _floats(3)
    floats[1, layout.PREVIOUS_ACTIONS.stop - 4] = 1.0
    floats[1:, layout.WAYPOINTS.start] = [10.0, 100.0]
    config = RewardConfig(constant_reward_per_ms=0.0, kamikaze=2.0, close_to_vcp=-0.1)
    rewards = step_rewards(np.arange(3) * 50, np.zeros(3), floats, False, config)
    np.testing.assert_allclose(rewards, [2.0 - 1.0, -2.5], atol=1e-5)


def test_kamikaze_pays_for_gas_without_the_brake_and_for_one_wheel_on_the_ground() -> None:
    gas = layout.PREVIOUS_ACTIONS.stop - 4
    floats = _floats(5)
    floats[1, gas] = 1.0
    floats[2, gas : gas + 2] = 1.0  # the brake, too
    floats[3:, layout.WHEEL_CONTACT] = 0.0
    floats[3, layout.WHEEL_CONTACT.start] = 1.0
    floats[4, layout.WHEEL_CONTACT.start : layout.WHEEL_CONTACT.start + 2] = 1.0
    config = RewardConfig(constant_reward_per_ms=0.0, kamikaze=2.0)
    rewards = step_rewards(np.arange(5) * 50, np.zeros(5), floats, False, config)
    np.testing.assert_allclose(rewards, [2.0, 0.0, 2.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(("distance", "value"), [(0.5, -0.2), (10.0, -1.0), (60.0, -2.5)])
def test_the_potential_falls_with_the_distance_from_the_line(distance: float, value: float) -> None:
    floats = _floats(5).reshape(5, 1, -1)
    floats[..., layout.WAYPOINTS.start + 1] = distance
    np.testing.assert_allclose(potential(floats, RewardConfig()), np.full((5, 1), value), rtol=1e-5)


def test_the_potential_can_ask_to_face_along_the_line() -> None:
    floats = _floats(2)
    floats[0, layout.WAYPOINTS.start + 5] = 10.0  # the second point is straight ahead
    floats[1, layout.WAYPOINTS.start + 3] = 10.0  # or to the left
    config = RewardConfig(shaped_reward_point_to_vcp_ahead=0.5)
    np.testing.assert_allclose(potential(floats, config), [-0.2, -0.7], atol=1e-6)
