"""Fuzzers of what a run of vis leaves on the disk: it goes on, or is refused."""

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from datasets.contract.config import load_config
from datasets.contract.errors import UserError
from pretrain.run_folder import open_run
from pretrain.vis.config import VisConfig
from pretrain.vis.train import run as run_vis
from tests.damage import (
    DELETE,
    ODD,
    Damage,
    apply_damage,
    contents_of,
    damages,
    edited,
    files_in,
    fresh_copy,
    odd_tensors,
)
from tests.fuzzing import fuzz, run_cases
from tests.pretrain_samples import recorded, vis_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of vis that can go on."""
    output = tmp_path_factory.mktemp("vis")
    return run_vis(vis_config(recorded(tmp_path_factory), output, probe=False))


def eyes(finished: Path, folder: Path, **changes: Any) -> tuple[VisConfig, dict[str, Any]]:
    """A copy of the run of vis: its configuration and the identities of its inputs."""
    run = fresh_copy(finished, folder / "vis" / "eyes")
    inputs = json.loads((run / "inputs.json").read_text())
    config = load_config(VisConfig, run / "config_snapshot.yaml", environment={})
    update = {"output_dir": folder / "vis", "epochs": 3, **changes}
    return config.model_copy(update=update), inputs


@fuzz(quick=12, slow=800)
def test_a_pretraining_run_with_any_file_damaged_is_opened_or_refused(
    cases: int, finished: Path, tmp_path: Path
) -> None:
    def check(damage: Damage) -> None:
        config, inputs = eyes(finished, tmp_path)
        folder = config.run_folder
        files = files_in(folder)
        chosen = files[damage.file % len(files)]
        apply_damage(chosen, damage)
        before = contents_of(folder / "checkpoints")
        with contextlib.suppress(UserError), open_run(config, inputs) as opened:
            assert opened.checkpoint is None or opened.checkpoint.exists()
        assert not before - contents_of(folder / "checkpoints")

    run_cases(check, damages, cases)


def test_a_damaged_last_checkpoint_leads_to_the_best_one(finished: Path, tmp_path: Path) -> None:
    config, _ = eyes(finished, tmp_path)
    last = config.run_folder / "checkpoints" / "last.ckpt"
    torch.save({}, last)
    damaged = last.read_bytes()
    assert run_vis(config) == config.run_folder
    assert last.with_name("last.ckpt.damaged").read_bytes() == damaged
    assert torch.load(last, weights_only=True)["epoch"] == 2
    assert (config.run_folder / "finished.json").exists()


@fuzz(quick=1, slow=200)
def test_a_last_checkpoint_with_odd_content_is_continued_or_refused(
    cases: int, finished: Path, tmp_path: Path
) -> None:
    odd = [*odd_tensors(), DELETE, *ODD]
    rng = random.Random(3)

    def check(case: tuple[float, int]) -> None:
        place, number = case
        config, _ = eyes(finished, tmp_path, epochs=3)
        last = config.run_folder / "checkpoints" / "last.ckpt"
        state = torch.load(last, weights_only=True)
        torch.save(edited(state, place, odd[(number + rng.randrange(2)) % len(odd)]), last)
        with contextlib.suppress(UserError):
            run_vis(config)

    run_cases(check, st.tuples(st.floats(0.0, 1.0), st.integers(0, 100)), cases)
