"""Numbers of a run: tags, best times, CSV files."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import nn

from datasets.contract.csv_log import CsvLog, read_csv
from rl.config.sections import MapCycleEntry
from rl.envs.factory import SIMULATOR
from rl.envs.registry import find_track
from rl.evaluation.greedy import evaluate_drivers
from rl.evaluation.reference_times import BUILT_IN_S, DRIVERS, reference_times
from rl.replay.rollout import Rollout
from rl.reporting.progress import ProgressLine
from rl.reporting.reporter import Reporter
from rl.reporting.tags import TrackInfo, parameter_tags, quantiles, rollout_tags, splits
from rl.reporting.tensorboard import TensorBoardLog
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.statistics import RunStatistics
from tests.rl_samples import tiny_config


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
        start_noise=float(exploration),
    )


INFO = TrackInfo(length_m=200.0, finish_m=210.0)


def test_tags_of_an_evaluation_run() -> None:
    tags = rollout_tags(make_rollout(), INFO, is_robust=True)
    assert tags["Race/eval_race_time_trained_A01"] == 9.97
    assert tags["Race/eval_race_time_finished_trained_A01"] == 9.97
    assert tags["Race/eval_race_finished_trained_A01"] == 1.0
    assert tags["RL/avg_Q_trained_A01"] == 2.0
    assert tags["RL/mean_action_gap_A01"] == pytest.approx(1.0)
    assert tags["RL/q_value_0_starting_frame_A01"] == 1.0
    assert tags["RL/single_zone_reached_trained_A01"] == 1.0
    assert tags["Race/race_time_ratio_A01"] == pytest.approx(2.0)


def test_tags_of_an_unfinished_exploration_run() -> None:
    rollout = make_rollout(finished=False, exploration=True)
    blind = TrackInfo(length_m=200.0, finish_m=210.0, trained=False)
    tags = rollout_tags(rollout, blind, is_robust=False)
    assert tags["Race/explo_race_time_blind_A01"] == 300.0
    assert "Race/explo_race_time_finished_blind_A01" not in tags
    assert not any(tag.startswith("RL/avg_Q") for tag in tags)
    assert tags["RL/single_zone_reached_blind_A01"] == pytest.approx(80.0 / 200.0)


def test_splits_lie_at_equal_fractions_and_add_up_to_the_race_time() -> None:
    info = TrackInfo(length_m=80.0, finish_m=90.0)  # marks every 10 m from 20 m on
    rollout = make_rollout(ms=190)
    expected = [0.05, 0.025, 0.025, 0.01, 0.01, 0.01, 0.01, 0.05]  # the car goes back at the end
    assert splits(rollout, info) == pytest.approx(expected)
    tags = rollout_tags(rollout, info, is_robust=False)
    assert sum(tags[f"Race/split_A01_{i}"] for i in range(8)) == pytest.approx(0.19)


def test_unfinished_run_has_the_splits_that_it_passed() -> None:
    info = TrackInfo(length_m=160.0, finish_m=170.0)  # marks every 20 m from 30 m on
    rollout = make_rollout(finished=False)
    assert splits(rollout, info) == pytest.approx([0.075, 0.035, 0.02, 0.02])
    exploring = make_rollout(exploration=True)
    tags = rollout_tags(exploring, info, is_robust=False)
    assert not any(tag.startswith("Race/split") for tag in tags)


def test_ratios_are_percentages_of_reference_times() -> None:
    info = TrackInfo(200.0, 210.0, reference_times_s={"author": 9.97, "gold": 19.94})
    tags = rollout_tags(make_rollout(), info, is_robust=False)
    assert tags["Race/eval_ratio_trained_author_A01"] == pytest.approx(100.0)
    assert tags["Race/eval_agg_ratio_trained_gold"] == pytest.approx(50.0)
    slow = rollout_tags(make_rollout(finished=False), info, is_robust=False)
    assert not any("ratio_trained" in tag for tag in slow)


def test_reference_times_follow_the_track_not_the_name() -> None:
    entries = [
        MapCycleEntry(short_name="mine", map_path="short", is_exploration=True),
        MapCycleEntry(
            short_name="mine",
            map_path="short",
            is_exploration=False,
            reference_times_s={"gold": 11.5},
        ),
        MapCycleEntry(short_name="A01", map_path="recorded.npy", is_exploration=True),
    ]
    assert reference_times(entries, "mine") == {"author": 10.51, "gold": 11.5}
    assert reference_times(entries, "A01") == {}


def test_reference_times_are_those_of_the_drivers() -> None:
    for name, driver in DRIVERS.items():
        result = evaluate_drivers(find_track("short"), driver, starts=64, seed=0)
        assert result.median_ms == pytest.approx(1000 * BUILT_IN_S["short"][name], abs=1.0)


def test_robust_times_are_hardly_slower_than_the_rolling_mean() -> None:
    statistics = RunStatistics(rolling_mean_ms={"A01": 10_000.0})
    assert statistics.update_rolling_mean(make_rollout(ms=9_000))
    assert statistics.rolling_mean_ms["A01"] == pytest.approx(9_900.0)
    assert statistics.update_rolling_mean(make_rollout(ms=10_050))
    assert not statistics.update_rolling_mean(make_rollout(ms=10_200))
    tag = "Race/eval_race_time_robust_trained_A01"
    assert rollout_tags(make_rollout(ms=9_000), INFO, is_robust=True)[tag] == 9.0
    assert tag not in rollout_tags(make_rollout(ms=9_000), INFO, is_robust=False)


def test_logging_changes_no_state_and_keeps_no_runs(tmp_path: Path) -> None:
    cfg, folder = tiny_config(tmp_path), RunFolder(tmp_path / "run")
    run, tracks = build_run(cfg), SIMULATOR.maps(cfg.map_cycle.maps)
    statistics, random_state = run.statistics.state_dict(), run.rng.bit_generator.state
    with ProgressLine() as progress:
        reporter = Reporter(run, folder, tracks, progress, resumed=False)
        rollout = dataclasses.replace(make_rollout(), track="straight")
        reporter.rollout(rollout, is_robust=True, replaced=0)
        reporter.finish()
        reporter.close()
    assert run.statistics.state_dict() == statistics
    assert run.rng.bit_generator.state == random_state
    assert {path.name for path in folder.root.iterdir()} == {
        "accumulated_stats.json",
        "metrics.csv",
    }


def test_the_line_on_a_terminal_is_no_markup() -> None:
    screen = io.StringIO()
    with ProgressLine(Console(file=screen, force_terminal=True, width=80)) as progress:
        progress.show("best A[/] 3 s, [bold]B")
    assert "best A[/] 3 s, [bold]B" in screen.getvalue()


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


@pytest.mark.parametrize(
    "changes", [{"is_exploration": True}, {"start_noise": 0.5}, {"guided": True}]
)
def test_other_runs_than_greedy_ones_from_the_exact_start_set_no_best_time(
    changes: dict[str, Any],
) -> None:
    statistics = RunStatistics()
    assert not statistics.count(dataclasses.replace(make_rollout(ms=9_000), **changes))
    assert statistics.alltime_min_ms == {"A01": 300_000}
    assert (statistics.frames_played, statistics.frames_of_best) == (4, 0)


def test_best_times_of_older_runs_begin_anew() -> None:
    statistics = RunStatistics()
    statistics.count(make_rollout(ms=9_000))
    old = statistics.state_dict()
    del old["exact_starts"]
    restored = RunStatistics()
    restored.load_state_dict({**old, "frames_played": 70})
    assert restored.alltime_min_ms == {"A01": 300_000}
    assert restored.frames_of_best == 70  # an early stop waits from here on
    assert restored.count(make_rollout(ms=9_500))
    again = RunStatistics()
    again.load_state_dict(restored.state_dict())
    assert again == restored


def test_guided_runs_are_counted_apart() -> None:
    guided = dataclasses.replace(make_rollout(exploration=True), guided=True)
    tags = rollout_tags(guided, INFO, is_robust=False)
    assert tags["Race/guided_race_time_finished_trained_A01"] == 9.97
    assert not {tag for tag in tags if "explo" in tag or "zone_reached" in tag}


def test_best_times_are_kept_by_map() -> None:
    statistics = RunStatistics()
    statistics.count(make_rollout(ms=9_000))
    statistics.count(dataclasses.replace(make_rollout(ms=55_000), track="hock"))
    assert statistics.alltime_min_ms == {"A01": 9_000, "hock": 55_000}


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


def scalar_steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [scalar.step for scalar in events.Scalars(tag)]


@pytest.mark.parametrize(("start", "kept"), [(200, [100, 200, 250]), (0, [250])])
def test_what_another_future_wrote_is_hidden(tmp_path: Path, start: int, kept: list[int]) -> None:
    before = TensorBoardLog(tmp_path, "run")
    for frames in (100, 200, 300):
        before.scalars({"Training/loss": 1.0}, frames)
    before.close()
    after = TensorBoardLog(tmp_path, "run", start_frames=start)  # 0: a new run of an old name
    after.scalars({"Training/loss": 0.5}, 250)
    after.close()
    assert scalar_steps(tmp_path / "run", "Training/loss") == kept


def test_resumed_run_hides_the_lost_future_of_a_later_folder_too(tmp_path: Path) -> None:
    before = TensorBoardLog(tmp_path, "run")
    before.scalars({"Training/loss": 1.0}, 100, "")
    before.scalars({"Training/loss": 1.0}, 290, "_2")
    before.close()
    after = TensorBoardLog(tmp_path, "run", start_frames=200)
    after.scalars({"Training/loss": 0.5}, 240, "")
    after.scalars({"Training/loss": 0.5}, 260, "_2")
    after.close()
    assert scalar_steps(tmp_path / "run", "Training/loss") == [100, 240]
    assert scalar_steps(tmp_path / "run_2", "Training/loss") == [260]


def test_event_files_of_a_folder_sort_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    made: list[str] = []
    for number in range(2):
        board = TensorBoardLog(tmp_path, "run")
        board.scalars({"Training/loss": 1.0}, number)
        board.close()
        names = {path.name for path in (tmp_path / "run").glob("events*")}
        made += sorted(names - set(made))
    seconds = [int(name.split(".")[3]) for name in made]
    assert seconds[0] < seconds[1]


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


def test_parameter_tags_are_per_element() -> None:
    layer = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 3.0], [0.0, 3.0], [0.0, 3.0]]))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.5, eps=1.0)
    fresh = parameter_tags(layer, optimizer)
    assert fresh == {"Network/weights/weight/L2": pytest.approx(6.0**0.5)}
    layer.weight.grad = torch.full((3, 2), 4.0)
    optimizer.step()
    tags = parameter_tags(layer, optimizer)
    assert tags["Network/optimizer/weight/exp_avg_L2"] == pytest.approx(0.4)
    assert tags["Network/optimizer/weight/exp_avg_sq_L2"] == pytest.approx(0.016)
    assert tags["Network/optimizer/weight/adaptive_lr_L2"] == pytest.approx(0.5 / (4.0 + 1.0))
