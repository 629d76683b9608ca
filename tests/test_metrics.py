"""Numbers of a run: tags, best times, CSV files."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from datasets.contract.csv_log import CsvLog, read_csv
from rl.metrics import TensorBoardLog, quantiles
from rl.rollout import Rollout
from rl.statistics import RunStatistics, rollout_tags


def make_rollout(*, finished: bool = True, exploration: bool = False, ms: int = 9_970) -> Rollout:
    length = 4
    return Rollout(
        track="A01",
        is_exploration=exploration,
        fill_buffer=True,
        seed=1,
        weights_version=3,
        frames=np.zeros((length, 2, 3), np.uint8),
        floats=np.zeros((length, 184), np.float32),
        actions=np.zeros(length, np.uint8),
        action_was_greedy=np.ones(length, np.bool_),
        q_values=np.tile(np.array([1.0, 3.0, 2.0], np.float32), (length, 1)),
        meters=np.array([10.0, 20.0, 40.0, 90.0, 60.0]),
        time_ms=np.arange(0, 250, 50, dtype=np.int32),
        next_frame=np.zeros((2, 3), np.uint8),
        next_floats=np.zeros(184, np.float32),
        finished=finished,
        race_time_ms=ms if finished else 300_000,
        duration_s=0.1,
    )


def test_tags_of_an_evaluation_run() -> None:
    tags = rollout_tags(make_rollout(), RunStatistics(), trained=True, length_m=200.0)
    assert tags["Race/eval_race_time_trained_A01"] == 9.97
    assert tags["Race/eval_race_time_finished_trained_A01"] == 9.97
    assert tags["Race/eval_race_finished_trained_A01"] == 1.0
    assert tags["RL/avg_Q_trained_A01"] == 3.0
    assert tags["RL/mean_action_gap_A01"] == pytest.approx(1.0)
    assert tags["RL/q_value_0_starting_frame_A01"] == 1.0
    assert tags["RL/single_zone_reached_trained_A01"] == 1.0
    assert tags["Race/race_time_ratio_A01"] == pytest.approx(2.0)


def test_tags_of_an_unfinished_exploration_run() -> None:
    rollout = make_rollout(finished=False, exploration=True)
    tags = rollout_tags(rollout, RunStatistics(), trained=False, length_m=200.0)
    assert tags["Race/explo_race_time_blind_A01"] == 300.0
    assert "Race/explo_race_time_finished_blind_A01" not in tags
    assert not any(tag.startswith("RL/avg_Q") for tag in tags)
    assert tags["RL/single_zone_reached_blind_A01"] == pytest.approx(80.0 / 200.0)


def test_robust_times_are_near_the_rolling_mean() -> None:
    statistics = RunStatistics(rolling_mean_ms={"A01": 10_000.0})
    near = rollout_tags(make_rollout(ms=9_900), statistics, trained=True, length_m=9.0)
    assert near["Race/eval_race_time_robust_trained_A01"] == 9.9
    assert statistics.rolling_mean_ms["A01"] == pytest.approx(9_990.0)
    far = rollout_tags(make_rollout(ms=9_700), statistics, trained=True, length_m=9.0)
    assert "Race/eval_race_time_robust_trained_A01" not in far


def test_best_times_count_finishes_and_start_at_dnf() -> None:
    statistics = RunStatistics()
    assert not statistics.count(make_rollout(finished=False))
    assert statistics.alltime_min_ms == {"A01": 300_000}
    assert statistics.count(make_rollout(ms=9_000))
    assert not statistics.count(make_rollout(ms=9_000))
    assert statistics.frames_of_best == 8
    assert statistics.frames_played == 12
    restored = RunStatistics()
    restored.load_state_dict(statistics.state_dict())
    assert restored == statistics


def test_log_folder_follows_the_suffix(tmp_path: Path) -> None:
    board = TensorBoardLog(tmp_path, "run")
    board.scalars({"Training/loss": 2.0}, 100, "")
    board.scalars({"Training/loss": 1.0}, 200, "_2")
    board.close()
    for folder, expected in (("run", (100, 2.0)), ("run_2", (200, 1.0))):
        events = EventAccumulator(str(tmp_path / folder))
        events.Reload()
        (scalar,) = events.Scalars("Training/loss")
        assert (scalar.step, scalar.value) == expected


def test_csv_grows_by_columns_and_forgets_a_lost_future(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    CsvLog(path).append({"frames": 10, "loss": 0.5})
    log = CsvLog(path)  # as a resumed run opens it
    log.append({"frames": 20, "loss": 0.25, "best_ms": 9_000})
    log.append({"frames": 30})
    assert read_csv(path) == [
        {"frames": "10", "loss": "0.5", "best_ms": ""},
        {"frames": "20", "loss": "0.25", "best_ms": "9000"},
        {"frames": "30", "loss": "", "best_ms": ""},
    ]
    log.drop_after("frames", 20)
    assert [row["frames"] for row in read_csv(path)] == ["10", "20"]


def test_quantiles_have_their_names() -> None:
    tags = quantiles(np.arange(101, dtype=np.float64), "Gradients/norm_before_clip")
    assert tags["Gradients/norm_before_clip_median"] == 50.0
    assert tags["Gradients/norm_before_clip_d98"] == 98.0
    assert tags["Gradients/norm_before_clip_max"] == 100.0
