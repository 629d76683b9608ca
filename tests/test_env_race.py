"""The Gymnasium environments."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from datasets.contract.errors import UserError
from rl.config.reward_weights import RewardConfig
from rl.envs.sim.environment import RaceEnv
from rl.envs.sim.vector_environment import RaceVectorEnv
from tests.sim_helpers import COAST, GAS, clean_track

RACE = "rl.envs:rulka/Race-v0"


@pytest.fixture
def env() -> Iterator[gymnasium.Env]:
    made = gymnasium.make(RACE, track="short", render_mode="rgb_array")
    yield made
    made.close()


def test_the_checker_has_nothing_to_say(env: gymnasium.Env) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_registration_loads_no_heavy_library() -> None:
    code = (
        "import sys, rl.envs, gymnasium; assert 'rulka/Race-v0' in gymnasium.registry; "
        "print([m for m in ('torch', 'numba', 'lightning', 'h5py') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


def test_a_race_finishes_with_a_time() -> None:
    env = RaceEnv(clean_track(), image_size=32, start_noise=0.0)
    observation, info = env.reset(seed=1)
    assert info["race_time_ms"] == 0
    assert observation["frame"].shape == (1, 32, 32)
    env.batch.state[0, [0, 3]] = 0.0
    total, begin = 0.0, info["meters_advanced"]
    for _ in range(400):
        observation, reward, terminated, truncated, info = env.step(GAS)
        total += reward
        if terminated or truncated:
            break
    assert terminated
    assert not truncated
    assert info["finished"]
    driven = info["meters_advanced"] - begin
    assert total == pytest.approx(-0.0012 * info["race_time_ms"] + 0.01 * driven, abs=1e-3)
    assert env.observation_space.contains(observation)


def test_standing_still_truncates(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    for _ in range(100):
        _, _, terminated, truncated, info = env.step(COAST)
        if terminated or truncated:
            break
    assert truncated
    assert not terminated
    assert not info["finished"]


def test_observations_are_the_callers_own(env: gymnasium.Env) -> None:
    observation, _ = env.reset(seed=0)
    kept = {name: array.copy() for name, array in observation.items()}
    for _ in range(20):
        env.step(GAS)
    for name, array in observation.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize("action", [12, 256, -1])
def test_actions_that_do_not_exist_are_refused(action: int) -> None:
    with pytest.raises(ValueError, match="expected actions 0 to 11"):
        RaceEnv(clean_track(), image_size=32).step(np.int64(action))
    several = RaceVectorEnv(2, track=clean_track(), image_size=32)
    with pytest.raises(ValueError, match="expected actions 0 to 11"):
        several.step(np.array([0, action]))


def test_the_picture_is_larger_than_the_frame(env: gymnasium.Env) -> None:
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8
    assert picture.shape[0] > 64
    assert picture.shape[2] == 3
    assert len(np.unique(picture)) > 3


def test_a_vector_environment_equals_single_ones() -> None:
    vector = gymnasium.make_vec(RACE, num_envs=3, track="short")
    singles = [gymnasium.make(RACE, track="short") for _ in range(3)]
    observations, _ = vector.reset(seed=40)
    for i, env in enumerate(singles):
        first, _ = env.reset(seed=40 + i)
        np.testing.assert_array_equal(observations["frame"][i], first["frame"])
    rng = np.random.default_rng(0)
    ended = [False] * 3
    for _ in range(55):
        actions = rng.choice([COAST, COAST, GAS], 3)
        observations, rewards, finished, truncated, infos = vector.step(actions)
        for i, env in enumerate(singles):
            reward, done = 0.0, (False, False)
            if ended[i]:  # the vector environment starts again by itself
                single, _ = env.reset()
            else:
                single, step_reward, *flags, _ = env.step(actions[i])
                reward, done = float(step_reward), (bool(flags[0]), bool(flags[1]))
            np.testing.assert_array_equal(observations["floats"][i], single["floats"])
            np.testing.assert_array_equal(observations["frame"][i], single["frame"])
            assert rewards[i] == pytest.approx(reward, abs=1e-6)
            assert (bool(finished[i]), bool(truncated[i])) == done
            ended[i] = any(done)
        assert infos["race_time_ms"].shape == (3,)


def test_the_vector_environment_starts_again_after_an_end() -> None:
    vector = RaceVectorEnv(2, "short", image_size=16, no_progress_ms=300)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    vector.reset(seed=[3, None])
    ended = np.zeros(2, bool)
    while not ended.all():
        _, _, finished, truncated, infos = vector.step(np.array([COAST, COAST]))
        ended = finished | truncated
    assert (infos["race_time_ms"] > 0).all()
    _, rewards, finished, truncated, infos = vector.step(np.array([GAS, GAS]))
    np.testing.assert_array_equal(infos["race_time_ms"], 0)
    np.testing.assert_array_equal(rewards, 0.0)
    assert not (finished | truncated).any()


def test_image_size_and_rewards_are_options() -> None:
    double = RewardConfig(constant_reward_per_ms=-0.0024)
    plain, costly = RaceEnv("short", image_size=48), RaceEnv("short", rewards=double)
    assert plain.reset(seed=2)[0]["frame"].shape == (1, 48, 48)
    costly.reset(seed=2)
    difference = plain.step(GAS)[1] - costly.step(GAS)[1]
    assert difference == pytest.approx(0.0012 * 50, abs=1e-6)


def test_an_unknown_track_is_a_readable_error() -> None:
    with pytest.raises(UserError, match="nurburg"):
        gymnasium.make(RACE, track="nurburg")
