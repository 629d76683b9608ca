"""Fuzzers of what runs leave on the disk: artifacts, checkpoints, logs, and damage to each file."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from datasets.contract.config import dump_config, load_config
from datasets.contract.errors import UserError
from pipeline.cli import main
from pipeline.failures import EXIT_USER_ERROR
from rl.config.experiment import RLConfig
from rl.run.build import build_run
from rl.run.checkpoint import MANIFEST
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.setup import build_source
from rl.training.train import train
from rl.transfer.artifacts import load_artifact
from rl.transfer.load_policy import load_policy
from rl.transfer.metadata import IQN_FILE, META_FILE
from tests.damage import (
    DELETE,
    ODD,
    Damage,
    apply_damage,
    contents_of,
    damages,
    edit_checkpoint,
    edited,
    files_in,
    fresh_copy,
    odd_tensors,
    replace_part,
)
from tests.fuzzing import assert_one_line, fuzz, run_cases, run_command
from tests.rl_samples import SHORT_EVALUATION, tiny_config
from tests.saved_states import differences


@pytest.fixture(autouse=True)
def _back_to_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return to the folder of before at the end of each test; see `relocated`."""
    monkeypatch.chdir(Path.cwd())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run that can go on, and its logs; checkpoints of 2 and 3 updates."""
    folder = tmp_path_factory.mktemp("runs")
    config = tiny_config(folder, evaluation=SHORT_EVALUATION)
    train(config, max_grad_steps=2)
    run = folder / "rl" / "tiny"
    before = fresh_copy(newest(run), folder / "before")
    train(config, resume=run, max_grad_steps=3)
    # A call saves when it stops and after its last evaluation: both with the same weights.
    (replaced,) = set((run / "checkpoints").glob("0*")) - {newest(run)}
    fresh_copy(before, replaced)
    shutil.rmtree(before)
    return folder


# -- artifacts ----------------------------------------------------------------------------------


def load_or_refuse(folder: Path, written: Mapping[str, Any]) -> bool:
    """Load a policy and its file; return whether any of both was taken, with the values `written`.

    UserError is a refusal.
    """
    found: list[Mapping[str, torch.Tensor]] = []
    with contextlib.suppress(UserError):
        found.append(load_artifact(folder / IQN_FILE, legacy_input="iqn").tensors)
    with contextlib.suppress(UserError):
        found.append(load_policy(folder).state_dict())
        assert len(found) == 2  # a policy is loaded from its file
    for tensors in found:
        assert tensors.keys() == written.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, written[name].float()), name
            assert torch.isfinite(tensor).all(), name
    return bool(found)


def tensors_of(folder: Path) -> dict[str, Any]:
    return dict(torch.load(folder / IQN_FILE, weights_only=True))


def is_changed(file: Path, original: bytes) -> bool:
    """Whether a file that was damaged is not the one of before; not every damage changes one."""
    return not file.is_file() or file.read_bytes() != original


@fuzz(quick=40, slow=800)
def test_damaged_artifacts_are_refused(cases: int, runs: Path, tmp_path: Path) -> None:
    written = tensors_of(runs / "rl" / "tiny" / "best")

    def check(damage: Damage) -> None:
        copy = fresh_copy(runs / "rl" / "tiny" / "best", tmp_path / "best")
        files = files_in(copy)
        chosen = files[damage.file % len(files)]
        original = chosen.read_bytes()
        apply_damage(chosen, damage)
        loaded = load_or_refuse(copy, written)
        if chosen.name == IQN_FILE:
            assert loaded != is_changed(chosen, original)

    run_cases(check, damages, cases)


@fuzz(quick=16, slow=2_000)
def test_artifacts_with_a_right_hash_and_odd_content_are_refused(
    cases: int, runs: Path, tmp_path: Path
) -> None:
    odd = [*odd_tensors(), DELETE, *ODD]

    def check(case: tuple[float, int, bool]) -> None:
        place, number, in_meta = case
        copy = fresh_copy(runs / "rl" / "tiny" / "best", tmp_path / "best")
        meta = json.loads((copy / META_FILE).read_text())
        state = tensors_of(copy)
        if in_meta:
            meta = edited(meta, place, [DELETE, *ODD][number % (len(ODD) + 1)])
        else:
            torch.save(edited(state, place, odd[number % len(odd)]), copy / IQN_FILE)
            data = (copy / IQN_FILE).read_bytes()
            meta["sha256"][IQN_FILE] = hashlib.sha256(data).hexdigest()
        (copy / META_FILE).write_text(json.dumps(meta))
        load_or_refuse(copy, state)

    places = st.tuples(st.floats(0.0, 1.0), st.integers(0, 100), st.booleans())
    run_cases(check, places, cases)


# -- checkpoints of rl --------------------------------------------------------------------------


def restore(folder: Path) -> Run | None:
    """Restore a run and build its collectors; None if it was refused."""
    config = load_config(RLConfig, folder / "config_snapshot.yaml", environment={})
    run = build_run(config)
    try:
        source = build_source(run, RunSaver(RunFolder(folder)).restore(run))
    except UserError:
        return None
    source.close()
    assert run.frames >= 0
    assert run.champion.describe() is not None
    json.dumps(run.statistics.state_dict(), allow_nan=False)
    run.memory.check_valid()
    return run


def state_of(run: Run | None) -> dict[str, Any]:
    """What a checkpoint has given to a run that was restored."""
    assert run is not None
    return {
        "learner": run.learner.state_dict(),
        "champion": run.champion.state_dict(),
        "statistics": run.statistics.state_dict(),
        "pace": run.pace.state_dict(),
        "rng": run.rng.bit_generator.state,
        "memory": run.memory.cursor(),
        "rows": run.memory.rows(),
    }


@pytest.fixture(scope="module")
def states(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """States of the run's checkpoints: of the newest, and of the one before it."""
    copy = fresh_copy(runs / "rl" / "tiny", tmp_path_factory.mktemp("whole") / "tiny")
    last = state_of(restore(copy))
    shutil.rmtree(newest(copy))
    states = [last, state_of(restore(copy))]
    assert [state["learner"]["counters"]["grad_steps"] for state in states] == [3, 2]
    return states


