"""Races that a training keeps as inputs: the fastest ones, and all below a threshold."""

from dataclasses import replace
from pathlib import Path

import pytest

from rl.evaluation.best_runs import KEPT_PER_MAP, load_run, save_best_run, saved_runs
from rl.evaluation.greedy import DrivenRun
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.outputs import keep_rollout
from rl.run.state import Run
from tests.rl_samples import tiny_config
from tests.rollout_samples import random_rollout


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return build_run(tiny_config(tmp_path, threshold_to_save_all_runs_ms=400_000))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_all_races_below_the_threshold_are_kept_and_of_equal_times_each_one(
    run: Run, folder: RunFolder
) -> None:
    driven = replace(random_rollout(9, 1), finished=True, track="straight")
    for k in range(KEPT_PER_MAP + 3):
        race_ms = 430 + 10 * (k // 2)
        for _ in range(2):  # a resumed run drives some races again
            other = replace(driven, race_time_ms=race_ms, seed=k)
            keep_rollout(folder, run, other, is_best=k == 0)
    kept = [load_run(path) for path in saved_runs(folder.good_runs, "straight")]
    assert sorted(each.start_seed for each in kept) == list(range(KEPT_PER_MAP + 3))
    assert [each.race_time_ms for each in kept] == sorted(each.race_time_ms for each in kept)


def test_races_that_did_not_finish_or_were_guided_are_not_kept(run: Run, folder: RunFolder) -> None:
    driven = replace(random_rollout(9, 1), finished=True, race_time_ms=430)
    keep_rollout(folder, run, replace(driven, finished=False, race_time_ms=300_000), is_best=True)
    keep_rollout(folder, run, replace(driven, finished=False, race_time_ms=300_000), is_best=False)
    keep_rollout(folder, run, replace(driven, guided=True), is_best=False)
    assert not folder.good_runs.exists()
    assert not folder.best_runs.exists()


def test_only_the_fastest_races_of_a_map_stay_among_the_best(tmp_path: Path) -> None:
    """A name may hold what a shell would read as a pattern, and be the beginning of another."""
    actions = random_rollout(9, 1).actions
    for track in ("a", "a_1"):
        for k in range(KEPT_PER_MAP + 2):
            save_best_run(tmp_path, DrivenRun(track, k, 0.0, 450 - 10 * k, actions), {})
    for track in ("a", "a_1"):
        times = [load_run(path).race_time_ms for path in saved_runs(tmp_path, track)]
        assert times == [450 - 10 * k for k in range(KEPT_PER_MAP + 1, 1, -1)]
