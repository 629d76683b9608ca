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
from pretrain.run_folder import open_run
from pretrain.vis.config import VisConfig
from rl.config.experiment import load_rl_config
from rl.reporting.tensorboard import TensorBoardLog
from rl.run.folder import RunFolder, run_lock
from rl.training.train import train
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
        assert claim_run_folder(folder, stage).stage == stage
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


def test_rl_leaves_the_folder_of_another_stage_alone(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    folder = Path(cfg.output_dir) / cfg.run_name
    claim_run_folder(folder, "bc")
    dump_config(BCConfig(), folder / "config_snapshot.yaml")
    before = (folder / "config_snapshot.yaml").read_bytes()
    with pytest.raises(UserError, match="belongs to the bc run tiny"):
        train(cfg, max_grad_steps=1)
    assert (folder / "config_snapshot.yaml").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "config_snapshot.yaml"]


def test_a_run_whose_logs_would_fall_into_another_runs_is_refused_at_its_start(
    tmp_path: Path,
) -> None:
    train(tiny_config(tmp_path, run_name="a_2"), max_grad_steps=1)
    with pytest.raises(UserError, match="a_2: holds the logs of the rl run a_2"):
        train(tiny_config(tmp_path, run_name="a"), max_grad_steps=1)
    assert not (tmp_path / "rl" / "a").exists()


def test_logs_go_elsewhere_when_their_folder_was_taken_during_a_run(tmp_path: Path) -> None:
    owner = Owner("rl", "a", "0123456789")
    board = TensorBoardLog(tmp_path, "a", owner)
    board.scalars({"Race/x": 1.0}, 1)
    claim_log_folder(tmp_path / "a_2", Owner("rl", "a_2", "other"), resumed=False)
    board.scalars({"Race/x": 2.0}, 2, "_2")
    board.close()
    assert not list((tmp_path / "a_2").glob("events*"))
    assert len(list((tmp_path / "a_2.01234567").glob("events*"))) == 1
    assert read_owner(tmp_path / "a") == owner


def test_no_two_shipped_runs_share_a_log_folder() -> None:
    owners: dict[str, str] = {}
    for path in sorted(Path("config_files/rl").glob("*.yaml")):
        cfg = load_rl_config(path)
        for suffix in {suffix for _, suffix in cfg.tensorboard_suffix_schedule}:
            folder = cfg.run_name + suffix
            assert owners.setdefault(folder, cfg.run_name) == cfg.run_name, path.name


def test_overwriting_a_run_keeps_what_the_stage_did_not_write(tmp_path: Path) -> None:
    config = VisConfig(output_dir=tmp_path, run_name="a")
    with open_run(config, {}):
        pass
    folder = config.run_folder
    for name in ("notes.txt", "encoder.pt", "checkpoints/last.ckpt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    with open_run(config.model_copy(update={"overwrite": True}), {}):
        pass
    assert (folder / "notes.txt").exists()
    assert not (folder / "encoder.pt").exists()
    assert not (folder / "checkpoints").exists()
