"""Evaluation: decided by its arguments, comparable with the drivers, repeatable from its inputs."""

from pathlib import Path

import numpy as np
import pytest

from datasets.contract.race import DNF_MS
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.evaluation.greedy import EvaluationResult, evaluate, evaluate_drivers, score, start_seeds
from rl.network.policy import Policy
from tests.rl_samples import make_network, straight_line


def test_same_arguments_give_the_same_times(tmp_path: Path) -> None:
    track = find_track(str(straight_line(tmp_path)))
    network = make_network()
    first = evaluate(network, track, starts=5, seed=3)
    again = evaluate(network, track, starts=5, seed=3)
    other = evaluate(network, track, starts=5, seed=4)
    assert first.finish_rate == 1.0
    np.testing.assert_array_equal(first.times_ms, again.times_ms)
    assert (first.times_ms != other.times_ms).any()
    assert first.times_ms.std() > 0  # starts vary, so times do


def test_best_run_is_the_fastest_and_drives_again(tmp_path: Path) -> None:
    track = find_track(str(straight_line(tmp_path)))
    result = evaluate(make_network(), track, starts=4, seed=1)
    best = result.best_run
    assert best is not None
    assert best.race_time_ms == result.best_ms == result.times_ms.min()
    assert len(best.actions) * 10 == best.race_time_ms
    batch = RaceBatch([track], [0], render=False)
    batch.reset([0], [best.start_seed])
    for action in best.actions:
        batch.tick(np.array([action]))
    assert batch.finished[0]
    assert batch.race_time_ms[0] == best.race_time_ms


@pytest.mark.parametrize("who", ["policy", "driver"])
def test_one_more_run_is_from_the_exact_start_whatever_the_seed(tmp_path: Path, who: str) -> None:
    track = find_track(str(straight_line(tmp_path)))
    results = [
        evaluate(make_network(), track, starts=3, seed=seed)
        if who == "policy"
        else evaluate_drivers(track, "expert", starts=3, seed=seed)
        for seed in (1, 2)
    ]
    assert all(result.starts == 3 for result in results)
    exact = results[0].exact_run
    assert exact is not None
    assert exact.start_noise == 0.0
    if who == "policy":
        assert exact.race_time_ms == results[1].exact_ms
    assert results[0].to_json()["exact_ms"] == exact.race_time_ms
    assert exact.race_time_ms > results[0].times_ms.max() - 200  # no rolling start, 2 m at most
    batch = RaceBatch([track], [0], render=False, start_noise=0.0)
    for action in exact.actions:
        batch.tick(np.array([action]))
    assert batch.finished[0]
    assert batch.race_time_ms[0] == exact.race_time_ms


def test_a_car_that_stands_still_does_not_finish(tmp_path: Path) -> None:
    track = find_track(str(straight_line(tmp_path)))
    result = evaluate(make_network(action=6), track, starts=3)
    assert result.finish_rate == 0.0
    assert (result.best_ms, result.mean_ms, result.best_run) == (None, None, None)
    assert (result.exact_ms, result.exact_run) == (None, None)
    assert (result.times_ms == DNF_MS).all()


def test_drivers_start_where_policies_do(tmp_path: Path) -> None:
    track = find_track(str(straight_line(tmp_path, 60.0)))
    expert = evaluate_drivers(track, "expert", starts=6, seed=2)
    assert expert.finish_rate == 1.0
    assert expert.best_run is not None
    assert expert.best_run.start_seed in start_seeds(2, 6).tolist()
    # On a straight nobody can do better than plain gas, and an expert hardly worse.
    gas = evaluate(make_network(), track, starts=6, seed=2)
    assert gas.mean_ms is not None
    assert expert.mean_ms == pytest.approx(gas.mean_ms, rel=0.1)


def test_statistics_are_over_finished_runs() -> None:
    times = np.array([1200, DNF_MS, 1000, 1400])
    result = EvaluationResult("short", times, times < DNF_MS, None)
    assert result.finish_rate == 0.75
    assert (result.best_ms, result.mean_ms, result.median_ms) == (1000, 1200.0, 1200.0)
    assert result.std_ms == pytest.approx(163.3, abs=0.1)


def test_reliable_policies_come_first_then_the_faster() -> None:
    def result(finishes: int, mean_ms: int) -> EvaluationResult:
        times = np.array([mean_ms] * finishes + [DNF_MS] * (20 - finishes))
        return EvaluationResult("short", times, times < DNF_MS, None)

    order = [result(19, 9_000), result(20, 9_500), result(18, 8_000), result(10, 7_000)]
    order.append(result(0, 0))
    scores = [score([r]) for r in order]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
    # On several maps, one unreliable map makes a policy unreliable.
    assert score([order[0], order[2]]) > score([order[1], order[1]])


def test_policy_does_not_depend_on_the_rest_of_the_batch() -> None:
    network = make_network(action=None)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 34, 34), dtype=np.uint8)
    floats = rng.standard_normal((5, 184)).astype(np.float32)
    policy = Policy(network)
    np.testing.assert_allclose(
        policy.values(frames, floats)[2:3], policy.values(frames[2:3], floats[2:3]), atol=1e-5
    )


def test_noise_is_drawn_only_when_asked_for() -> None:
    network = make_network(action=None, noisy=True)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 34, 34), dtype=np.uint8)
    floats = rng.standard_normal((2, 184)).astype(np.float32)
    policy = Policy(network, num_taus=4)
    calm = policy.values(frames, floats)
    noisy = policy.values(frames, floats, noise=True)
    assert not np.array_equal(noisy, policy.values(frames, floats, noise=True))
    assert not np.array_equal(noisy, calm)
    np.testing.assert_array_equal(policy.values(frames, floats), calm)