PLACES: dict[str, tuple[str, ...]] = {
    "state.pt": (".statistics", ".pace", ".rng", ".memory", ".rows"),
    "learner.pt": (".learner",),
    "champion.pt": (".champion",),
    "collector.pt": (),
}
"""Part of a checkpoint -> what of `state_of` comes from it."""


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("0*"))[-1]


@fuzz(quick=10, slow=600)
def test_a_checkpoint_with_a_damaged_file_leads_to_the_one_before_it(
    cases: int, runs: Path, states: list[dict[str, Any]], tmp_path: Path
) -> None:
    def check(damage: Damage) -> None:
        copy = fresh_copy(runs / "rl" / "tiny", tmp_path / "tiny")
        last = newest(copy)
        files = files_in(last)
        chosen = files[damage.file % len(files)]
        original = chosen.read_bytes()
        apply_damage(chosen, damage)
        damaged, before = is_changed(chosen, original), contents_of(copy)
        restored = state_of(restore(copy))
        assert not before - contents_of(copy)
        if chosen.name != MANIFEST:  # which has no hash: what is changed in it may not matter
            assert last.exists() != damaged
        assert differences(restored, states[0 if last.exists() else 1]) == []

    run_cases(check, damages, cases)


@fuzz(quick=14, slow=800)
def test_a_checkpoint_with_a_right_hash_and_odd_content_leads_to_the_one_before_it(
    cases: int, runs: Path, states: list[dict[str, Any]], tmp_path: Path
) -> None:
    odd = [*odd_tensors(), DELETE, *ODD]

    def check(case: tuple[str, float, int]) -> None:
        part, place, number = case
        copy = fresh_copy(runs / "rl" / "tiny", tmp_path / "tiny")
        last = newest(copy)
        edit_checkpoint(last, part, place, odd[number % len(odd)])
        before = contents_of(copy)
        run = restore(copy)
        assert not before - contents_of(copy)
        if run is None:
            assert part == "state.pt"  # it says of which network the run is
            return
        kept = last.exists()  # what was changed does not matter, or may be so
        found = differences(state_of(run), states[0 if kept else 1])
        assert [place for place in found if not (kept and place.startswith(PLACES[part]))] == []

    parts = st.sampled_from(list(PLACES))
    run_cases(check, st.tuples(parts, st.floats(0.0, 1.0), st.integers(0, 100)), cases)


