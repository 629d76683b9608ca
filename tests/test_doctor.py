"""The doctor finds each defect that is planted into a sound recording, and cleans it."""

import contextlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.contract.actions import ACTION_KEYS
from datasets.contract.errors import UserError
from datasets.contract.floats import (
    FREEWHEELING,
    VELOCITY,
)
from datasets.doctor.checks import Diagnosis, Training, diagnose
from datasets.doctor.repair import Changes, clean
from datasets.format import DatasetSpec
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from pipeline.cli import main
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from tests.dataset_samples import SPEC, sample_records, write_dataset
from tests.planted_defects import (
    ERRORS,
    INCURABLE,
    WARNINGS,
    Plant,
    Records,
    gap,
    history_too_new,
    late_everywhere,
    late_in_one,
    late_with_true_history,
    with_floats,
    without_frames,
)

SIDE, REPLAYS = 32, 6


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `data drive` records of mixed drivers with keys of 10 ms."""
    path = tmp_path_factory.mktemp("doctor") / "sound.h5"
    request = DriveRequest(("short",), REPLAYS, key_ms=10, image_size=(SIDE, SIDE), seed=6)
    drive_dataset(path, request)
    return path


def planted(sound: Path, path: Path, plant: Plant) -> Path:
    with ReplayFile(sound) as file:
        records = [file.replay(i) for i in range(file.n_replays)]
        spec = file.spec
    plant(records)
    with DatasetWriter(path, spec) as writer:
        for record in records:
            writer.add(record)
    return path


def examine(path: Path, training: Training | None = None) -> Diagnosis:
    with ReplayFile(path) as file:
        return diagnose(file, training)


def found(path: Path, training: Training | None = None) -> dict[str, str]:
    """Level of each check that is not ok."""
    checks = examine(path, training).checks
    return {check.name: check.level for check in checks if check.level != "ok"}


def cleaned(path: Path, out: Path) -> Changes:
    with ReplayFile(path) as file:
        return clean(file, diagnose(file), out)


def test_a_sound_recording_has_no_findings(sound: Path) -> None:
    assert found(sound) == {}


def test_the_answer_of_the_car_is_told_in_ms(sound: Path) -> None:
    checks = {check.name: check.detail for check in examine(sound).checks}
    assert "30 ms after its keys" in checks["keys and motion"]


@pytest.mark.parametrize("plant", [*ERRORS, *WARNINGS], ids=lambda plant: plant.__name__)
def test_each_defect_is_found_and_nothing_else(sound: Path, plant: Plant, tmp_path: Path) -> None:
    path = planted(sound, tmp_path / "data.h5", plant)
    levels = found(path)
    assert set(levels) == ERRORS.get(plant, {WARNINGS.get(plant, "")})
    assert ("error" in levels.values()) == (plant in ERRORS)
    if plant not in INCURABLE:
        before = path.read_bytes()
        changes = cleaned(path, tmp_path / "cleaned.h5")
        assert sum(changes.counts.values()) > 0
        assert "error" not in found(tmp_path / "cleaned.h5").values()
        assert path.read_bytes() == before


def test_a_late_timeline_is_moved_where_the_floats_prove_it(sound: Path, tmp_path: Path) -> None:
    path = planted(sound, tmp_path / "data.h5", late_with_true_history)
    changes = cleaned(path, tmp_path / "cleaned.h5")
    assert changes.counts["timelines moved"] == 1
    with ReplayFile(sound) as expected, ReplayFile(tmp_path / "cleaned.h5") as file:
        assert file.n_replays == REPLAYS
        moved, true = file.replay(2), expected.replay(2)
    np.testing.assert_array_equal(moved.actions, true.actions[: len(moved.actions)])
    np.testing.assert_array_equal(moved.floats, true.floats[: len(moved.floats)])
    assert len(true.floats) - len(moved.floats) <= 3


def test_a_timeline_whose_error_is_not_exactly_known_is_left_out(
    sound: Path, tmp_path: Path
) -> None:
    path = planted(sound, tmp_path / "data.h5", late_in_one)
    changes = cleaned(path, tmp_path / "cleaned.h5")
    assert len(changes.dropped) == 1
    assert "short_00002: keys and motion are out of step" in changes.dropped[0]
    path = planted(sound, tmp_path / "all.h5", late_everywhere)
    with pytest.raises(UserError, match="nothing sound is left"):
        cleaned(path, tmp_path / "none.h5")
    assert not (tmp_path / "none.h5").exists()


def test_a_replay_with_a_gap_becomes_two(sound: Path, tmp_path: Path) -> None:
    path = planted(sound, tmp_path / "data.h5", gap)
    cleaned(path, tmp_path / "cleaned.h5")
    with ReplayFile(sound) as expected, ReplayFile(tmp_path / "cleaned.h5") as file:
        names = [str(name) for name in file.replays["name"]]
        first, second = (file.replay(names.index(f"short_00003_part{i}")) for i in (0, 1))
        whole = expected.replay(3)
    assert (first.finished, second.finished) == (False, True)
    assert first.race_time_ms == 100 * 50
    np.testing.assert_array_equal(first.frames, whole.frames[:100])
    np.testing.assert_array_equal(second.frames, whole.frames[107:])
    np.testing.assert_array_equal(second.floats, whole.floats[107:])
    np.testing.assert_array_equal(second.actions, whole.actions)


def test_a_replay_stays_when_the_one_that_it_repeats_is_left_out(
    sound: Path, tmp_path: Path
) -> None:
    def unsound_twin_first(records: Records) -> None:
        fast = records[4].floats[:, VELOCITY] * 3.6
        twin = replace(records[4], name="a_copy")
        records[:] = [with_floats(twin, slice(None), VELOCITY, fast), *records]
        records.append(replace(records[5], name="z_copy"))

    path = planted(sound, tmp_path / "data.h5", unsound_twin_first)
    dropped = cleaned(path, tmp_path / "cleaned.h5").dropped
    assert [line.split(":")[0] for line in dropped] == ["short/a_copy", "short/z_copy"]
    assert "repeats short/short_00004" in dropped[1]


def test_one_time_after_the_race_costs_its_own_frame_alone(sound: Path, tmp_path: Path) -> None:
    with ReplayFile(sound) as file:
        frames = int(file.replays["frame_count"][0])
    path = tmp_path / "data.h5"
    path.write_bytes(sound.read_bytes())
    with h5py.File(path, "r+") as handle:
        handle["frame_time_ms"][3] = 999_990
    cleaned(path, tmp_path / "cleaned.h5")
    with ReplayFile(tmp_path / "cleaned.h5") as file:
        assert str(file.replays["name"][0]) == "short_00000"
        assert int(file.replays["frame_count"][0]) == frames - 4  # a part of 3 frames is too short


def test_cleaning_leaves_an_interrupted_recording_of_that_name(sound: Path, tmp_path: Path) -> None:
    with (
        contextlib.suppress(KeyboardInterrupt),
        DatasetWriter(tmp_path / "cleaned.h5", SPEC) as writer,
    ):
        writer.add(sample_records()[0])
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="unfinished recording with other parameters"):
        cleaned(sound, tmp_path / "cleaned.h5")
    with ReplayFile(tmp_path / "cleaned.h5.parts") as file:
        assert file.spec == SPEC


def test_previous_actions_are_written_anew(sound: Path, tmp_path: Path) -> None:
    path = planted(sound, tmp_path / "data.h5", history_too_new)
    cleaned(path, tmp_path / "cleaned.h5")
    with ReplayFile(sound) as expected, ReplayFile(tmp_path / "cleaned.h5") as file:
        np.testing.assert_array_equal(
            file.read("floats", 0, file.n_frames), expected.read("floats", 0, expected.n_frames)
        )


def test_the_offsets_of_the_training_decide_what_leaks(sound: Path, tmp_path: Path) -> None:
    """The newest action is then of the frame itself, which offset 100 does not ask for."""
    path = planted(sound, tmp_path / "data.h5", history_too_new)
    assert "label leaks" not in found(path, Training(offsets_ms=(100,)))


def test_a_float_that_tells_a_later_action_is_found(sound: Path, tmp_path: Path) -> None:
    def later_key_in_a_float(records: Records) -> None:
        for i, record in enumerate(records):
            ticks = np.minimum(record.frame_time_ms // 10 + 30, len(record.actions) - 1)
            held = ACTION_KEYS[record.actions[ticks], 3]
            records[i] = with_floats(record, slice(None), FREEWHEELING, held)

    path = planted(sound, tmp_path / "data.h5", later_key_in_a_float)
    assert "label leaks" not in found(path)
    assert "label leaks" in found(path, Training(offsets_ms=(0, 300)))


def test_a_change_after_the_recording_is_found_and_placed(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    path.write_bytes(sound.read_bytes())
    with h5py.File(path, "a") as handle:
        first = int(handle["replays/first_action"][1])
        handle["actions"][first + 33] = 12
    checks = {check.name: check for check in examine(path).checks}
    assert (checks["content"].level, checks["actions"].level) == ("error", "error")
    assert "short/short_00001" in checks["actions"].detail
    assert cleaned(path, tmp_path / "cleaned.h5").counts["replays left out"] == 1
    assert found(tmp_path / "cleaned.h5") == {}


def test_a_varying_interval_is_sound_without_gaps(sound: Path, tmp_path: Path) -> None:
    with ReplayFile(sound) as file:
        records = [file.replay(i) for i in range(3)]
        spec = DatasetSpec(**{**vars(file.spec), "frame_interval_ms": 0})
    for name, end, expected in (("thin", 64, set()), ("gap", 80, {"times"})):
        with DatasetWriter(tmp_path / f"{name}.h5", spec) as writer:
            for record in records:
                writer.add(without_frames(record, 62, end))
        assert set(found(tmp_path / f"{name}.h5")) == expected


def test_made_up_replays_have_no_findings(tmp_path: Path) -> None:
    assert found(write_dataset(tmp_path / "data.h5", sample_records())) == {}
    assert found(write_dataset(tmp_path / "folder", sample_records())) == {}


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and what `data validate` prints."""
    capsys.readouterr()
    code = main(["data", "validate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_command_cleans_and_judges_the_copy(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = planted(sound, tmp_path / "data.h5", gap), tmp_path / "cleaned"
    code, text = command(capsys, path, "--fix", out)
    assert code == 0
    assert "cuts, each making one more replay" in text
    assert "data.h5: 1 errors" in text
    assert "cleaned: 0 errors, 0 warnings" in text
    assert command(capsys, path)[0] == 1


@pytest.mark.parametrize("out", ["data", "data/inside.h5", "other.h5"])
def test_the_command_never_writes_over_anything(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_dataset(tmp_path / "data", sample_records())
    (tmp_path / "other.h5").write_text("mine")
    code, text = command(capsys, path, "--fix", tmp_path / out)
    assert code == 2
    assert "cleaned copy" in text
    assert len(text.splitlines()) == 1


def test_the_command_takes_the_offsets_of_a_configuration(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = planted(sound, tmp_path / "data.h5", history_too_new), tmp_path / "bc.yaml"
    config.write_text(
        "bc_mode: backbone\nuse_actions_head: false\nuse_full_iqn: false\n"
        "bc_time_offsets_ms: [100]\n"
    )
    assert "2 errors" in command(capsys, path)[1]
    assert "1 errors" in command(capsys, path, "--config", config)[1]
    config.write_text("next_tick: true\n")  # the newest action is older than the label then
    assert "1 errors" in command(capsys, path, "--config", config)[1]
