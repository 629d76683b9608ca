"""A folder belongs to one run: others are refused, and nothing of theirs is deleted."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from datasets.contract.config import LogSuffix, RunName, dump_config
from datasets.contract.errors import UserError
from datasets.contract.ownership import (
    MARKER,
    Owner,
    check_log_folder,
    claim_log_folder,
    claim_run_folder,
    read_owner,
    stage_of_snapshot,
)
from pipeline.cli import main
from pretrain.bc.config import BCConfig
from pretrain.vis.config import VisConfig
from rl.run.folder import RunFolder, run_lock
from tests.rl_samples import tiny_config

BAD_NAMES = ("..", ".", "", "a/b", "/tmp/a", "a\n", "a\\b", "a b", ".hidden", "[/x]", "x" * 101)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_plain_folder_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RunName).validate_python(name)


@pytest.mark.parametrize("name", ["v3_multi_offset", "A01_as20_long_v4.1_btr", "2026-01-01+x"])
def test_names_of_the_experiments_are_accepted(name: str) -> None:
    assert TypeAdapter(RunName).validate_python(name) == name


@pytest.mark.parametrize("suffix", ["/../..", "/x", "a b", "\n", "\\"])
def test_log_suffixes_stay_in_the_log_folder(suffix: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LogSuffix).validate_python(suffix)


@pytest.mark.parametrize(
    "command",
    [
        ("rl", "--config", "config_files/rl/config_quick.yaml"),
        ("vis", "--config", "config_files/pretrain/vis/pretrain_config_quick.yaml"),
        ("bc", "--config", "config_files/pretrain/bc/pretrain_config_bc_quick.yaml"),
    ],
    ids=["rl", "vis", "bc"],
)
def test_every_stage_refuses_a_name_that_leads_outside(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--set", "run_name=.."]) == 2
    assert "run_name" in capsys.readouterr().err


def test_a_marked_folder_names_its_run(tmp_path: Path) -> None:
    owner = claim_run_folder(tmp_path / "a", "bc")
    assert (owner.stage, owner.run) == ("bc", "a")
    assert read_owner(tmp_path / "a") == owner
    assert claim_run_folder(tmp_path / "a", "bc") == owner


def test_another_stage_is_refused(tmp_path: Path) -> None:
    claim_run_folder(tmp_path / "a", "bc")
    with pytest.raises(UserError, match="belongs to the bc run a"):
        claim_run_folder(tmp_path / "a", "rl")


def test_a_folder_with_files_of_somebody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt but no run"):
        claim_run_folder(tmp_path, "rl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="a file, expected a folder"):
        claim_run_folder(tmp_path / "a", "vis")


def test_runs_of_before_the_marker_are_recognised_by_their_configuration(tmp_path: Path) -> None:
    for stage, config in {
        "vis": VisConfig(),
        "bc": BCConfig(),
        "rl": tiny_config(tmp_path),
    }.items():
        folder = tmp_path / stage
        dump_config(config, folder / "config_snapshot.yaml")
        assert stage_of_snapshot(folder) == stage
        assert claim_run_folder(folder, stage).stage == stage  # type: ignore[arg-type]
    other = tmp_path / "other"
    dump_config(BCConfig(), other / "config_snapshot.yaml")
    with pytest.raises(UserError, match="belongs to a bc run"):
        claim_run_folder(other, "rl")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stage": 1, "run": "a", "id": "b"}'])
def test_a_damaged_marker_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        claim_run_folder(tmp_path, "rl")


def test_log_folders_belong_to_one_run(tmp_path: Path) -> None:
    first, second = Owner("rl", "a", "1"), Owner("rl", "a_2", "2")
    claim_log_folder(tmp_path / "a_2", first, resumed=False)
    claim_log_folder(tmp_path / "a_2", first, resumed=True)
    with pytest.raises(UserError, match="holds the logs of the rl run a;"):
        claim_log_folder(tmp_path / "a_2", second, resumed=True)
    assert read_owner(tmp_path / "a_2") == first


def test_logs_of_before_belong_to_a_resumed_run_alone(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    with pytest.raises(UserError, match="an earlier run"):
        check_log_folder(tmp_path, Owner("rl", "a", "1"), resumed=False)
    check_log_folder(tmp_path, Owner("rl", "a", "1"), resumed=True)


def test_a_refused_new_run_leaves_no_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    with pytest.raises(UserError, match="no"), run_lock(folder, "rl"):
        raise UserError("no")
    assert not folder.root.exists()


def test_leftovers_are_removed_where_training_writes_and_nowhere_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (folder.checkpoints).mkdir()
    (tmp_path / "mine").mkdir()
    kept = tmp_path / "mine" / ".notes.tmp"
    gone = folder.checkpoints / ".part.tmp"
    for path in (kept, gone):
        path.write_text("x")
    folder.clear_leftovers()
    assert kept.exists()
    assert not gone.exists()


def test_converted_inputs_do_not_replace_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.inputs", tmp_path / "notes.txt"
    source.write_text("0.00 press up\n1.00 rel up\n")
    out.write_text("mine")
    command = ["data", "inputs", str(source), "--out", str(out)]
    assert main(command) == 2
    assert "notes.txt exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert "press up" in out.read_text()


def test_a_picture_of_schedules_does_not_replace_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.png"
    out.write_text("mine")
    command = ["rl", "--config", "config_files/rl/config_quick.yaml", "--show-schedules"]
    assert main([*command, "--out", str(out)]) == 2
    assert "mine.png exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*command, "--out", str(out), "--overwrite"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
