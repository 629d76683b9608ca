"""Saving and restoring a learner."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.contract.errors import UserError
from rl.config.learning import BtrConfig, LearningConfig
from rl.learning.learner import Learner
from rl.network.devices import resolve_device, resolve_dtype
from tests.learner_samples import B, make_batch, network, weights_of


def build(seed: int, **options: Any) -> Learner:
    config = network(
        vis={"cnn": {"channels": [2, 3, 4, 5], "spectral_norm": True}},
        decoder={"noisy": True, "layer_norm": True},
        **options,
    )
    learning = LearningConfig(
        optimizer="adam", number_memories_trained_on_between_target_network_updates=2 * B
    )
    return Learner(config, learning, BtrConfig(use_munchausen=True), averaging_decay=0.9, seed=seed)


def run(learner: Learner, first: int, last: int) -> list[float]:
    return [learner.step(make_batch(k), learning_rate=1e-3).loss for k in range(first, last)]


def assert_same(one: Any, two: Any, path: str = "") -> None:
    """Equal bit for bit, through nested dicts."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_same(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    else:
        assert one == two, path


def test_the_same_seed_gives_the_same_learner() -> None:
    one, two = build(5), build(5)
    torch.manual_seed(1)
    assert run(one, 0, 4) == run(two, 0, 4)
    assert_same(one.state_dict(), two.state_dict())
    assert run(build(6), 0, 1) != run(build(5), 0, 1)


def test_a_restored_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    learner = build(5)
    run(learner, 0, 3)
    torch.save(learner.state_dict(), tmp_path / "learner.pt")
    other = build(77)
    other.load_state_dict(torch.load(tmp_path / "learner.pt", weights_only=True))
    assert run(learner, 3, 8) == run(other, 3, 8)
    assert_same(learner.state_dict(), other.state_dict())


def test_a_saved_state_does_not_change_with_the_learner() -> None:
    learner = build(5)
    run(learner, 0, 2)
    state = learner.state_dict()
    kept = weights_of(learner)
    run(learner, 2, 4)
    assert_same(state["online"], kept)


def test_moments_survive_other_freeze_flags_and_rates() -> None:
    learner = build(5)
    run(learner, 0, 3)
    state = learner.state_dict()
    frozen = build(5, floats={"freeze": True}, iqn={"lr_scale": 0.1})
    frozen.load_state_dict(state)
    run(frozen, 3, 6)
    middle = frozen.state_dict()
    name = "float_feature_extractor.0.weight"
    assert_same(middle["optimizer"][name], state["optimizer"][name])
    thawed = build(5)
    thawed.load_state_dict(middle)
    run(thawed, 6, 7)
    assert thawed.state_dict()["optimizer"][name]["step"] == 4


def test_weights_alone_start_a_new_run() -> None:
    learner = build(5)
    run(learner, 0, 3)
    fresh = build(9)
    fresh.load_weights(learner.state_dict())
    assert_same(weights_of(fresh), weights_of(learner))
    assert fresh.counters.grad_steps == 0
    assert fresh.state_dict()["optimizer"] == {}
    fresh.load_weights(learner.state_dict(), keep_optimizer=True)
    assert_same(fresh.state_dict()["optimizer"], learner.state_dict()["optimizer"])


def test_weights_of_another_network_are_refused() -> None:
    state = build(5).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        build(5, floats={"hidden_dimension": 13}).load_state_dict(state)
    state["optimizer"]["V_head.9.weight"] = {}
    with pytest.raises(ValueError, match=r"unknown parameters: V_head\.9\.weight"):
        build(5).load_state_dict(state)


def test_synchronising_copies_the_online_weights_to_all_networks() -> None:
    learner = build(5)
    with torch.no_grad():
        for parameter in learner.online.parameters():
            parameter.add_(1.0)
    learner.synchronise()
    for which in ("target", "averaged"):
        assert_same(weights_of(learner, which), weights_of(learner))


def test_devices_that_are_not_there_are_refused() -> None:
    cpu = resolve_device("cpu")
    assert resolve_dtype("float32", cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("cuda:99", "gpu", "meta"):
        with pytest.raises(UserError, match="use auto"):
            resolve_device(name)
