"""Optimizer groups, freezing, warm-ups, weight decay."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from rl.config.network import NetworkConfig
from rl.network.freezing import apply_freeze, frozen_parts, train_mode
from rl.network.iqn import IQN, PARTS
from rl.network.parts import multiplicative_weight_decay, parameter_groups, set_learning_rate
from tests.network_helpers import observations, small_config

OPTIONS: dict[str, Any] = {"freeze": True}
SPECTRAL = {"arch": "impala", "channels": [2, 3], "spectral_norm": True}


def config_with(part: str, **options: Any) -> NetworkConfig:
    if part in ("advantage", "value"):
        return small_config(decoder={part: options})
    return small_config(**{part: options})


def one_step(network: IQN, optimizer: torch.optim.Optimizer) -> None:
    quantiles = network(*observations(), torch.rand(3, 5))
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward((quantiles * torch.randn(quantiles.shape)).sum())
    optimizer.step()


def parameters_by_part(network: IQN) -> dict[str, dict[str, Tensor]]:
    result: dict[str, dict[str, Tensor]] = {}
    for part in PARTS:
        module = network.part(part)
        assert module is not None
        result[part] = {name: p.detach().clone() for name, p in module.named_parameters()}
    return result


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_rests_and_every_other_parameter_moves(part: str) -> None:
    torch.manual_seed(0)
    config = config_with(part, freeze=True)
    network = IQN(config, num_actions=4)
    assert train_mode(network, config, 0) == {part}
    optimizer = torch.optim.RAdam(parameter_groups(network, config, 1e-2), weight_decay=0.1)
    before = parameters_by_part(network)
    for _ in range(2):
        one_step(network, optimizer)
        multiplicative_weight_decay(optimizer, 0.1)
    after = parameters_by_part(network)
    for other, tensors in before.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after[other][name]) == (other == part), (other, name)
    module = network.part(part)
    assert module is not None
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(child.training for child in module.modules())
    assert network.training


@pytest.mark.parametrize("sections", [{}, {"vis": OPTIONS}, {"decoder": {"value": OPTIONS}}])
def test_the_layout_of_groups_is_the_same_frozen_or_not(sections: dict[str, Any]) -> None:
    config = small_config(**sections)
    network = IQN(config)
    apply_freeze(network, config, 0)
    optimizer = torch.optim.RAdam(parameter_groups(network, config, 1e-3))
    assert [group["name"] for group in optimizer.param_groups] == list(PARTS)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert names == [name for name, _ in IQN(small_config()).named_parameters()]


def test_a_network_without_floats_keeps_an_empty_group() -> None:
    config = small_config(floats={"enabled": False})
    optimizer = torch.optim.RAdam(parameter_groups(IQN(config), config, 1e-3))
    assert [len(group["params"]) > 0 for group in optimizer.param_groups] == [
        True,
        False,
        True,
        True,
        True,
    ]


def test_moments_survive_a_change_of_flags() -> None:
    frozen, free = small_config(vis={"freeze": True}), small_config(vis={"lr_scale": 0.5})
    network = IQN(free, num_actions=4)
    first = torch.optim.RAdam(parameter_groups(network, free, 1e-3))
    one_step(network, first)
    apply_freeze(network, frozen, 0)
    second = torch.optim.RAdam(parameter_groups(network, frozen, 1e-3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    one_step(network, second)
    for parameter in network.parameters():
        assert torch.equal(
            second.state[parameter]["exp_avg"], first.state[parameter]["exp_avg"]
        ) == (not parameter.requires_grad)


def test_learning_rates_follow_the_current_scales() -> None:
    config = small_config(vis={"lr_scale": 0.1}, decoder={"value": {"lr_scale": 2.0}})
    network = IQN(config)
    optimizer = torch.optim.RAdam(parameter_groups(network, config, 1e-3))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    expected = {"vis": 1e-4, "floats": 1e-3, "iqn": 1e-3, "advantage": 1e-3, "value": 2e-3}
    assert rates == pytest.approx(expected)
    set_learning_rate(optimizer, 2e-3, small_config(vis={"lr_scale": 0.5}))
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({**dict.fromkeys(PARTS, 2e-3), "vis": 1e-3})


def test_a_warm_up_ends_at_its_frame() -> None:
    config = small_config(vis={"freeze": True, "unfreeze_at_frames": 100})
    network = IQN(config)
    assert frozen_parts(config, 99) == {"vis"}
    assert train_mode(network, config, 99) == {"vis"}
    assert apply_freeze(network, config, 100) == set()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_frozen_spectral_norm_keeps_its_buffers() -> None:
    config = small_config(vis={"freeze": True, "cnn": SPECTRAL})
    network = IQN(config)
    train_mode(network, config, 0)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    network(*observations(), torch.rand(3, 5))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_evaluation_mode_survives_unfreezing() -> None:
    config = small_config()
    network = IQN(config).eval()
    apply_freeze(network, config, 0)
    assert not any(module.training for module in network.modules())


def test_weight_decay_scales_with_the_rate_of_the_group() -> None:
    config = small_config(vis={"lr_scale": 0.5})
    network = IQN(config)
    optimizer = torch.optim.RAdam(parameter_groups(network, config, 0.1))
    before = parameters_by_part(network)
    multiplicative_weight_decay(optimizer, 0.2)
    after = parameters_by_part(network)
    torch.testing.assert_close(after["vis"]["0.weight"], before["vis"]["0.weight"] * 0.99)
    torch.testing.assert_close(after["iqn"]["0.weight"], before["iqn"]["0.weight"] * 0.98)
