"""The sum tree, and prioritised sampling on top of it."""

import numpy as np
import pytest

from datasets.contract.minirace import MINI_RACE_ACTIONS
from rl.config.learning import MemoryConfig
from rl.replay.memory import ReplayMemory
from rl.replay.sum_tree import SumTree
from tests.test_replay import F, H, W, add, make_rollout


@pytest.mark.parametrize("capacity", [1, 2, 5, 64, 100])
def test_slots_are_drawn_in_proportion_to_their_weight(capacity: int) -> None:
    rng = np.random.default_rng(0)
    tree = SumTree(capacity)
    weights = rng.random(capacity) * (rng.random(capacity) < 0.7)
    weights[-1] = 0.5
    tree.set(np.arange(capacity), weights)
    tree.check_valid()
    assert tree.total == pytest.approx(weights.sum())
    counts = np.bincount(tree.draw(20_000, rng), minlength=capacity)
    assert counts / 20_000 == pytest.approx(weights / weights.sum(), abs=3e-3)
    assert (counts[weights == 0.0] == 0).all()


def test_changing_weights_keeps_the_sums() -> None:
    rng = np.random.default_rng(0)
    tree, weights = SumTree(37), np.zeros(37)
    for _ in range(20):
        slots = rng.choice(37, size=11, replace=False)
        values = rng.random(11)
        tree.set(slots, values)
        weights[slots] = values
        tree.check_valid()
    assert np.array_equal(tree.get(np.arange(37)), weights)


def test_broken_trees_are_found() -> None:
    negative = SumTree(4)
    negative.set(np.array([0, 1, 2, 3]), np.array([2.0, -1.0, 1.0, 1.0]))  # the sums are right
    with pytest.raises(ValueError, match="sum tree"):
        negative.check_valid()
    wrong = SumTree(4)
    wrong.set(np.arange(4), np.ones(4))
    wrong._nodes[1] = 5.0
    with pytest.raises(ValueError, match="sum tree"):
        wrong.check_valid()


def test_an_empty_tree_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="all 0"):
        SumTree(8).draw(3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("alpha", "beta", "share", "weight"), [(1.0, 1.0, 9 / 18, 1 / 9), (0.5, 0.4, 3 / 12, 3**-0.4)]
)
def test_large_errors_are_sampled_more_and_weigh_less(
    alpha: float, beta: float, share: float, weight: float
) -> None:
    config = MemoryConfig(
        prio_alpha=alpha,
        prio_beta=beta,
        prio_epsilon=1e-6,
        mini_race=False,
        buffer_test_ratio=0.0,
    )
    memory = ReplayMemory(50, (H, W), F, config)
    add(memory, make_rollout(10, 1))
    batch = memory.sample(500, np.random.default_rng(0), gamma=1.0)
    errors = np.where(batch.floats[:, 1].numpy() == 1004, 9.0, 1.0).astype(np.float32)
    memory.update_priorities(batch, errors)
    memory.check_valid()
    batch = memory.sample(5000, np.random.default_rng(1), gamma=1.0)
    likely = batch.floats[:, 1] == 1004
    assert float(likely.float().mean()) == pytest.approx(share, abs=0.015)
    weights = batch.weights.numpy()
    np.testing.assert_allclose(weights[likely.numpy()], weight, rtol=1e-5)
    np.testing.assert_allclose(weights[~likely.numpy()], 1.0, rtol=1e-5)


def test_new_runs_get_twice_the_mean_priority() -> None:
    config = MemoryConfig(prio_alpha=0.5, buffer_test_ratio=0.0)
    memory = ReplayMemory(50, (H, W), F, config)
    add(memory, make_rollout(10, 1))
    add(memory, make_rollout(12, 2))
    assert memory.priorities()[:10] == pytest.approx(np.ones(10))
    assert memory.priorities()[10:] == pytest.approx(np.full(12, 2.0))


def test_late_in_the_window_priorities_stay() -> None:
    config = MemoryConfig(prio_alpha=1.0, buffer_test_ratio=0.0)
    memory = ReplayMemory(400, (H, W), F, config)
    add(memory, make_rollout(300, 1))
    batch = memory.sample(64, np.random.default_rng(0), gamma=1.0)
    memory.update_priorities(batch, np.full(64, 5.0, np.float32))
    changed = memory.priorities() != 1.0
    early = np.unique(batch.slots[batch.clock < MINI_RACE_ACTIONS - 40].numpy())
    assert np.array_equal(np.flatnonzero(changed), early)