def test_a_damaged_checkpoint_is_named_and_set_aside(
    runs: Path,
    states: list[dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = fresh_copy(runs / "rl" / "tiny", tmp_path / "tiny")
    path = newest(copy)
    state = torch.load(path / "state.pt", weights_only=True)
    assert state["statistics"].pop("frames_played") > 0
    replace_part(path, "state.pt", state)
    data = (path / "state.pt").read_bytes()
    assert differences(state_of(restore(copy)), states[1]) == []
    assert "state.statistics.frames_played is missing" in caplog.text
    assert "using the checkpoint before it" in caplog.text
    assert (copy / "checkpoints" / f"{path.name}.damaged" / "state.pt").read_bytes() == data


def test_a_run_that_no_checkpoint_can_restore_stays_as_it_is(runs: Path, tmp_path: Path) -> None:
    copy = fresh_copy(runs / "rl" / "tiny", tmp_path / "tiny")
    for path in sorted((copy / "checkpoints").glob("0*")):
        edit_checkpoint(path, "learner.pt", 0.0, "zz")
    names = {path.relative_to(copy) for path in files_in(copy)}
    assert restore(copy) is None
    assert {path.relative_to(copy) for path in files_in(copy)} == names


# -- whole folders, through the command line ----------------------------------------------------


def relocated(runs: Path, folder: Path) -> Path:
    """A copy of the run of rl whose configuration names folders of the copy, which is entered."""
    os.chdir(folder)
    for name in ("rl", "tensorboard"):
        fresh_copy(runs / name, folder / name)
    run = folder / "rl" / "tiny"
    config = load_config(RLConfig, run / "config_snapshot.yaml", environment={})
    moved = {"output_dir": "rl", "tensorboard_dir": "tensorboard"}  # a flip leads to no far place
    dump_config(config.model_copy(update=moved), run / "config_snapshot.yaml")
    return run


@fuzz(quick=3, slow=300)
def test_a_run_with_any_file_damaged_goes_on_or_is_refused(
    cases: int, runs: Path, tmp_path: Path
) -> None:
    def check(damage: Damage) -> None:
        run = relocated(runs, tmp_path)
        files = [path for path in files_in(run) if path.parent.name != "memory"]
        apply_damage(files[damage.file % len(files)], damage)
        outcome = run_command("rl", "--resume", run, "--max-grad-steps", "3")
        assert_one_line(outcome)
        assert outcome.code in (0, EXIT_USER_ERROR)

    run_cases(check, damages, cases)


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"frames,loss\n" + b"1" * 200_000 + b",2\n"])
def test_a_log_that_is_no_csv_is_kept_beside_a_new_one(
    content: bytes, runs: Path, tmp_path: Path
) -> None:
    run = relocated(runs, tmp_path)
    (run / "metrics.csv").write_bytes(content)
    assert main(["rl", "--resume", str(run), "--max-grad-steps", "3"]) == 0
    assert (run / "metrics.csv.damaged").read_bytes() == content
    assert (run / "metrics.csv").read_text().startswith("training_s,frames,")


@fuzz(quick=4, slow=300)
def test_eval_and_compare_of_damaged_runs(cases: int, runs: Path, tmp_path: Path) -> None:
    commands = itertools.cycle(["eval", "compare", "scalars"])

    def check(damage: Damage) -> None:
        run = relocated(runs, tmp_path)
        command = next(commands)
        folder = run if command == "eval" else tmp_path / "tensorboard"
        files = files_in(folder)
        apply_damage(files[damage.file % len(files)], damage)
        options: tuple[Any, ...] = ()
        if command == "eval":
            options = ("--episodes", "1", "--track", runs / "straight.npy")
        outcome = run_command(command, run, *options)
        assert_one_line(outcome)
        assert outcome.code in (0, EXIT_USER_ERROR)

    run_cases(check, damages, cases)


# -- clocks that differ -------------------------------------------------------------------------

YEAR_2100_S = 4_102_444_800


@pytest.mark.parametrize("when_s", [YEAR_2100_S, pytest.param(0, marks=pytest.mark.slow)])
def test_a_run_of_a_machine_with_another_clock_goes_on(
    when_s: int, runs: Path, tmp_path: Path
) -> None:
    """The last machine's clock was decades ahead, or stood at its beginning."""
    run = relocated(runs, tmp_path)
    logs = tmp_path / "tensorboard" / "tiny"
    for path in sorted(logs.glob("events.out.tfevents.*")):
        parts = path.name.split(".")
        path.rename(path.with_name(".".join([*parts[:3], f"{when_s:010d}", *parts[4:]])))
    for path in (*tmp_path.rglob("*"), run):
        os.utime(path, (when_s, when_s))
    number, before = int(newest(run).name), contents_of(run / "best_runs")
    log = (run / "metrics.csv").read_text()
    assert main(["rl", "--resume", str(run), "--max-grad-steps", "4"]) == 0
    assert int(newest(run).name) > number
    assert not before - contents_of(run / "best_runs")
    assert (run / "metrics.csv").read_text().startswith(log.splitlines()[0])
    scalars = run_command("scalars", run)
    assert_one_line(scalars)
    assert scalars.code == 0
    assert "Training/" in scalars.stdout
