"""Driving and recording on the simulator, and the data commands."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.contract.actions import ACTION_MS
from datasets.contract.errors import UserError
from datasets.doctor.checks import diagnose
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from pipeline.cli import main
from pipeline.recording import drive as capture
from pipeline.recording.drive import DefaultDataset, ReplayJob, drive_dataset, ensure_dataset
from pipeline.recording.request import DriveRequest
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from tests.dataset_samples import make_replay, write_dataset

REQUEST = DriveRequest(("short",), 3, image_size=(9, 11), seed=4)


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("driven") / "short.h5"
    drive_dataset(path, REQUEST)
    return path


def test_a_driven_dataset_is_sound(driven: Path) -> None:
    with ReplayFile(driven) as file:
        assert [c for c in diagnose(file).checks if c.level != "ok"] == []
        assert file.tracks == ["short"]
        assert file.n_replays == 3
        rows = file.replays
        assert rows["finished"].all()
        np.testing.assert_array_equal(rows["race_time_ms"], rows["action_count"] * 10)
        assert ((rows["skill"] >= 0) & (rows["skill"] <= 0.7)).all()
        assert len(set(rows["race_time_ms"])) == 3
        assert (rows["finish_meters"] > file.meters[rows["first_frame"]] + 200).all()


def test_the_agent_can_repeat_a_replay_and_sees_what_was_recorded(driven: Path) -> None:
    """With keys held for 50 ms, the recorded actions at 50 ms steps give the recorded frames."""
    with ReplayFile(driven) as file:
        replay = file.replay(1)
    start, _, skill = ReplayJob(0, "short", 1).draws(REQUEST)
    assert replay.skill == pytest.approx(skill)
    batch = RaceBatch([find_track("short")], [0], image_size=REQUEST.image_size)
    batch.reset([0], [start])
    for i in range(len(replay.frames)):
        np.testing.assert_array_equal(batch.frames[0], replay.frames[i])
        np.testing.assert_array_equal(batch.floats[0], replay.floats[i])
        assert np.float32(batch.meters[0]) == replay.meters[i]
        batch.step(replay.actions[5 * i : 5 * i + 1])
    assert batch.finished[0]
    assert batch.race_time_ms[0] == replay.race_time_ms


def test_cars_beside_a_car_and_frame_rate_do_not_change_its_replay(
    driven: Path, tmp_path: Path
) -> None:
    drive_dataset(tmp_path / "alone.h5", REQUEST, cars=1)
    assert (tmp_path / "alone.h5").read_bytes() == driven.read_bytes()
    drive_dataset(tmp_path / "fast.h5", replace(REQUEST, fps=100, replays=1))
    with ReplayFile(driven) as slow, ReplayFile(tmp_path / "fast.h5") as fast:
        often, rarely = fast.replay(0), slow.replay(0)
        assert [c for c in diagnose(fast).checks if c.level != "ok"] == []
    np.testing.assert_array_equal(often.actions, rarely.actions)
    np.testing.assert_array_equal(often.frames[::5], rarely.frames)
    np.testing.assert_array_equal(often.floats[::5], rarely.floats)


def test_keys_change_within_an_action_only_at_10_ms_keys(driven: Path, tmp_path: Path) -> None:
    drive_dataset(tmp_path / "keys.h5", replace(REQUEST, key_ms=10, replays=1))

    def changes(path: Path) -> set[int]:
        with ReplayFile(path) as file:
            actions = file.replay(0).actions
        return set((np.flatnonzero(np.diff(actions)) + 1) % 5)

    assert changes(driven) == {0}
    assert len(changes(tmp_path / "keys.h5")) > 2


def test_an_interrupted_recording_continues_with_the_missing_replays(
    driven: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again.h5"
    file = ReplayFile(driven)
    with suppress(KeyboardInterrupt), DatasetWriter(path, file.spec) as writer:
        writer.add(file.replay(1))
        raise KeyboardInterrupt
    summary = drive_dataset(path, REQUEST)
    assert (summary.already_there, summary.recorded) == (1, 2)
    assert path.read_bytes() == driven.read_bytes()
    with pytest.raises(UserError, match=r"again.h5 exists"):
        drive_dataset(path, REQUEST)


def test_runs_that_do_not_finish_are_counted_and_driven_again(driven: Path, tmp_path: Path) -> None:
    with ReplayFile(driven) as file:
        times = file.replays["race_time_ms"]
    limit = int(times.min() + times.max()) // 100 * 50  # runs are cut off at whole actions
    slow = int((times > limit).sum())
    limited = replace(REQUEST, max_race_ms=limit)
    summary = drive_dataset(tmp_path / "again.h5", limited)
    assert summary.unfinished >= slow > 0
    assert summary.recorded + summary.given_up == 3
    with ReplayFile(tmp_path / "again.h5") as file:
        assert file.replays["finished"].all()
        assert file.replays["race_time_ms"].max() <= limit
        tries = int(file.replays["attempt"].sum())
    assert tries - summary.recorded + capture.MAX_ATTEMPTS * summary.given_up == summary.unfinished

    kept = drive_dataset(tmp_path / "kept.h5", replace(limited, keep_unfinished=True))
    assert (kept.recorded, kept.unfinished) == (3, slow)
    with ReplayFile(tmp_path / "kept.h5") as file:
        assert file.replays["finished"].sum() == 3 - slow
        assert [c for c in diagnose(file).checks if c.level != "ok"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracks": ("shrt",)}, "shrt"),
        ({"tracks": ()}, "no tracks"),
        ({"driver": "god"}, r"unknown driver 'god'.*novice"),
        ({"fps": 30}, "fps 30"),
        ({"fps": 0}, "fps 0"),
        ({"key_ms": 20}, "key-ms 20"),
        ({"replays": 0}, "at least 1"),
        ({"skills": (0.5, 0.2)}, r"0.5:0.2 must be a range"),
        ({"image_size": (2, 2)}, "image size"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        drive_dataset(tmp_path / "data.h5", replace(REQUEST, **changes))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_missing_default_dataset_is_driven_and_others_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = DefaultDataset(replace(REQUEST, replays=1), "a tiny dataset")
    monkeypatch.setitem(capture.DEFAULT_DATASETS, "output/datasets/default.h5", tiny)
    monkeypatch.chdir(tmp_path)
    path = Path("output/datasets/default.h5")
    with caplog.at_level("INFO"):
        ensure_dataset(path)
    assert "is not there: driving and recording a tiny dataset" in caplog.text
    before = path.read_bytes()
    ensure_dataset(path.absolute())
    assert path.read_bytes() == before
    assert "today's default" not in caplog.text
    more = DefaultDataset(replace(REQUEST, replays=2), "two replays")
    monkeypatch.setitem(capture.DEFAULT_DATASETS, "output/datasets/default.h5", more)
    ensure_dataset(path)
    assert path.read_bytes() == before
    assert "replays [1], not with today's default" in caplog.text
    with pytest.raises(UserError, match=r"other.h5: no such dataset.*data drive"):
        ensure_dataset(Path("other.h5"))


def command(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str, str]:
    code = main(["data", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_drive_info_and_validate_work_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "data.h5")
    options = ["--replays", "2", "--driver", "expert", "--image-size", "8x10", "--out", path]
    assert command(capsys, ["drive", "--tracks", "short", *options])[0] == 0
    code, out, _ = command(capsys, ["info", path, "--json"])
    facts = json.loads(out)
    assert code == 0
    assert facts["replays"] == 2
    assert facts["image_size"] == [8, 10]
    assert facts["tracks"]["short"]["frames"] == facts["frames"]
    assert facts["drivers"]["expert"]["skill"] == [1.0, 1.0]
    assert sum(facts["actions"].values()) == pytest.approx(1, abs=1e-3)
    assert "expert" in command(capsys, ["info", path])[1]

    code, out, _ = command(capsys, ["validate", path])
    assert code == 0
    assert "0 errors" in out
    with h5py.File(path, "a") as handle:
        handle["actions"][100:200] = (handle["actions"][100:200] + 1) % 12
    code, out, _ = command(capsys, ["validate", path])
    assert code == 1
    assert "previous actions" in out


def test_a_skill_that_nobody_knows_is_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = replace(make_replay(3), driver="person", skill=float("nan"))
    path = write_dataset(tmp_path / "data.h5", [make_replay(1), unknown])
    code, out, _ = command(capsys, ["info", str(path), "--json"])
    assert code == 0
    assert "NaN" not in out
    facts = json.loads(out)
    assert facts["drivers"]["person"]["skill"] is None
    assert facts["tracks"]["loop"]["skill"] == [0.25, 0.25]
    assert command(capsys, ["info", str(path)])[0] == 0


def test_a_users_mistake_exits_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = command(capsys, ["info", str(tmp_path / "missing.h5")])
    assert code == 2
    assert error.count("\n") == 1
    assert "missing.h5: no such file" in error
    options = ["--tracks", "short", "--skills", "low", "--out", str(tmp_path / "x.h5")]
    code, _, error = command(capsys, ["drive", *options])
    assert code == 2
    assert "0.2:0.8" in error


def test_the_default_datasets_teach_decisions_on_a01() -> None:
    plain, dense = (dataset.request for dataset in capture.DEFAULT_DATASETS.values())
    assert (plain.tracks, plain.replays, plain.fps) == (("A01",), 200, 20)
    assert plain.frame_interval_ms == plain.key_ms == ACTION_MS
    assert (dense.tracks, dense.fps, dense.key_ms) == (("A01",), 100, ACTION_MS)
