"""The evaluator: starts of its own for each purpose, the run's options, champions on all maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.config.sections import EnvironmentConfig, EvaluationConfig
from rl.envs.cars import RaceMap
from rl.envs.factory import SIMULATOR
from rl.envs.registry import find_track
from rl.evaluation import evaluator as evaluator_module
from rl.evaluation.champion import Champion
from rl.evaluation.evaluator import Evaluator
from rl.evaluation.greedy import EvaluationResult, evaluate_policy
from tests.rl_samples import make_network, straight_line

GAS, COAST = 0, 3


def make_evaluator(
    tracks: Mapping[str, RaceMap], environment: EnvironmentConfig | None = None, *, seed: int = 0
) -> Evaluator:
    return Evaluator(
        Champion(),
        tracks,
        make_network(action=GAS),
        EvaluationConfig(starts=2, final_starts=3, champion=True),
        environment or EnvironmentConfig(),
        SIMULATOR,
        seed=seed,
    )


def finished_in(track: str, ms: int) -> EvaluationResult:
    return EvaluationResult(track, np.array([ms]), np.array([True]), None)


def test_each_purpose_and_number_has_its_own_starts_and_all_the_runs_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven: list[dict[str, Any]] = []

    def recorded(*args: Any, **options: Any) -> EvaluationResult:
        driven.append(options)
        return evaluate_policy(*args, **options)

    monkeypatch.setattr(evaluator_module, "evaluate_policy", recorded)
    tracks = {"straight": find_track(str(straight_line(tmp_path)))}
    environment = EnvironmentConfig(
        start_noise=0.5,
        cutoff_rollout_if_no_vcp_passed_within_duration_ms=1500,
        cutoff_rollout_if_race_not_finished_within_duration_ms=4000,
    )
    evaluator = make_evaluator(tracks, environment, seed=7)
    assert evaluator.challenge(make_network(action=COAST), "raw", number=1, notes={}).is_champion
    assert evaluator.challenge(make_network(action=GAS), "raw", number=2, notes={}).is_champion
    evaluator.measure_champion(number=2)
    other_run = make_evaluator(tracks, environment, seed=8)
    other_run.challenge(make_network(action=GAS), "raw", number=1, notes={})
    # Screening and fresh starts; the champion is driven on the second candidate's fresh starts.
    assert [options["starts"] for options in driven] == [2, 3, 2, 3, 3, 3, 2, 3]
    seeds = [options["seed"] for options in driven]
    assert seeds[4] == seeds[3]
    assert len(set(seeds)) == len(seeds) - 1
    for options in driven:
        assert options["start_noise"] == 0.5
        assert options["no_progress_ms"] == 1500
        assert options["max_race_ms"] == 4000
        assert options["races"] is SIMULATOR


def test_single_runs_make_a_champion_once_all_maps_have_one(tmp_path: Path) -> None:
    track = find_track(str(straight_line(tmp_path)))
    evaluator, network = make_evaluator({"a": track, "b": track}), make_network(action=GAS)

    def is_champion(result: EvaluationResult) -> bool:
        return evaluator.consider_run(network, result, "collector", notes={}).is_champion

    assert not is_champion(finished_in("a", 1000))
    assert not is_champion(finished_in("a", 900))
    assert is_champion(finished_in("b", 2000))
    assert not is_champion(finished_in("a", 950))  # the latest run of each map counts
    assert is_champion(finished_in("b", 1900))
