"""The doctor finds what was corrupted, and nothing in a sound dataset."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.checks import Check, validate
from datasets.reader import ReplayFile
from tests.dataset_samples import sample_records, write_dataset

FRAME = 40  # in the second replay


def run(path: Path) -> dict[str, Check]:
    with ReplayFile(path) as file:
        return {check.name: check for check in validate(file)}


def wrong(path: Path) -> set[str]:
    return {name for name, check in run(path).items() if check.level != "ok"}


def test_a_sound_dataset_has_no_findings(tmp_path: Path) -> None:
    assert wrong(write_dataset(tmp_path / "data.h5", sample_records())) == set()
    assert wrong(write_dataset(tmp_path / "folder", sample_records())) == set()


def corrupt_action(handle: h5py.File) -> None:
    tick = int(handle["replays/first_action"][1]) + 30
    handle["actions"][tick] = (handle["actions"][tick] + 1) % 12


def impossible_action(handle: h5py.File) -> None:
    handle["actions"][int(handle["replays/first_action"][1]) + 31] = 12  # no frame shows it


def time_gap(handle: h5py.File) -> None:
    handle["frame_time_ms"][FRAME] += 50


def late_frames(handle: h5py.File) -> None:
    first, count = int(handle["replays/first_frame"][1]), int(handle["replays/frame_count"][1])
    handle["frame_time_ms"][first : first + count] += 1000


def nan_float(handle: h5py.File) -> None:
    handle["floats"][FRAME, 100] = np.nan


def clock_written(handle: h5py.File) -> None:
    handle["floats"][FRAME, 0] = 3


def shifted_history(handle: h5py.File) -> None:
    history = handle["floats"][:, 1:21]
    handle["floats"][:, 1:21] = np.roll(history, 1, axis=0)


def leap(handle: h5py.File) -> None:
    handle["meters_advanced"][FRAME] += 400


def fast(handle: h5py.File) -> None:
    handle["floats"][FRAME, 58] = 900


def black(handle: h5py.File) -> None:
    handle["frames"][FRAME] = 0


def repeated_frames(handle: h5py.File) -> None:
    for frame in range(60, 90):
        handle["frames"][frame] = handle["frames"][59]


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        (corrupt_action, {"previous actions"}),
        (impossible_action, {"actions"}),
        (time_gap, {"times", "previous actions"}),
        (late_frames, {"timeline", "previous actions"}),
        (nan_float, {"floats"}),
        (clock_written, {"clock"}),
        (shifted_history, {"previous actions"}),
        (leap, {"metres"}),
        (fast, {"speed"}),
        (black, {"black frames"}),
        (repeated_frames, {"duplicate frames"}),
    ],
)
def test_each_corruption_is_found_and_placed(
    corrupt: Callable[[h5py.File], None], expected: set[str], tmp_path: Path
) -> None:
    path = write_dataset(tmp_path / "data.h5", sample_records())
    with h5py.File(path, "a") as handle:
        corrupt(handle)
    assert wrong(path) == expected | {"content"}  # the digest covers every row


def test_a_finding_names_the_replay_and_the_frame(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5", sample_records())
    with h5py.File(path, "a") as handle:
        nan_float(handle)
        name = handle["replays/name"].asstr()[1]
    with ReplayFile(path) as file:
        frame = FRAME - int(file.replays["first_frame"][1])
    check = run(path)["floats"]
    assert (check.level, check.count) == ("error", 1)
    assert f"{name}, frame {frame}" in check.detail


def test_a_replay_recorded_twice_is_found(tmp_path: Path) -> None:
    records = sample_records()
    records.append(type(records[0])(**{**vars(records[4]), "name": "again"}))
    found = run(write_dataset(tmp_path / "data.h5", records))["duplicate replays"]
    assert (found.level, found.count) == ("warning", 1)
    assert "again" in found.detail
