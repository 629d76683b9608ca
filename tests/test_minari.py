"""Datasets of Minari: written, read with Minari itself, and read back."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.contract.actions import N_ACTIONS
from datasets.contract.errors import UserError
from datasets.format import ReplayRecord
from datasets.reader import ReplayFile
from pipeline.cli import main
from pipeline.exporting.episodes import NO_TICK, NotAnEpisodeError, most_frequent, to_episode
from pipeline.exporting.minari_files import export_minari, import_minari, place_of
from rl.config.reward_weights import RewardConfig
from tests.dataset_samples import HEIGHT, SPEC, WIDTH, make_replay, sample_records, write_dataset
from tests.fuzzing import assert_kept, assert_one_line, run_command, tree_digest

NO_EXTRA = "needs the packages of: uv sync --extra export"


def _held(number: int, **options: Any) -> ReplayRecord:
    """A replay whose actions are held for whole steps."""
    record = make_replay(number, **options)
    return dataclasses.replace(record, actions=record.actions[::5].repeat(5)[: len(record.actions)])


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("minari", reason=NO_EXTRA)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return module


def _equal(got: ReplayRecord, expected: ReplayRecord) -> None:
    for field in dataclasses.fields(ReplayRecord):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name))


@pytest.mark.parametrize("out", ["rulka/sample-v0", "{tmp}/folder"])
def test_round_trip_keeps_everything(minari: Any, tmp_path: Path, out: str) -> None:
    records = sample_records()
    labelled = np.roll(records[2].actions, 3)
    records[2] = dataclasses.replace(records[2], label_actions=labelled)
    source = write_dataset(tmp_path / "a.h5", records)
    name = out.format(tmp=tmp_path)
    assert main(["data", "export", str(source), "--format", "minari", "--out", name]) == 0
    assert main(["data", "import-minari", name, "--out", str(tmp_path / "b.h5")]) == 0
    with ReplayFile(source) as before, ReplayFile(tmp_path / "b.h5") as after:
        assert after.identity() == before.identity()
        assert after.spec == before.spec
        for index in range(before.n_replays):
            _equal(after.replay(index), before.replay(index))


def test_minari_reads_what_was_driven(minari: Any, tmp_path: Path) -> None:
    record = _held(3, n_frames=24)
    with ReplayFile(write_dataset(tmp_path / "a.h5", [record])) as file:
        summary = export_minari(file, "rulka/one-v2", strict=True)
    assert (summary.episodes, summary.steps, summary.mixed_steps) == (1, 24, 0)
    dataset = minari.load_dataset("rulka/one-v2")
    assert dataset.action_space.n == N_ACTIONS
    (episode,) = dataset.iterate_episodes()
    assert episode.observations["frame"].shape == (25, 1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(episode.observations["frame"][:-1, 0], record.frames)
    np.testing.assert_array_equal(episode.observations["floats"][:-1], record.floats)
    np.testing.assert_array_equal(episode.actions, record.actions[::5])
    times = [*record.frame_time_ms, record.race_time_ms]
    np.testing.assert_array_equal(episode.infos["race_time_ms"], times)
    meters = np.append(record.meters, np.float32(record.finish_meters)).astype(np.float64)
    expected = -6 / 5000 * np.diff(times) + 5 / 500 * np.diff(meters)
    np.testing.assert_allclose(episode.rewards, expected, rtol=1e-5)
    assert episode.terminations.tolist() == [False] * 23 + [True]
    assert not episode.truncations.any()


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
@pytest.mark.parametrize("command", ["export", "import-minari"])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(
    minari: Any, tmp_path: Path, command: str
) -> None:
    """At each size at which a file may fail to grow, from its first bytes to its last."""
    from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit

    source = write_dataset(tmp_path / "a.h5", sample_records()[:3])
    exported = ("data", "export", source, "--format", "minari", "--out")
    assert main([*map(str, exported), str(tmp_path / "m")]) == 0
    commands = {"export": exported, "import-minari": ("data", command, tmp_path / "m", "--out")}
    (tmp_path / "out").mkdir()
    for limit in (0, 200, 2_000, 40_000, 60_000):
        out = tmp_path / "out" / ("b.h5" if command == "import-minari" else "b")
        before = tree_digest(tmp_path / "out")
        setrlimit(RLIMIT_FSIZE, (limit, RLIM_INFINITY))
        try:
            outcome = run_command(*commands[command], out)
        finally:
            setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))
        assert_one_line(outcome)
        assert outcome.code == 2, (limit, outcome)
        assert_kept(before, tmp_path / "out")
        assert not out.exists()


def test_cut_off_run_is_truncated_at_its_last_frame() -> None:
    record = _held(5, finished=False)
    episode = to_episode(record, RewardConfig())
    assert not episode.terminated
    assert len(episode.actions) == len(record.frames) - 1
    np.testing.assert_array_equal(episode.observations["frame"][:, 0], record.frames)
    assert len(episode.facts["actions_after"]) == 3  # the 30 ms after the last frame


def test_record_that_stops_long_before_the_finish_is_truncated() -> None:
    record = _held(5)
    late = dataclasses.replace(record, race_time_ms=record.race_time_ms + 400)
    assert not to_episode(late, RewardConfig()).terminated
    assert to_episode(record, RewardConfig()).terminated


def test_most_frequent_action_is_taken_and_the_earliest_of_several() -> None:
    none = NO_TICK
    ticks = [[1, 2, 2, 3, 1], [4, 5, 5, 4, 6], [7, 8, 8, none, none], [9, none, none, none, none]]
    assert most_frequent(np.array(ticks, np.uint8)).tolist() == [1, 4, 8, 9]


def test_mixed_steps_are_counted_or_refused(
    minari: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = _held(3, n_frames=24)
    actions = record.actions.copy()
    actions[[7, 31, 32]] = (actions[[7, 31, 32]] + 1) % N_ACTIONS  # in the steps 1 and 6
    source = write_dataset(tmp_path / "a.h5", [dataclasses.replace(record, actions=actions)])
    command = ["data", "export", str(source), "--format", "minari", "--out", "rulka/mixed-v0"]
    assert main([*command, "--strict"]) == 2
    assert "several actions within 2 of 24 steps" in capsys.readouterr().err
    assert not list((tmp_path / "minari").rglob("*.hdf5"))
    assert main(command) == 0
    assert "2 steps (8.3%)" in capsys.readouterr().out
    (episode,) = minari.load_dataset("rulka/mixed-v0").iterate_episodes()
    np.testing.assert_array_equal(episode.actions, record.actions[::5])


def test_frames_between_steps_are_left_out(minari: Any, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, frame_interval_ms=10)
    record = make_replay(4, n_frames=41, interval_ms=10)
    with ReplayFile(write_dataset(tmp_path / "a.h5", [record], spec)) as file:
        summary = export_minari(file, str(tmp_path / "m"))
    assert (summary.steps, summary.frames_left_out) == (9, 32)
    assert import_minari(str(tmp_path / "m"), tmp_path / "b.h5") == 1
    with ReplayFile(tmp_path / "b.h5") as after:
        got = after.replay(0)
        assert after.frame_interval_ms == 50
    np.testing.assert_array_equal(got.frames, record.frames[::5])
    np.testing.assert_array_equal(got.actions, record.actions)


def test_gaps_are_no_episode() -> None:
    record = make_replay(6)
    rows = np.delete(np.arange(23), 11)
    cut = {name: getattr(record, name)[rows] for name in ("frames", "floats", "meters")}
    gap = dataclasses.replace(record, frame_time_ms=record.frame_time_ms[rows], **cut)
    with pytest.raises(NotAnEpisodeError, match="frames are missing"):
        to_episode(gap, RewardConfig())


def test_other_frame_intervals_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason=NO_EXTRA)
    spec = dataclasses.replace(SPEC, frame_interval_ms=40)
    record = make_replay(6, interval_ms=40)
    with (
        ReplayFile(write_dataset(tmp_path / "a.h5", [record], spec)) as file,
        pytest.raises(UserError, match="frames every 40 ms"),
    ):
        export_minari(file, str(tmp_path / "m"))


@pytest.mark.filterwarnings("ignore::UserWarning:minari.*")  # about what a dataset might say
def test_runs_of_the_environment_are_imported_with_its_rewards(minari: Any, tmp_path: Path) -> None:
    from minari.data_collector import EpisodeBuffer

    from rl.envs.sim.environment import RaceEnv

    env = RaceEnv("short", image_size=34)
    observation, info = env.reset(seed=3)
    observations, infos, actions, rewards = [observation], [info], [], []
    for step in range(30):
        actions.append([0, 1, 0, 2, 3, 6][step % 6])
        observation, reward, terminated, _, info = env.step(actions[-1])
        assert not terminated
        observations.append(observation)
        infos.append(info)
        rewards.append(reward)
    ends = np.arange(30) == 29
    buffer = EpisodeBuffer(
        observations={k: np.array([o[k] for o in observations]) for k in ("frame", "floats")},
        actions=np.array(actions),
        rewards=np.array(rewards),
        terminations=ends & False,
        truncations=ends,
        infos={key: np.array([each[key] for each in infos]) for key in info},
    )
    minari.create_dataset_from_buffers(
        "test/env-v0",
        [buffer],
        observation_space=env.observation_space,
        action_space=env.action_space,
    )
    import_minari("test/env-v0", tmp_path / "env.h5", track="short")
    with ReplayFile(tmp_path / "env.h5") as file:
        record = file.replay(0)
        export_minari(file, "test/again-v0", strict=True)
    assert record.race_time_ms == 1500
    assert len(record.actions) == 150
    (again,) = minari.load_dataset("test/again-v0").iterate_episodes()
    np.testing.assert_array_equal(again.actions, actions)
    np.testing.assert_allclose(again.rewards, rewards, atol=1e-6)
    np.testing.assert_array_equal(again.observations["floats"], buffer.observations["floats"])


def test_environment_of_simulated_runs_is_recovered(minari: Any, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, source="simulator", image_size=(34, 34))
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 255, (23, 34, 34)).astype(np.uint8)
    record = dataclasses.replace(make_replay(1, track="short"), frames=frames)
    with ReplayFile(write_dataset(tmp_path / "a.h5", [record], spec)) as file:
        export_minari(file, "rulka/short-v0")
    env = minari.load_dataset("rulka/short-v0").recover_environment()
    observation, _ = env.reset(seed=1)
    assert observation["frame"].shape == (1, 34, 34)


def test_only_a_dataset_is_replaced(minari: Any, tmp_path: Path) -> None:
    with ReplayFile(write_dataset(tmp_path / "a", sample_records()[:3])) as file:
        for taken in ("a", "notes.txt"):
            (tmp_path / "notes.txt").write_text("kept")
            before = tree_digest(tmp_path)
            with pytest.raises(UserError, match=rf"{taken} is not a dataset .*metadata\.json"):
                export_minari(file, str(tmp_path / taken), overwrite=True)
            assert tree_digest(tmp_path) == before
        for _ in range(2):
            export_minari(file, str(tmp_path / "m"), overwrite=True)
        (tmp_path / "m" / "notes.txt").write_text("kept")
        with pytest.raises(UserError, match=r"notes\.txt in it"):
            export_minari(file, str(tmp_path / "m"), overwrite=True)


@pytest.mark.parametrize("name", ["nothing/here-v0", "{tmp}"])
def test_missing_dataset_is_named(minari: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no dataset of Minari here"):
        import_minari(name.format(tmp=tmp_path), tmp_path / "x.h5")


def test_names_and_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "root")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    assert place_of("rulka/a01-v3") == (Path("root/rulka/a01-v3/data"), "rulka/a01-v3")
    assert place_of("output/a01-v3") == (Path("output/a01-v3"), "a01-v3")
    assert place_of("some/folder.x") == (Path("some/folder.x"), "folder_x-v0")
