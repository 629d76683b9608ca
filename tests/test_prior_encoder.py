"""The frozen image encoder of a run with a prior, and what trains it again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.run.build import build_run
from rl.training.train import train
from tests.test_prior_run import prior_config, prior_run
from tests.test_training_resume import saved
from tests.test_training_transfer import pretrained

FREEZE = {"freeze_encoder": True}


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({"prior": FREEZE}, {"vis"}),
        ({"prior": FREEZE, "transfer": {"parts": ["vis", "iqn"]}}, {"vis"}),
        ({"prior": FREEZE, "transfer": {"parts": ["floats", "iqn"]}}, set()),
        ({}, set()),
    ],
)
def test_only_the_encoder_of_the_cloned_policy_is_frozen(
    changes: dict[str, Any], frozen: set[str], tmp_path: Path
) -> None:
    run, _ = prior_run(tmp_path, **changes)
    assert run.learner.frozen == frozen
    assert run.memory.has_images == bool(frozen)
    report = json.loads((tmp_path / "run" / "injection_report.json").read_text())
    assert {part["part"] for part in report["parts"] if part["frozen"]} == frozen


def encoder_in(folder: Path) -> torch.Tensor:
    """The first weight of the image encoder in the last checkpoint of a run."""
    weight: torch.Tensor = saved(folder)["learner"]["online"]["img_head.0.weight"]
    return weight


def test_a_run_without_a_policy_trains_its_encoder(tmp_path: Path) -> None:
    config = prior_config(tmp_path, prior=FREEZE)
    run = train(config, max_grad_steps=3).folder.root
    at_start = build_run(config).learner.online.state_dict()["img_head.0.weight"]
    assert not torch.equal(encoder_in(run), at_start)


def test_a_resumed_run_keeps_the_encoder_until_it_is_told_to_train_it(tmp_path: Path) -> None:
    path, cloned = pretrained(tmp_path)
    given = cloned.state_dict()["img_head.0.weight"]
    config = prior_config(tmp_path, prior=FREEZE)
    run = train(config, pretrain=path, max_grad_steps=4).folder.root
    train(config, resume=run, max_grad_steps=8)
    assert torch.equal(encoder_in(run), given)
    assert saved(run)["state"]["memory"]["images"]
    train(prior_config(tmp_path, prior={}), resume=run, max_grad_steps=12)
    assert not torch.equal(encoder_in(run), given)
    assert not saved(run)["state"]["memory"]["images"]
