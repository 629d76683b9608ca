"""Best known laps: driven again to the ms, compared only where they belong, shown by `eval`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.contract.actions import ACTION_MS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.errors import UserError
from pipeline.demo.report import summary_table
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import DriverPool
from rl.evaluation.best_known import (
    FOLDER,
    BestKnown,
    LapNotes,
    best_known,
    best_known_laps,
    drive_from_exact_start,
    read_best_known,
    save_best_known,
    simulator_version,
)
from rl.evaluation.greedy import DrivenRun, EvaluationResult
from rl.run.folder import RunFolder
from rl.training.train import TrainingResult

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
each_lap = pytest.mark.parametrize("name", NAMES)
DRIVERS = 8


def expert_ms(name: str) -> int:
    """Fastest race time of some expert drivers from the exact start, keys at any tick."""
    batch = RaceBatch([find_track(name)], [0] * DRIVERS, render=False, start_noise=0.0)
    everyone = np.arange(DRIVERS)
    batch.reset(everyone, everyone)
    drivers = DriverPool(batch, np.ones(DRIVERS), everyone)
    while not (batch.finished | batch.truncated).all():
        batch.tick(drivers.act())
    return int(batch.race_time_ms[batch.finished].min())


def test_the_tracks_that_were_searched_have_one() -> None:
    assert {"short", "A01"} <= set(NAMES)


@each_lap
def test_it_is_driven_again_in_the_same_time(name: str) -> None:
    track = find_track(name)
    lap = read_best_known(name, simulator_version(track))
    assert lap is not None
    assert drive_from_exact_start(track, lap.actions) == lap.notes.race_time_ms
    assert best_known(track) == BestKnown(lap.notes.race_time_ms)
    time_ms = lap.notes.race_time_ms
    assert time_ms - TICK_MS < lap.notes.interpolated_ms <= time_ms


@each_lap
def test_an_agent_can_drive_it_since_actions_last_50_ms(name: str) -> None:
    lap = read_best_known(name, simulator_version(find_track(name)))
    assert lap is not None
    held = lap.actions[::TICKS_PER_ACTION].repeat(TICKS_PER_ACTION)[: len(lap.actions)]
    np.testing.assert_array_equal(lap.actions, held)


@each_lap
def test_no_expert_driver_is_faster(name: str) -> None:
    known_ms = best_known(find_track(name)).race_time_ms
    assert known_ms is not None
    assert known_ms <= expert_ms(name)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, LapNotes]:
    """Return a folder with a copy of the best known lap of `short`, and its notes."""
    lap = read_best_known("short", simulator_version(find_track("short")))
    assert lap is not None
    save_best_known(lap.actions, lap.notes, tmp_path)
    return tmp_path, lap.notes


def change_notes(folder: Path, notes: LapNotes, **changes: Any) -> None:
    values = {**notes.model_dump(mode="json"), **changes}
    (folder / "short.json").write_text(json.dumps(values))


def test_a_lap_of_another_version_is_left_out_and_said(kept: tuple[Path, LapNotes]) -> None:
    folder, notes = kept
    assert best_known(find_track("short"), folder).race_time_ms == notes.race_time_ms
    change_notes(folder, notes, simulator="0123456789ab")
    left_out = best_known(find_track("short"), folder)
    assert left_out.race_time_ms is None
    assert "another version of the simulator" in left_out.reason


def test_a_lap_that_takes_another_time_is_left_out(kept: tuple[Path, LapNotes]) -> None:
    folder, notes = kept
    change_notes(folder, notes, race_time_ms=notes.race_time_ms + 20 * ACTION_MS)
    left_out = best_known(find_track("short"), folder)
    assert left_out.race_time_ms is None
    assert f"takes {notes.race_time_ms} ms in this simulator" in left_out.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"track": "A01"}, "a lap of A01"), ({"race_time_ms": "fast"}, "race_time_ms")],
)
def test_damaged_notes_are_named(
    kept: tuple[Path, LapNotes], changes: dict[str, Any], message: str
) -> None:
    folder, notes = kept
    change_notes(folder, notes, **changes)
    with pytest.raises(UserError, match=message):
        best_known(find_track("short"), folder)


def test_the_version_changes_with_the_road() -> None:
    track = find_track("short")
    road = dataclasses.replace(track.road, edges=track.road.edges + 0.001)
    wider = dataclasses.replace(track, road=road)
    assert simulator_version(wider) != simulator_version(track)
    assert simulator_version(dataclasses.replace(track, name="x")) == simulator_version(track)


def test_a_track_without_a_lap_has_a_reason() -> None:
    assert best_known(find_track("random:3")) == BestKnown(None, "no best known lap of random:3")


def test_times_are_compared_in_per_cent() -> None:
    known = BestKnown(10_000)
    assert known.above_percent(10_250) == pytest.approx(2.5)
    assert known.describe(10_250) == "from the exact start 2.5 % above the best known lap"
    assert known.describe(9_600) == "from the exact start 4.0 % below the best known lap"
    assert "no finish" in known.describe(None)
    assert BestKnown(None, "none here").describe(10_250) == "none here"


def test_the_end_of_a_training_says_the_distance_where_a_lap_is_known(tmp_path: Path) -> None:
    exact = DrivenRun("short", 0, 0.0, 10_250, np.zeros(1_025, np.uint8))
    champion = EvaluationResult("short", np.array([10_000]), np.array([True]), exact, exact)
    for limit, line in ((BestKnown(10_000), "2.5 % above"), (BestKnown(None, "no lap"), None)):
        ended = TrainingResult(
            *(RunFolder(tmp_path), "time is up", False, 1, 1, 1.0, None, {}, (champion,)),
            limits={"short": limit},
        )
        said = [text for text in ended.summary() if "best known" in text or "no lap" in text]
        assert len(said) == (line is not None)
        assert line is None or line in said[0]


def test_a_training_measures_the_best_known_laps_of_its_tracks() -> None:
    found = best_known_laps({"short": find_track("short"), "r": find_track("random:3")})
    assert found["short"] == best_known(find_track("short"))
    assert found["short"].race_time_ms is not None
    assert found["r"].race_time_ms is None


def test_the_demo_s_table_shows_the_best_known_lap(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.printing import PlainConsole

    times = {"finish_rate": 1.0, "mean_ms": 10_500.0, "median_ms": 10_400.0, "exact_ms": 10_250}
    summary = {
        "data": {"replays": 3, "mean_ms": 11_000.0, "median_ms": 10_900.0},
        "seconds": dict.fromkeys(("data", "vis", "bc", "rl", "total"), 1.0),
        "bc": times,
        "rl": {**times, "starts": 64, "first_finish_s": None},
        "expert": times,
    }
    PlainConsole().print(summary_table(summary, BestKnown(10_000)))
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "best known lap 10.00 s" in shown
    assert "2.5 % above the best known lap" in shown
