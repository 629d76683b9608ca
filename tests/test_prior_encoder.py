"""The frozen image encoder of a run with a prior, and what trains it again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.config.experiment import load_rl_config
from rl.network.prior import ActionPrior, copy_of
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.init_from import load_initial_weights
from rl.training.train import train
from tests.rl_samples import make_network, tiny_network
from tests.saved_states import saved
from tests.test_prior_run import prior_config, prior_run
from tests.transfer_helpers import pretrained

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


def test_a_collector_encodes_each_frame_once_while_all_networks_share_the_encoder(
    tmp_path: Path,
) -> None:
    """Half of the cars are driven by the averaged network. Drives the same as without sharing."""
    cfg = prior_config(tmp_path, averaging={"decay": 0.9, "collector_share": 0.5})
    plan = replace(CollectorPlan.from_config(cfg), cars=4)

    def collector() -> tuple[Collector, list[int]]:
        cloned = make_network(action=None)
        averaged, network = copy_of(cloned), copy_of(cloned)
        with torch.no_grad():
            averaged.A_head.last.bias[0] += 1.0
        passes: list[int] = []
        for each in (cloned, network, averaged):
            assert each.img_head is not None
            each.img_head.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
        prior = ActionPrior(cloned, -8.0)
        return Collector(plan, network, averaged, prior=prior, weights_version=5), passes

    (shared, few), (apart, many) = collector(), collector()
    apart._compared_version = 5  # as if the encoders had been compared and found to differ
    for _ in range(30):
        for one, other in zip(shared.step(0), apart.step(0), strict=True):
            np.testing.assert_array_equal(one.actions, other.actions)
            np.testing.assert_allclose(one.q_values, other.q_values, rtol=1e-5, atol=1e-5)
    assert set(few[:30]) == {4}
    assert (few[:30], many[:3]) == ([4] * 30, [2, 2, 4])
    with torch.no_grad():
        next(shared.online.parameters()).add_(0.01)
    del few[:]
    shared.weights_version = 6
    shared.step(0)
    assert few == [2, 2, 4]


def test_a_run_without_a_policy_trains_its_encoder(tmp_path: Path) -> None:
    config = prior_config(tmp_path, prior=FREEZE)
    run = train(config, max_grad_steps=3).folder.root
    at_start = build_run(config).learner.online.state_dict()["img_head.0.weight"]
    assert not torch.equal(encoder_in(run), at_start)


def test_a_resumed_run_keeps_the_encoder_until_it_is_told_to_train_it(tmp_path: Path) -> None:
    """The run's own snapshot is what `rl --resume` reads."""
    path, cloned = pretrained(tmp_path)
    given = cloned.state_dict()["img_head.0.weight"]
    run = train(prior_config(tmp_path, prior=FREEZE), pretrain=path, max_grad_steps=4).folder
    train(load_rl_config(run.config), resume=run.root, max_grad_steps=8)
    assert torch.equal(encoder_in(run.root), given)
    assert saved(run.root)["state"]["memory"]["images"]
    trained = load_rl_config(run.config, ["prior.freeze_encoder=false"])
    train(trained, resume=run.root, max_grad_steps=12)
    assert not torch.equal(encoder_in(run.root), given)
    assert not saved(run.root)["state"]["memory"]["images"]


@pytest.mark.parametrize("freeze", [True, False])
def test_a_run_that_starts_from_another_one_freezes_the_cloned_encoder_alone(
    freeze: bool, tmp_path: Path
) -> None:
    path, _ = pretrained(tmp_path)
    source = prior_config(tmp_path, prior={"freeze_encoder": freeze}, run_name="source")
    root = train(source, pretrain=path, max_grad_steps=6).folder.root
    run = build_run(prior_config(tmp_path, prior=FREEZE, init_from=str(root), run_name="new"))
    folder = RunFolder(tmp_path / "new")
    folder.root.mkdir()
    load_initial_weights(run, folder)
    assert run.learner.frozen == ({"vis"} if freeze else set())
    assert run.memory.has_images == freeze


def test_a_policy_that_reads_more_than_the_run_is_no_prior(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = pretrained(tmp_path)
    network = tiny_network().model_dump(mode="json")
    network["floats"]["enabled"] = False
    changes = {"nn": network, "mini_race": False, "transfer": {"parts": ["vis"]}}
    with caplog.at_level("INFO"):
        train(prior_config(tmp_path, **changes), pretrain=path, max_grad_steps=1)
    assert "no prior on the choice of actions: the cloned policy reads floats" in caplog.text
