"""A policy drives and scripted drivers label it: what is recorded, and what is learnt from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from datasets.contract.actions import ACTION_FORWARD, TICKS_PER_ACTION
from datasets.contract.errors import UserError
from datasets.doctor.checks import diagnose
from datasets.labels import copy_previous_action_accuracy, frame_labels
from datasets.reader import ReplayFile
from datasets.returns import ReturnTable
from pipeline.cli import main
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from pretrain.bc.heads import OffsetPolicy
from rl.transfer.artifacts import save_artifacts
from tests.dataset_samples import make_replay, sample_records, write_dataset
from tests.pretrain_samples import SIDE, bc_config, recorded
from tests.rl_samples import straight_line


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy, which mostly leaves the road."""
    folder = tmp_path_factory.mktemp("policy")
    config = bc_config(folder / "x.h5", folder)
    torch.manual_seed(3)
    files = OffsetPolicy(config).artifacts(config)
    save_artifacts(folder, files, stage="bc", run_name="wild", network=config.network)
    return folder


@pytest.fixture(scope="module")
def request_of(policy: Path) -> DriveRequest:
    return DriveRequest(
        ("short",), 3, skills=(0.7, 0.7), image_size=(SIDE, SIDE), policy=policy, seed=6
    )


@pytest.fixture(scope="module")
def corrected(request_of: DriveRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corrected") / "round.h5"
    summary = drive_dataset(path, request_of)
    assert (summary.recorded, summary.given_up) == (3, 0)
    return path


def test_both_timelines_are_recorded_and_runs_that_fail_are_kept(corrected: Path) -> None:
    with ReplayFile(corrected) as file:
        problems = [c.name for c in diagnose(file).checks if c.level == "error"]
        assert problems == []  # the previous-action floats follow what was driven
        assert not file.replays["finished"].any()
        assert np.isnan(file.replays["skill"]).all()
        assert set(file.replays["driver"]) == {"policy, labelled by skill 0.7"}
        driven, wanted = file.actions, file.label_actions
        assert (driven != wanted).mean() > 0.2
        record = file.replay(1)
        assert record.label_actions is not None
        assert record.label_actions.shape == record.actions.shape
        ticks = len(record.actions) // TICKS_PER_ACTION * TICKS_PER_ACTION
        for timeline in (record.actions, record.label_actions):  # keys of 50 ms, both
            steps = timeline[:ticks].reshape(-1, TICKS_PER_ACTION)
            assert (steps == steps[:, :1]).all()


def test_labels_come_from_the_labeller_and_the_copied_action_from_the_driver(
    corrected: Path,
) -> None:
    with ReplayFile(corrected) as file:
        row, offsets = file.replays[2], (0, 30)
        frames = np.arange(row["first_frame"], row["first_frame"] + 9)
        ticks = row["first_action"] + file.frame_time_ms[frames] // 10
        expected = np.stack([file.label_actions[ticks], file.label_actions[ticks + 3]], axis=1)
        np.testing.assert_array_equal(frame_labels(file, frames, offsets), expected)
        driven = np.r_[ACTION_FORWARD, file.actions[ticks - 5][1:]]
        accuracy = copy_previous_action_accuracy(file, frames, offsets)[0]
        assert accuracy == (driven == expected[:, 0]).mean()


def test_returns_are_of_what_was_driven_and_unknown_at_the_cut(corrected: Path) -> None:
    with ReplayFile(corrected) as file:
        row = file.replays[0]
        frames = np.arange(row["first_frame"], row["first_frame"] + row["frame_count"])
        late, soon = (
            ReturnTable.of(file).returns(frames, np.full(len(frames), clock)) for clock in (0, 130)
        )
    assert np.isnan(late).all()  # it lasts less than 7 s
    assert np.isfinite(soon[:-10]).all()
    assert np.isnan(soon[-9:]).all()


def test_rounds_and_the_first_data_lie_in_one_folder(
    corrected: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = recorded(tmp_path_factory)
    (tmp_path / "all").mkdir()
    for number, path in enumerate((corrected, first)):
        (tmp_path / "all" / f"part{number}.h5").write_bytes(path.read_bytes())
    with ReplayFile(tmp_path / "all") as file, ReplayFile(first) as alone:
        assert file.n_replays == 6
        start = file.n_actions - alone.n_actions
        np.testing.assert_array_equal(file.label_actions[start:], alone.actions)
        assert (file.label_actions[:start] != file.actions[:start]).any()
        frames = np.array([file.n_frames - 7])
        assert frame_labels(file, frames, [0]) == frame_labels(
            alone, frames - (file.n_frames - alone.n_frames), [0]
        )


def test_info_says_how_much_is_labelled_otherwise(
    corrected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "info", str(corrected)]) == 0
    assert "labelled otherwise than driven" in capsys.readouterr().out
    assert main(["data", "info", str(corrected), "--json"]) == 0
    with ReplayFile(corrected) as file:
        share = (file.label_actions != file.actions).mean()
    assert json.loads(capsys.readouterr().out)["labels_differ"] == pytest.approx(share, abs=1e-4)


def test_a_labeller_that_drives_alone_agrees_with_itself(
    request_of: DriveRequest, tmp_path: Path
) -> None:
    drive_dataset(tmp_path / "share.h5", replace(request_of, policy_share=0.0, replays=2))
    with ReplayFile(tmp_path / "share.h5") as file:
        assert file.replays["finished"].all()
        np.testing.assert_array_equal(file.label_actions, file.actions)


def test_the_labeller_drives_its_share_of_the_steps(
    request_of: DriveRequest, tmp_path: Path
) -> None:
    drive_dataset(tmp_path / "half.h5", replace(request_of, policy_share=0.25))
    with ReplayFile(tmp_path / "half.h5") as file:
        agreement = (file.label_actions == file.actions).mean()
    assert 0.7 < agreement < 0.98


def test_every_tick_is_labelled_where_keys_are_pressed_so_often(
    request_of: DriveRequest, tmp_path: Path
) -> None:
    request = replace(request_of, key_ms=10, fps=10, replays=2)
    drive_dataset(tmp_path / "keys.h5", request)
    with ReplayFile(tmp_path / "keys.h5") as file:
        labels = file.replay(0).label_actions
        actions = file.replay(0).actions
    assert labels is not None
    assert len(set(_changes(labels) % TICKS_PER_ACTION)) > 2
    assert set(_changes(actions) % TICKS_PER_ACTION) <= {0}


def _changes(timeline: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.diff(timeline)) + 1


def test_label_actions_survive_shards_and_assembly(tmp_path: Path) -> None:
    records = sample_records()
    turned = (11 - records[3].actions).astype(np.uint8)
    records[3] = replace(records[3], label_actions=turned)
    records[5] = replace(records[5], label_actions=records[5].actions.copy())
    for name in ("one.h5", "shards"):
        with ReplayFile(write_dataset(tmp_path / name, records)) as file:
            by_name = {file.replay(i).name: file.replay(i) for i in range(file.n_replays)}
            assert {c.name: c.count for c in diagnose(file).checks}["content"] == 0
        wanted = by_name[records[3].name].label_actions
        assert wanted is not None
        np.testing.assert_array_equal(wanted, turned)
        # Labels equal to what was driven are none: the identity is that of a file without them.
        assert by_name[records[5].name].label_actions is None
        assert by_name[records[5].name].digest() == sample_records()[5].digest()
        assert by_name[records[3].name].digest() != sample_records()[3].digest()


def test_wrong_label_actions_are_refused(tmp_path: Path) -> None:
    record = make_replay(1)
    short = replace(record, label_actions=record.actions[:-1])
    with pytest.raises(ValueError, match="like actions"):
        write_dataset(tmp_path / "x.h5", [short])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-by", "good"], "only with --policy"),
        (["--policy-share", "0.5"], "only with --policy"),
        (["--policy", "POLICY", "--driver", "good"], "use --label-by"),
        (["--policy", "POLICY", "--label-by", "god"], "unknown driver 'god'"),
        (["--policy", "POLICY", "--label-by", "7"], "skills 7.0:7.0"),
        (["--policy", "POLICY", "--policy-share", "2"], "policy-share 2.0"),
        (["--policy", "POLICY"], f"sees {SIDE}x{SIDE} pixels"),
        (["--policy", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str],
    message: str,
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [policy.as_posix() if option == "POLICY" else option for option in options]
    out = tmp_path / "x.h5"
    assert main(["data", "drive", "--tracks", "short", "--out", str(out), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_policy_without_its_pixels_is_refused(request_of: DriveRequest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"give --image-size {SIDE}x{SIDE}$"):
        drive_dataset(tmp_path / "x.h5", replace(request_of, image_size=(9, 11)))


def test_a_policy_of_rectangles_is_corrected_from_the_command_line(tmp_path: Path) -> None:
    config = bc_config(tmp_path / "x.h5", tmp_path, image_size=(SIDE, SIDE + 6))
    files = OffsetPolicy(config).artifacts(config)
    save_artifacts(tmp_path / "bc", files, stage="bc", run_name="wide", network=config.network)
    out = tmp_path / "round.h5"
    line = str(straight_line(tmp_path))
    options = ["--replays", "1", "--policy", str(tmp_path / "bc"), "--policy-share", "0.2"]
    size = ["--image-size", f"{SIDE}x{SIDE + 6}"]
    assert main(["data", "drive", "--tracks", line, *options, *size, "--out", str(out)]) == 0
    with ReplayFile(out) as file:
        assert file.image_size == (SIDE, SIDE + 6)
