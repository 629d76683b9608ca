"""The command line: its options, and one line with exit code 2 for a user's mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datasets.contract.config import dump_config, load_config
from datasets.contract.errors import UserError
from pipeline.cli import main
from pipeline.demo.chain import keep_earlier
from pipeline.saved_policies import trained_track
from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.network.iqn import IQN
from rl.run.folder import RunFolder, run_lock
from tests.dataset_samples import make_replay, write_dataset
from tests.rl_samples import straight_line, tiny_config, tiny_network

Capture = pytest.CaptureFixture[str]
CONFIGS = {
    "vis": "config_files/pretrain/vis/pretrain_config.yaml",
    "bc": "config_files/pretrain/bc/pretrain_config_bc_v3_multi_offset.yaml",
    "rl": "config_files/rl/config_default.yaml",
}


def refused(capture: Capture, *arguments: str | Path) -> str:
    """The one line that a command ends with when the user made a mistake."""
    capture.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = capture.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("rulka-pipeline: ")
    return lines[0]


def test_missing_ray_is_named_with_its_command_before_a_run_is_made(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    backend = ("--set", "performance.collector_backend=ray", "--set", f"output_dir={tmp_path}")
    assert "install with: uv sync --extra ray" in refused(capsys, "rl", *backend)
    assert not any(tmp_path.iterdir())


def saved_alone(folder: Path, network: NetworkConfig) -> Path:
    """A whole policy that accelerates, written without metadata."""
    policy = IQN(network)
    with torch.no_grad():
        policy.A_head.last.bias[0] = 1.0
    folder.mkdir()
    torch.save(policy.state_dict(), folder / "iqn_bc.pt")
    return folder


def test_eval_of_a_policy_without_metadata(tmp_path: Path, capsys: Capture) -> None:
    folder = saved_alone(
        tmp_path / "old", NetworkConfig.model_validate({"decoder": {"zero_init_last": True}})
    )
    command = ("eval", folder, "--track", straight_line(tmp_path), "--episodes", "2", "--json")
    assert "--legacy-input" in refused(capsys, *command)
    assert main([*map(str, command), "--legacy-input", "iqn"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"]["finish_rate"] == 1.0


def test_eval_drives_the_track_of_the_training(tmp_path: Path, capsys: Capture) -> None:
    zero_init = {"decoder": {"zero_init_last": True}}
    folder = saved_alone(tmp_path / "old", NetworkConfig.model_validate(zero_init))
    dump_config(tiny_config(tmp_path), folder / "config_snapshot.yaml")
    command = ("eval", str(folder), "--episodes", "2", "--json", "--legacy-input", "iqn")
    assert main([*command]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["track"], report["policy"]["finish_rate"]) == ("straight", 1.0)


def test_the_track_of_a_training_is_a_single_one_of_the_simulator(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.best.mkdir(parents=True)
    places = (run.root, run.best, run.root / "iqn_bc.pt")
    assert [trained_track(place) for place in places] == [None] * 3
    entry = {"short_name": "hock", "map_path": "hock", "is_exploration": True}
    cases = {
        "hock": [entry],
        "none": [{**entry, "map_path": "A01-Race.Challenge.Gbx"}],
        "several": [entry, {**entry, "short_name": "A01", "map_path": "A01"}],
    }
    for expected, entries in cases.items():
        dump_config(tiny_config(tmp_path, map_cycle={"entries": entries}), run.config)
        for place in places:
            track = trained_track(place)
            assert (None if track is None else track.name) == (
                expected if expected == "hock" else None
            )


@pytest.mark.parametrize("scale", ["01", "iqn"])
def test_rl_from_a_policy_without_metadata(tmp_path: Path, capsys: Capture, scale: str) -> None:
    folder = saved_alone(tmp_path / "old", tiny_network())
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    command = ("rl", "--config", tmp_path / "rl.yaml", "--pretrain", folder)
    assert "--legacy-input" in refused(capsys, *command)
    options = ("--legacy-input", scale, "--max-grad-steps", "1")
    quick = ("--set", "transfer.calibration=off")
    assert main([*map(str, command), *options, *quick]) == 0
    report = json.loads((tmp_path / "rl" / "tiny" / "injection_report.json").read_text())
    assert report["legacy_input"] == scale


def test_resume_takes_the_runs_own_configuration_or_the_one_that_is_named(tmp_path: Path) -> None:
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    run = tmp_path / "rl" / "tiny"
    assert main(["rl", "--config", str(tmp_path / "rl.yaml"), "--max-grad-steps", "2"]) == 0
    (tmp_path / "rl.yaml").unlink()
    resumed = ["rl", "--resume", str(run), "--set", "batch_size=9", "--max-grad-steps", "3"]
    assert main(resumed) == 0
    snapshot = load_config(RLConfig, run / "config_snapshot.yaml")
    assert snapshot == tiny_config(tmp_path, batch_size=9)
    stats = json.loads((run / "accumulated_stats.json").read_text())
    assert stats["cumul_number_batches_done"] == 3
    other = tiny_config(tmp_path, batch_size=7)
    dump_config(other, tmp_path / "other.yaml")
    resumed = ["rl", "--resume", str(run), "--config", str(tmp_path / "other.yaml")]
    assert main([*resumed, "--max-grad-steps", "4"]) == 0
    assert load_config(RLConfig, run / "config_snapshot.yaml") == other


def test_the_demo_moves_only_demos_out_of_its_way(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    keep_earlier(mine)  # empty: it is used as it is
    assert list(tmp_path.iterdir()) == [mine]
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no earlier demo"):
        keep_earlier(mine)
    assert (mine / "thesis.txt").read_text() == "mine"
    (mine / "summary.json").write_text("{}")
    keep_earlier(mine)
    assert not mine.exists()
    (kept,) = tmp_path.glob("mine_*")
    assert (kept / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    ["demo --seed -1", "game serve-sim --fault-seed -1", "game serve-sim --hang-s -1"],
)
def test_numbers_that_cannot_be_meant_are_refused_before_the_start(
    command: str, tmp_path: Path, capsys: Capture
) -> None:
    options = ["--out", str(tmp_path)] if command.startswith("demo") else ["--track", "short"]
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a" in line
    assert (tmp_path / "summary.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; locks and logs may come and grow."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in (".lock", "train.log")
    }


@pytest.mark.parametrize("stage", list(CONFIGS))
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_sise=64", "unknown key `batch_sise`, did you mean `batch_size`?"),
        ("nn.vis.freezed=true", "unknown key `nn.vis.freezed`, did you mean `freeze`?"),
        ("batch_size=many", "`batch_size`: Input should be a valid integer"),
        ("batch_size", "expected KEY=VALUE"),
    ],
)
def test_a_mistake_in_a_key(stage: str, override: str, message: str, capsys: Capture) -> None:
    assert message in refused(capsys, stage, "--config", CONFIGS[stage], "--set", override)


@pytest.mark.parametrize("stage", list(CONFIGS))
def test_a_mistake_in_a_key_is_told_before_torch_is_loaded(stage: str) -> None:
    code = (
        "import sys; from pipeline.cli import main; "
        f"print(main(['{stage}', '--set', 'batch_sise=64']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


@pytest.mark.parametrize("stage", list(CONFIGS))
def test_a_configuration_that_cannot_be_read(stage: str, tmp_path: Path, capsys: Capture) -> None:
    missing = refused(capsys, stage, "--config", tmp_path / "nowhere.yaml")
    assert "nowhere.yaml: no such configuration file" in missing
    (tmp_path / "broken.yaml").write_text("nn: [")
    assert "not valid YAML" in refused(capsys, stage, "--config", tmp_path / "broken.yaml")


def test_a_folder_without_artifacts(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert "no artifacts here" in refused(capsys, "eval", tmp_path / "empty")
    assert "no such folder" in refused(capsys, "eval", tmp_path / "nowhere")
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    command = ("rl", "--config", tmp_path / "rl.yaml", "--pretrain", tmp_path / "empty")
    assert "no artifacts here" in refused(capsys, *command)
    assert "no run to resume here" in refused(capsys, "rl", "--resume", tmp_path / "empty")
    (tmp_path / "scratch").mkdir()
    assert "did you mean scratch?" in refused(capsys, "rl", "--resume", tmp_path / "scrach")
    (tmp_path / "quick.yaml").touch()
    assert "did you mean quick.yaml?" in refused(capsys, "rl", "--config", tmp_path / "quik.yaml")


def test_an_artifact_of_another_network(tmp_path: Path, capsys: Capture) -> None:
    larger = NetworkConfig.model_validate({**tiny_network().model_dump(), "image_size": 50})
    folder = saved_alone(tmp_path / "old", larger)
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    command = ("rl", "--config", tmp_path / "rl.yaml", "--pretrain", folder)
    message = refused(capsys, *command, "--legacy-input", "iqn")
    assert "iqn_bc.pt" in message
    assert "shape" in message


@pytest.mark.parametrize("kind", ["text", "foreign", "cut"])
@pytest.mark.parametrize("stage", ["vis", "bc", "info", "validate"])
def test_a_file_that_is_no_dataset(kind: str, stage: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "data.h5"
    if kind == "text":
        path.write_text("time,action")
    elif kind == "foreign":
        with h5py.File(path, "w") as file:
            file["frames"] = np.zeros((3, 5, 7), np.uint8)
    else:
        whole = write_dataset(tmp_path / "whole.h5", [make_replay(1)])
        path.write_bytes(whole.read_bytes()[:5000])
    before = contents(tmp_path)
    if stage in CONFIGS:
        options = ("--set", f"dataset={path}", "--set", f"output_dir={tmp_path / 'out'}")
        message = refused(capsys, stage, "--config", CONFIGS[stage], *options)
    else:
        message = refused(capsys, "data", stage, path)
    assert "data.h5" in message
    assert contents(tmp_path) == before


def test_a_run_or_recording_that_exists_is_kept(tmp_path: Path, capsys: Capture) -> None:
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    command = ("rl", "--config", tmp_path / "rl.yaml", "--max-grad-steps", "1")
    assert main([str(argument) for argument in command]) == 0
    write_dataset(tmp_path / "mine.h5", [make_replay(1)])
    before = contents(tmp_path)
    assert "--resume" in refused(capsys, *command)
    drive = ("data", "drive", "--tracks", "short", "--replays", "1", "--out", tmp_path / "mine.h5")
    assert "mine.h5" in refused(capsys, *drive)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr_schedule=[[0, 0.1], [9, 0.1], [5, 0.2]]", "step 5 comes after step 9"),
        (
            "map_cycle.entries=[{short_name: a, map_path: short, is_exploration: false}]",
            "is_exploration: true",
        ),
    ],
)
def test_a_run_that_makes_no_sense(
    override: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    options = ("--set", override, "--set", f"output_dir={tmp_path / 'rl'}")
    assert message in refused(capsys, "rl", "--config", CONFIGS["rl"], *options)
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_resumed_so(tmp_path: Path, capsys: Capture) -> None:
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    run = tmp_path / "rl" / "tiny"
    assert main(["rl", "--config", str(tmp_path / "rl.yaml"), "--max-grad-steps", "1"]) == 0
    before = contents(tmp_path)
    resume = ("rl", "--resume", run)
    other = refused(capsys, *resume, "--set", "nn.floats.hidden_dimension=10")
    assert "made by another network: floats" in other
    assert "exclude each other" in refused(capsys, *resume, "--pretrain", tmp_path)
    with run_lock(RunFolder(run), "rl"):
        assert "another process is training this run" in refused(capsys, *resume)
        command = ("rl", "--config", tmp_path / "rl.yaml")
        assert "another process is training this run" in refused(capsys, *command)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("cut", ["newest", "both"])
def test_a_checkpoint_cut_in_half(cut: str, tmp_path: Path, capsys: Capture) -> None:
    dump_config(tiny_config(tmp_path), tmp_path / "rl.yaml")
    run = tmp_path / "rl" / "tiny"
    assert main(["rl", "--config", str(tmp_path / "rl.yaml"), "--max-grad-steps", "1"]) == 0
    older, newest = sorted((run / "checkpoints").glob("0*"))
    for checkpoint in (newest,) if cut == "newest" else (older, newest):
        content = (checkpoint / "learner.pt").read_bytes()
        (checkpoint / "learner.pt").write_bytes(content[: len(content) // 2])
    if cut == "both":
        capsys.readouterr()
        assert main(["rl", "--resume", str(run), "--max-grad-steps", "2"]) == 2
        assert "no usable checkpoint (2 damaged)" in capsys.readouterr().err.splitlines()[-1]
        assert (run / "checkpoints" / f"{newest.name}.damaged" / "learner.pt").exists()
        return
    assert main(["rl", "--resume", str(run), "--max-grad-steps", "2"]) == 0
    log = (run / "train.log").read_text()
    assert f"{newest.name} is damaged" in log
    assert "using the checkpoint before it" in log
    assert f"from checkpoint {older.name}" in log


def _bad_line(folder: Path, flaw: str) -> Path:
    z = np.arange(0.0, 60.0, 0.5)
    line = np.stack([np.zeros_like(z), np.zeros_like(z), z], axis=1)
    if flaw == "nan":
        line[7, 1] = np.nan
    np.save(folder / "bad.npy", line[:, :2] if flaw == "shape" else line)
    if flaw == "cut":
        (folder / "bad.npy").write_bytes((folder / "bad.npy").read_bytes()[:400])
    return folder / "bad.npy"


@pytest.mark.parametrize(
    ("flaw", "message"),
    [("nan", "point 7 is not finite"), ("shape", "expected an array"), ("cut", "not a .npy")],
)
def test_a_line_that_is_none(flaw: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    line = _bad_line(tmp_path, flaw)
    drive = ("data", "drive", "--replays", "1", "--out", tmp_path / "x.h5", "--tracks", line)
    assert message in refused(capsys, *drive)
    assert contents(tmp_path).keys() == {"bad.npy"}


def test_a_track_that_nobody_knows(tmp_path: Path, capsys: Capture) -> None:
    drive = ("data", "drive", "--tracks", "A02", "--replays", "1", "--out", tmp_path / "x.h5")
    message = refused(capsys, *drive)
    assert "A02" in message
    assert "A01" in message
    assert "A02" in refused(capsys, "eval", tmp_path, "--track", "A02")
    assert not list(tmp_path.iterdir())
