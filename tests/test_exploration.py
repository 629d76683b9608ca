"""Shares of random, noisy and greedy actions."""

import numpy as np
import pytest

from rl.collecting.exploration import choose_actions

B, A = 60_000, 4


def best_is_two() -> np.ndarray:
    values = np.zeros((B, A), np.float32)
    values[:, 2] = 1.0
    values[:, 1] = 0.99
    return values


def test_without_exploration_all_actions_are_greedy() -> None:
    actions, greedy = choose_actions(best_is_two(), 0.0, 0.0, 0.1, np.random.default_rng(0))
    assert actions.dtype == np.uint8
    assert (actions == 2).all()
    assert greedy.all()


def test_random_actions_are_uniform_and_may_be_greedy() -> None:
    actions, greedy = choose_actions(best_is_two(), 1.0, 0.0, 0.1, np.random.default_rng(0))
    assert np.bincount(actions) / B == pytest.approx(np.full(A, 0.25), abs=0.01)
    assert np.array_equal(greedy, actions == 2)


def test_a_share_epsilon_is_random() -> None:
    actions, _ = choose_actions(best_is_two(), 0.3, 0.0, 0.1, np.random.default_rng(0))
    assert (actions != 2).mean() == pytest.approx(0.3 * 0.75, abs=0.01)


def test_boltzmann_actions_prefer_values_that_are_close() -> None:
    actions, _ = choose_actions(best_is_two(), 0.0, 0.5, 0.05, np.random.default_rng(0))
    shares = np.bincount(actions, minlength=A) / B
    assert shares[0] == shares[3] == 0.0
    # P(0.99 + 0.05 n1 > 1 + 0.05 n2) with n1 - n2 ~ N(0, 2): the normal tail beyond 0.1414.
    assert shares[1] == pytest.approx(0.5 * 0.4438, abs=0.01)


def test_each_car_has_its_own_probabilities() -> None:
    epsilon = np.where(np.arange(B) % 2, 1.0, 0.0)
    actions, _ = choose_actions(best_is_two(), epsilon, 0.0, 0.1, np.random.default_rng(0))
    assert (actions[::2] == 2).all()
    assert (actions[1::2] != 2).mean() == pytest.approx(0.75, abs=0.01)
