"""Each ingredient of Beyond The Rainbow alone: it builds, learns, and changes what it should."""

from typing import Any

import pytest
import torch

from rl.config.experiment import RLConfig
from rl.learning.learner import Learner
from rl.network.encoders import ImpalaBlock, LimitedMaxPool
from rl.network.iqn import IQN
from rl.network.layers import NoisyLinear
from tests.learner_samples import NETWORK, B, make_batch, weights_of

IMPALA = {"arch": "impala", "channels": [3, 4]}
INGREDIENTS: dict[str, dict[str, Any]] = {
    "none": {},
    "impala": {"cnn": IMPALA},
    "maxpool": {"cnn": {**IMPALA, "maxpool": True}},
    "spectral_norm": {"cnn": {**IMPALA, "spectral_norm": True}},
    "munchausen": {"btr": {"use_munchausen": True}},
    "layer_norm": {"btr": {"use_layer_norm": True}},
    "noisy": {"btr": {"use_noisy_linear": True, "noisy_sigma0": 0.7}},
}


def config_of(ingredient: str) -> RLConfig:
    options = INGREDIENTS[ingredient]
    cnn = options.get("cnn", NETWORK["vis"]["cnn"])
    nn = {**NETWORK, "vis": {"cnn": cnn}}
    return RLConfig.model_validate({"nn": nn, "btr": options.get("btr", {})})


def learner_of(ingredient: str) -> Learner:
    config = config_of(ingredient)
    return Learner(config.network, config, config.btr, seed=3)


def modules(network: IQN, kind: type[torch.nn.Module]) -> list[torch.nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("ingredient", list(INGREDIENTS))
def test_it_learns_alone(ingredient: str) -> None:
    learner = learner_of(ingredient)
    before = weights_of(learner)
    for k in range(3):
        stats = learner.step(make_batch(k), learning_rate=1e-2)
        assert not stats.skipped
    after = weights_of(learner)
    for name in ("A_head.0.weight", "V_head.2.weight", "iqn_fc.0.weight"):
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("ingredient", list(INGREDIENTS))
def test_it_switches_on_nothing_else(ingredient: str) -> None:
    network = learner_of(ingredient).online
    is_impala = "cnn" in INGREDIENTS[ingredient]
    assert bool(modules(network, ImpalaBlock)) == is_impala
    assert bool(modules(network, LimitedMaxPool)) == (ingredient == "maxpool")
    is_spectral = any("parametrizations" in name for name in network.state_dict())
    assert is_spectral == (ingredient == "spectral_norm")
    assert bool(modules(network, NoisyLinear)) == (ingredient == "noisy")
    norms = modules(network, torch.nn.LayerNorm) + modules(network, torch.nn.GroupNorm)
    assert bool(norms) == (ingredient == "layer_norm")
    bonus = learner_of(ingredient).step(make_batch(), learning_rate=0.0).mean_abs_munchausen
    assert (bonus > 0.0) == (ingredient == "munchausen")


@pytest.mark.parametrize("ingredient", list(INGREDIENTS))
def test_measuring_the_loss_changes_no_tensor(ingredient: str) -> None:
    learner = learner_of(ingredient)
    before = {which: weights_of(learner, which) for which in ("online", "target")}
    learner.evaluate(make_batch())
    for which, tensors in before.items():
        for name, tensor in weights_of(learner, which).items():
            assert torch.equal(tensor, tensors[name]), (which, name)


def test_maxpool_bounds_the_features_of_any_picture() -> None:
    config = config_of("maxpool")
    for side in (36, 64):
        nn = config.nn.model_copy(update={"image_size": side})
        assert IQN(nn).image_features == 4 * 6 * 6
    assert IQN(config_of("impala").nn).image_features == 4 * 9 * 9


def test_spectral_norm_bounds_the_residual_convolutions_alone() -> None:
    learner = learner_of("spectral_norm")
    for block in modules(learner.online, ImpalaBlock):
        assert isinstance(block, ImpalaBlock)
        assert "parametrizations" not in "".join(dict(block.conv.named_parameters()))
        for residual in (block.residual_0, block.residual_1):
            for conv in (residual.conv_0, residual.conv_1):
                assert isinstance(conv, torch.nn.Conv2d)
                original = dict(conv.named_parameters())["parametrizations.weight.original"]
                with torch.no_grad():
                    original.mul_(50.0)
                    for _ in range(60):  # each access in training improves the estimate
                        weight = conv.weight
                largest = torch.linalg.matrix_norm(weight.flatten(1), 2)
                assert float(largest) == pytest.approx(1.0, abs=0.02)


def test_munchausen_takes_the_place_of_double_q_learning() -> None:
    """Its target comes from the target network alone."""
    aims = []
    for shift in (0.0, 100.0):
        learner = learner_of("munchausen")
        with torch.no_grad():
            learner.online.A_head.last.bias[4] += shift
        taus = learner.objective.draw_taus(B, learner.generator, learner.device)
        batch = make_batch()
        aim, bonus = learner.objective._target(learner.online, learner.target, batch, taus)
        assert ((bonus <= 0.0) & (bonus >= -0.9)).all()
        aims.append(aim)
    assert torch.equal(*aims)


def test_layer_norm_makes_hidden_units_independent_of_the_scale_of_the_features() -> None:
    torch.manual_seed(0)
    spread = {}
    for ingredient in ("none", "layer_norm"):
        head = learner_of(ingredient).online.A_head
        inputs = torch.randn(B, head.first.in_features)
        small, large = head.hidden(inputs), head.hidden(100.0 * inputs)
        spread[ingredient] = float((large - small).detach().abs().max())
    assert spread["layer_norm"] < 1e-2
    assert spread["none"] > 10.0


def test_noisy_layers_draw_new_noise_for_each_update_and_learn_its_scale() -> None:
    learner = learner_of("noisy")
    first = learner.online.A_head.first
    assert isinstance(first, NoisyLinear)
    assert first.weight_sigma[0, 0].item() == pytest.approx(0.7 / first.in_features**0.5)
    noise = first.noise_in.clone()
    sigma = first.weight_sigma.detach().clone()
    learner.step(make_batch(), learning_rate=1e-2)
    assert not torch.equal(first.noise_in, noise)
    assert not torch.equal(first.weight_sigma, sigma)
    target = learner.target.A_head.first
    assert isinstance(target, NoisyLinear)
    assert target.noise_active
    assert not torch.equal(target.noise_in, first.noise_in)  # each network has its own
