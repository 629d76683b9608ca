"""The replay memory against a plain loop, and its shape after every change."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from datasets.contract.minirace import MINI_RACE_ACTIONS
from rl.config.learning import MemoryConfig
from rl.network.freezing import FrozenEncoder
from rl.network.iqn import IQN
from rl.replay.memory import ReplayMemory
from rl.replay.ring import Columns, Parts
from rl.replay.rollout import PriorRun, Rollout
from rl.replay.transitions import Batch
from tests.rl_samples import tiny_network

H, W, F, A = 3, 5, 7, 4
GAMMA = 0.9


def make_rollout(steps: int, seed: int, *, finished: bool = False, greedy: float = 0.7) -> Rollout:
    """A run whose frames and floats say which run and step they belong to."""
    rng = np.random.default_rng(seed)
    step = np.arange(steps + 1)
    frames = np.broadcast_to((step % 251)[:, None, None], (steps + 1, H, W)).astype(np.uint8).copy()
    frames[:, 0, 0] = seed
    floats = np.repeat(step[:, None] + 1000.0 * seed, F, axis=1).astype(np.float32)
    return Rollout(
        track="short",
        is_exploration=True,
        fill_buffer=True,
        seed=seed,
        weights_version=0,
        frames=frames[:-1],
        floats=floats[:-1],
        actions=rng.integers(0, A, steps).astype(np.uint8),
        action_was_greedy=rng.random(steps) < greedy,
        q_values=np.zeros((steps, A), np.float32),
        meters=step.astype(np.float64),
        time_ms=(50 * step).astype(np.int32),
        next_frame=frames[-1],
        next_floats=floats[-1],
        finished=finished,
        race_time_ms=50 * steps if finished else 300_000,
    )


MISFITS: dict[str, Any] = {
    "frames": np.zeros((5, H, W), np.uint8),
    "floats": np.zeros((5, F), np.float32),
    "action_was_greedy": np.zeros(5, np.bool_),
    "q_values": np.zeros((5, A), np.float32),
    "meters": np.zeros(6),
    "time_ms": np.zeros(6, np.int32),
    "next_frame": np.zeros((H, W + 1), np.uint8),
    "next_floats": np.zeros(F + 1, np.float32),
    "prior": PriorRun(np.zeros((6, A), np.float16), 0.1, 0, 0, True, 0, 0, 0),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_rollout_with_a_part_that_does_not_fit_is_refused(name: str) -> None:
    make_rollout(6, 1).check_valid()
    wrong = replace(make_rollout(6, 1), **{name: MISFITS[name]})
    part = "preferences" if name == "prior" else name
    with pytest.raises(ValueError, match=f"of 6 actions with misfitting {part}$"):
        wrong.check_valid()


def test_an_empty_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of 0 actions with misfitting actions$"):
        make_rollout(0, 1).check_valid()


def rewards_of(rollout: Rollout) -> npt.NDArray[np.float32]:
    return np.random.default_rng(rollout.seed + 99).normal(size=len(rollout)).astype(np.float32)


def potentials_of(rollout: Rollout) -> npt.NDArray[np.float32]:
    return np.random.default_rng(rollout.seed + 77).normal(size=len(rollout) + 1).astype(np.float32)


def add(memory: ReplayMemory, rollout: Rollout, seed: int = 0) -> int:
    rng = np.random.default_rng(seed)
    return memory.add(rollout, rewards_of(rollout), rng, potentials_of(rollout))


def expected(
    rollout: Rollout, i: int, clock: int, config: MemoryConfig
) -> tuple[int, float, float]:
    """Length, reward and discount of the transition from step i, by a plain loop."""
    rewards, potentials = rewards_of(rollout), potentials_of(rollout)
    length = 1
    while length < config.n_steps and i + length < len(rollout):
        if (
            config.discard_non_greedy_actions_in_nsteps
            and not rollout.action_was_greedy[i + length]
        ):
            break
        length += 1
    terminal = rollout.finished and i + length >= len(rollout)
    used = length
    if config.mini_race and clock + length >= MINI_RACE_ACTIONS:
        used, terminal = MINI_RACE_ACTIONS - clock, True
    total = sum(GAMMA**k * float(rewards[i + k]) for k in range(used)) - float(potentials[i])
    if terminal:
        return length, total, 0.0
    return length, total + GAMMA**used * float(potentials[i + length]), GAMMA**used


@pytest.mark.parametrize("mini_race", [True, False])
@pytest.mark.parametrize("discard", [True, False])
@pytest.mark.parametrize("n_steps", [1, 3, 11])
@pytest.mark.parametrize("prio_alpha", [0.0, 0.6])
def test_sampled_transitions_equal_a_plain_loop(
    mini_race: bool, discard: bool, n_steps: int, prio_alpha: float
) -> None:
    config = MemoryConfig(
        n_steps=n_steps,
        discard_non_greedy_actions_in_nsteps=discard,
        mini_race=mini_race,
        prio_alpha=prio_alpha,
    )
    memory = ReplayMemory(97, (H, W), F, config)
    rollouts = [make_rollout(20 + 7 * k, k, finished=k % 2 == 0) for k in range(6)]
    for rollout in rollouts:  # more than fits, so that the ring wraps around
        add(memory, rollout, rollout.seed)
        memory.check_valid()
    batch = memory.sample(400, np.random.default_rng(1), gamma=GAMMA)
    for b in range(400):
        run, i = int(batch.frames[b, 0, 0, 0]), int(batch.frames[b, 0, 1, 1])
        rollout, clock = rollouts[run], int(batch.clock[b])
        length, reward, discount = expected(rollout, i, clock, config)
        assert batch.floats[b, 1] == 1000 * run + i
        assert batch.next_floats[b, 1] == 1000 * run + i + length
        assert batch.next_frames[b, 0, 0, 0] == run
        assert batch.next_frames[b, 0, 1, 1] == i + length
        assert batch.actions[b] == rollout.actions[i]
        assert batch.floats[b, 0] == clock
        assert batch.next_floats[b, 0] == (clock + length if mini_race else 0)
        assert float(batch.rewards[b]) == pytest.approx(reward, abs=1e-5)
        assert float(batch.discounts[b]) == pytest.approx(discount, abs=1e-6)


def all_samples(memory: ReplayMemory, *, gamma: float = 1.0) -> Batch:
    return memory.sample(2000, np.random.default_rng(0), gamma=gamma)


def test_a_truncated_run_bootstraps_from_its_last_observation() -> None:
    memory = ReplayMemory(50, (H, W), F, MemoryConfig(mini_race=False, buffer_test_ratio=0.0))
    add(memory, make_rollout(9, 1, finished=False))
    batch = all_samples(memory)
    assert (batch.discounts == 1.0).all()
    assert batch.next_floats[:, 1].max() == 1009


def test_only_the_finish_is_terminal() -> None:
    config = MemoryConfig(mini_race=False, buffer_test_ratio=0.0, n_steps=1)
    memory = ReplayMemory(50, (H, W), F, config)
    add(memory, make_rollout(9, 1, finished=True))
    batch = all_samples(memory)
    assert torch.equal(batch.discounts == 0.0, batch.next_floats[:, 1] == 1009)


def test_the_end_of_the_window_is_terminal_with_potential_zero() -> None:
    config = MemoryConfig(n_steps=5, discard_non_greedy_actions_in_nsteps=False)
    memory = ReplayMemory(500, (H, W), F, config)
    rollout = make_rollout(400, 1)
    potentials = np.full(401, -2.0, np.float32)
    memory.add(rollout, np.zeros(400, np.float32), np.random.default_rng(0), potentials)
    batch = all_samples(memory)
    whole = batch.floats[:, 1] < 1390  # five actions follow
    ended = whole & (batch.clock + 5 >= MINI_RACE_ACTIONS)
    assert ended.any()
    assert (batch.discounts[ended] == 0.0).all()
    assert (batch.rewards[ended] == 2.0).all()
    assert (batch.discounts[whole & ~ended] == 1.0).all()
    assert (batch.rewards[whole & ~ended] == 0.0).all()


def test_an_exploratory_action_ends_the_transition_before_it() -> None:
    config = MemoryConfig(n_steps=4, mini_race=False, buffer_test_ratio=0.0)
    memory = ReplayMemory(50, (H, W), F, config)
    add(memory, make_rollout(12, 0, greedy=0.0))
    batch = all_samples(memory)
    assert (batch.next_floats[:, 1] - batch.floats[:, 1] == 1).all()


def test_resizing_keeps_the_newest_transitions() -> None:
    memory = ReplayMemory(60, (H, W), F, MemoryConfig(buffer_test_ratio=0.0, prio_alpha=0.5))
    for k in range(3):
        add(memory, make_rollout(29, k))
    memory.resize(120)
    memory.check_valid()
    assert len(memory) == 58
    memory.resize(35)
    memory.check_valid()
    assert len(memory) == 29 + 4
    batch = all_samples(memory)
    assert set(batch.frames[:, 0, 0, 0].tolist()) == {1, 2}
    assert batch.floats[batch.frames[:, 0, 0, 0] == 1, 1].min() == 1025
    add(memory, make_rollout(29, 3))
    memory.check_valid()
    assert len(memory) == 29 + 4


def test_a_run_longer_than_the_memory_keeps_its_end() -> None:
    memory = ReplayMemory(20, (H, W), F, MemoryConfig(buffer_test_ratio=0.0))
    add(memory, make_rollout(50, 1, finished=True))
    memory.check_valid()
    assert len(memory) == 19
    assert all_samples(memory).floats[:, 1].min() == 1031


def test_test_transitions_come_in_stretches_and_are_never_trained_on() -> None:
    memory = ReplayMemory(9000, (H, W), F, MemoryConfig(buffer_test_ratio=0.2))
    added = sum(add(memory, make_rollout(200, k), seed=k) for k in range(40))
    assert added == len(memory)
    assert added + memory.test_size == 8000
    assert 0.12 < memory.test_size / 8000 < 0.28
    train = memory.sample(5000, np.random.default_rng(0), gamma=1.0).slots.clone()
    test = memory.sample(5000, np.random.default_rng(0), gamma=1.0, test=True).slots
    assert not set(train.tolist()) & set(test.tolist())
    neighbours = np.diff(np.unique(test.numpy()))
    assert (neighbours == 1).mean() > 0.8


def in_parts(rows: Columns) -> Parts:
    """The rows in two parts, as segments of a checkpoint have them."""
    return {name: (column[:7], column[7:]) for name, column in rows.items()}


@pytest.mark.parametrize("prio_alpha", [0.0, 0.6])
def test_a_restored_memory_samples_the_same_and_goes_on_the_same(prio_alpha: float) -> None:
    config = MemoryConfig(prio_alpha=prio_alpha)
    memory = ReplayMemory(97, (H, W), F, config)
    for k in range(5):
        add(memory, make_rollout(31, k))
    batch = memory.sample(16, np.random.default_rng(3), gamma=GAMMA)
    memory.update_priorities(batch, np.linspace(0, 2, 16, dtype=np.float32))
    memory.resize(91)
    other = ReplayMemory(33, (H, W), F, config)
    other.restore(memory.cursor(), in_parts(memory.rows()))
    for k in range(3):
        other.check_valid()
        first = memory.sample(64, np.random.default_rng(k), gamma=GAMMA)
        second = other.sample(64, np.random.default_rng(k), gamma=GAMMA)
        for name in ("frames", "next_floats", "rewards", "weights", "slots"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        add(memory, make_rollout(31, 10 + k))
        add(other, make_rollout(31, 10 + k))


def test_rows_since_the_last_save_complete_a_checkpoint() -> None:
    memory = ReplayMemory(97, (H, W), F, MemoryConfig())
    add(memory, make_rollout(40, 1))
    saved = memory.rows()
    mark = memory.total
    add(memory, make_rollout(45, 2))
    newer = memory.rows(mark)
    rows = {name: (saved[name], newer[name]) for name in saved}
    other = ReplayMemory(97, (H, W), F, MemoryConfig())
    other.restore(memory.cursor(), rows)
    assert all(np.array_equal(memory.rows()[name], other.rows()[name]) for name in rows)


def test_rows_of_another_image_size_are_refused() -> None:
    memory = ReplayMemory(50, (H, W), F, MemoryConfig())
    add(memory, make_rollout(20, 1))
    other = ReplayMemory(50, (W, H), F, MemoryConfig())
    with pytest.raises(ValueError, match="frames should be"):
        other.restore(memory.cursor(), in_parts(memory.rows()))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps_left", -3, "of no kind, or after a run's end"),
        ("kinds", 7, "of no kind"),
        ("potentials", np.inf, "potentials that are not finite"),
        ("preferences", np.nan, "preferences that are not finite"),
        ("actions", 12, "not below 12"),
    ],
)
def test_rows_that_no_run_can_have_left_are_invalid(name: str, value: float, message: str) -> None:
    memory = ReplayMemory(50, (H, W), F, MemoryConfig(), preferences=A)
    prior = PriorRun(np.zeros((2, A), np.float16), 0.1, 0, 0, True, 0, 0, 0)
    rollout = replace(make_rollout(1, 1), prior=prior)
    memory.add(rollout, np.zeros(1, np.float32), np.random.default_rng(1))
    cursor, rows = memory.cursor(), memory.rows()
    memory.restore(cursor, in_parts(rows))
    memory.check_valid()
    rows[name][0] = value
    memory.restore(cursor, in_parts(rows))
    with pytest.raises(ValueError, match=message):
        memory.check_valid()


def test_misfitting_parts_are_refused() -> None:
    memory = ReplayMemory(50, (H, W), F, MemoryConfig())
    rollout = make_rollout(20, 1)
    with pytest.raises(ValueError, match="20 rewards"):
        memory.add(rollout, np.zeros(21, np.float32), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no training transitions"):
        memory.sample(3, np.random.default_rng(0), gamma=1.0)


def test_each_observation_is_stored_once() -> None:
    memory = ReplayMemory(1000, (64, 64), 184, MemoryConfig())
    assert memory.bytes_per_transition < 64 * 64 + 184 * 4 + 32


def test_observations_come_with_the_features_that_the_encoder_gives_them() -> None:
    side, rng = 34, np.random.default_rng(2)
    encoder = FrozenEncoder(IQN(tiny_network()))
    memory = ReplayMemory(60, (side, side), F, MemoryConfig(buffer_test_ratio=0.0), encoder=encoder)
    for seed in (1, 2, 3):  # the ring goes around
        frames = rng.integers(0, 256, (31, side, side), dtype=np.uint8)
        run = replace(make_rollout(30, seed), frames=frames[:-1], next_frame=frames[-1])
        add(memory, run)
    batch = memory.sample(200, rng, gamma=GAMMA).clone()
    pairs = ((batch.frames, batch.images), (batch.next_frames, batch.next_images))
    for seen, images in pairs:
        assert images is not None
        expected_images = encoder(seen[:, 0].numpy())
        np.testing.assert_allclose(images.numpy(), expected_images, rtol=1e-4, atol=1e-5)
    assert batch.without_images().images is None
    assert memory.cursor()["images"]
    memory.resize(50)
    assert memory.sample(5, rng, gamma=GAMMA).images is not None
    memory.forget_images()
    assert memory.sample(5, rng, gamma=GAMMA).images is None
    assert not memory.cursor()["images"]
    memory.resize(40)
    assert "images" not in memory.rows()
