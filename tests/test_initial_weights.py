"""Starting a new run with another run's weights, and the checkpoint of the best evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.contract.config import dump_config
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from pipeline.cli import main
from rl.run.build import build_run
from rl.run.checkpoint import load_checkpoint, peek_checkpoint, save_checkpoint
from rl.run.folder import RunFolder
from rl.run.init_from import check_start, load_initial_weights
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.train import train
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import IQN_FILE
from tests.rl_samples import tiny_config, tiny_network
from tests.saved_states import Crashing

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that evaluated averaged weights and went on learning afterwards."""
    folder = tmp_path_factory.mktemp("source")
    # Seed 4: the evaluation that is best comes after updates, so that there are moments.
    result = train(tiny_config(folder, run_name="source", seed=4), max_grad_steps=30)
    assert result.grad_steps == 30
    return result.folder


def started(folder: Path, init_from: str, **changes: Any) -> Run:
    """A fresh run that has just taken its weights."""
    cfg = tiny_config(folder, run_name="new", init_from=init_from, **changes)
    new_folder(folder).root.mkdir()
    run = build_run(cfg)
    load_initial_weights(run, new_folder(folder))
    return run


def new_folder(folder: Path) -> RunFolder:
    """The folder of the run that `started` makes."""
    return RunFolder(folder / "new")


def same(ours: Tensors, theirs: Tensors) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def learner_of(source: RunFolder) -> dict[str, Any]:
    _, parts, _ = load_checkpoint(source.checkpoints)
    learner: dict[str, Any] = parts["learner"]
    return learner


def test_weights_are_those_of_the_latest_checkpoint(source: RunFolder, tmp_path: Path) -> None:
    saved = learner_of(source)
    state = started(tmp_path, str(source.root)).learner.state_dict()
    for name in ("online", "target", "averaged"):
        assert same(state[name], saved[name]), name
    assert not same(state["online"], state["target"])
    assert state["optimizer"] == {}
    assert set(state["counters"].values()) == {0}


def test_moments_come_by_name_if_asked_for(source: RunFolder, tmp_path: Path) -> None:
    run = started(tmp_path, str(source.root), keep_optimizer=True)
    ours, theirs = run.learner.state_dict()["optimizer"], learner_of(source)["optimizer"]
    assert ours.keys() == theirs.keys()
    assert all(same(ours[name], theirs[name]) for name in ours)
    report = json.loads(new_folder(tmp_path).init_report.read_text())
    assert report["moments_kept"] == len(theirs)
    assert report["grad_steps"] == 30
    assert report["weights"] == "raw"


def test_best_starts_with_the_very_weights_that_were_evaluated(
    source: RunFolder, tmp_path: Path
) -> None:
    evaluated = load_artifact(source.best / IQN_FILE).tensors
    run = started(tmp_path, f"{source.root}@best", keep_optimizer=True)
    state = run.learner.state_dict()
    for name in ("online", "target", "averaged"):
        assert same(state[name], dict(evaluated)), name
    report = json.loads(new_folder(tmp_path).init_report.read_text())
    rows = [row for row in read_csv(source.evaluations) if row["is_champion"] == "1"]
    crowned = [row for row in rows if row["kind"] == "screening"][-1]
    assert report["weights"] == crowned["weights"] == "averaged"
    assert (report["frames"], report["grad_steps"]) == (
        int(crowned["frames"]),
        int(crowned["grad_steps"]),
    )
    steps = {int(moments["step"]) for moments in state["optimizer"].values()}
    assert steps == {report["grad_steps"]}


def test_best_of_raw_weights_keeps_its_target_network(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, run_name="raw", averaging={"use_for_evaluation": False})
    folder = train(cfg, max_grad_steps=12).folder
    _, parts, _ = peek_for_best(folder)
    assert parts["state"]["weights"] == "raw"
    assert same(parts["evaluated"], parts["learner"]["online"])
    state = started(tmp_path, f"{folder.root}@best").learner.state_dict()
    assert same(state["online"], parts["evaluated"])
    assert same(state["target"], parts["learner"]["target"])


def peek_for_best(folder: RunFolder) -> tuple[Path, dict[str, Any], dict[str, str]]:
    return peek_checkpoint(folder.checkpoints_best, ("state", "learner", "evaluated"))


def test_a_crash_between_two_saves_leaves_the_earlier_best(tmp_path: Path) -> None:
    run, folder = build_run(tiny_config(tmp_path)), RunFolder(tmp_path / "run")
    saver = RunSaver(folder)
    run.champion.weights = run.learner.online.state_dict()
    run.champion.summary = {"weights": "raw", "results": []}
    parts = saver.champion_parts(run)
    first, second = saver.save_best(run, parts), saver.save_best(run, parts)
    assert (first.exists(), second.exists()) == (False, True)
    crashing = {"learner": {}, "state": {"names": Crashing()}, "evaluated": {}}
    with pytest.raises(TypeError, match="crashes while it is saved"):
        save_checkpoint(folder.checkpoints_best, crashing, kept=1)
    assert [path.name for path in folder.checkpoints_best.iterdir()] == [second.name]
    path, parts, _ = peek_for_best(folder)
    assert path == second
    assert same(parts["evaluated"], run.learner.online.state_dict())


def test_a_damaged_checkpoint_of_another_run_is_left_alone(
    source: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = learner_of(source)
    copy = RunFolder(tmp_path / "copy")
    for number in (1, 2):
        save_checkpoint(copy.checkpoints, {"state": {}, "learner": saved, "number": {"n": number}})
    file = copy.checkpoints / "000002" / "learner.pt"
    file.write_bytes(file.read_bytes()[:100])
    path, _, _ = peek_checkpoint(copy.checkpoints, ("state", "learner"))
    assert path.name == "000001"
    assert "000002 cannot be used" in caplog.text
    assert file.exists()  # the other run may be going on


@pytest.mark.parametrize(
    ("init_from", "message"),
    [
        ("{tmp}/nowhere", "nowhere: no run here"),
        ("{tmp}/nowhere@best", "nowhere: no run here"),
        ("{tmp}/empty", "no usable checkpoint; the run stopped before its first save"),
        ("{tmp}/empty@best", "empty@best: the run has no best evaluation yet"),
        ("{tmp}/bc", "a run of vis or bc; load it with --pretrain"),
        ("{source}", "made by another network: floats"),
        ("{source}@best", "made by another network: floats"),
    ],
)
def test_a_start_that_is_not_possible_leaves_no_folder(
    init_from: str, message: str, source: RunFolder, tmp_path: Path
) -> None:
    for name in ("empty", "bc"):
        (tmp_path / name).mkdir()
        dump_config(tiny_config(tmp_path), tmp_path / name / "config_snapshot.yaml")
    (tmp_path / "bc" / "pretrain_meta.json").write_text("{}")
    nn = tiny_network().model_dump()
    nn["floats"]["hidden_dimension"] = 10
    place = init_from.format(tmp=tmp_path, source=source.root)
    cfg = tiny_config(tmp_path, nn=nn, init_from=place)
    with pytest.raises(UserError, match=message) as error:
        train(cfg, max_grad_steps=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "rl" / "tiny").exists()


def test_weights_do_not_come_from_two_places(source: RunFolder, tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, init_from="output/rl/other")
    with pytest.raises(UserError, match="--pretrain and init_from"):
        check_start(cfg, resume=None, pretrain=tmp_path)
    with pytest.raises(UserError, match="--resume and init_from"):
        check_start(cfg, resume=source.root, pretrain=None)


def test_command_starts_a_new_run_that_resumes_without_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "rl.yaml"
    dump_config(tiny_config(tmp_path), config)
    old, new = tmp_path / "rl" / "tiny", tmp_path / "rl" / "12"
    assert main(["rl", "--config", str(config), "--max-grad-steps", "4"]) == 0
    start = ["rl", "--config", str(config), "--init-from", f"{old}@best", "--keep-optimizer"]
    assert main([*start, "--set", "run_name='12'", "--max-grad-steps", "2"]) == 0
    assert (
        json.loads((new / "accumulated_stats.json").read_text())["cumul_number_batches_done"] == 2
    )
    assert read_csv(new / "evaluations.csv")[0]["weights"] == "pretrained"  # the one to beat
    old.rename(tmp_path / "gone")
    assert main(["rl", "--resume", str(new), "--max-grad-steps", "3"]) == 0
    assert "started with the averaged weights of" in (new / "train.log").read_text()
    capsys.readouterr()
    for options in (["--resume", str(new)], ["--pretrain", str(new)]):
        assert main([*start, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert options[0] in line
        assert "--init-from exclude each other" in line
    assert main(["rl", "--resume", str(new), "--keep-optimizer"]) == 2
    assert "keeps its moments" in capsys.readouterr().err


def test_a_frozen_encoder_is_at_once_that_of_the_target_network(
    source: RunFolder, tmp_path: Path
) -> None:
    """Else its features, which the memory keeps, would not be those that the target computes."""
    learner = learner_of(source)
    assert not same(*(_encoder(learner[name]) for name in ("online", "target")))
    network = tiny_network().model_dump(mode="json")
    network["vis"]["freeze"] = True
    run = started(tmp_path, str(source.root), nn=network)
    assert run.learner.has_settled_encoder
    assert run.memory.has_images
    assert same(_encoder(run.learner.target.state_dict()), _encoder(learner["online"]))


def _encoder(weights: Tensors) -> Tensors:
    return {name: value for name, value in weights.items() if name.startswith("img_head")}
