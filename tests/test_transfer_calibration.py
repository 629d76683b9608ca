"""Calibration: same greedy actions, values at the scale of returns."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from datasets.contract.floats import CLOCK, VELOCITY
from datasets.contract.minirace import MINI_RACE_ACTIONS
from rl.network.iqn import IQN, midpoint_taus
from rl.transfer.calibration import (
    CalibrationData,
    CalibrationReport,
    _only_value_head_trains,
    _ridge,
    fit_calibration,
)
from tests.network_helpers import observations, small_config

TAUS = midpoint_taus(1, 32)
NOISE = 0.1
NUM_SAMPLES = 1400


def imitated() -> IQN:
    """A network whose advantages have the size of logits."""
    torch.manual_seed(3)
    network = IQN(small_config(floats={"hidden_dimension": 40}))
    with torch.no_grad():
        network.A_head.last.weight.mul_(20.0)
    return network


def drive(network: IQN, gain: float, epsilon: float) -> CalibrationData:
    """Observations at all clock values, and returns in which advantages count `gain` times."""
    generator = torch.Generator().manual_seed(4)
    frames, floats = observations(NUM_SAMPLES)
    clock = torch.arange(NUM_SAMPLES) % MINI_RACE_ACTIONS
    floats[:, CLOCK] = clock
    with torch.no_grad():
        advantage = network.advantages(network.features(frames, floats), TAUS)
    greedy = advantage.argmax(dim=1)
    actions = greedy.clone()
    explored = torch.rand(NUM_SAMPLES, generator=generator) < epsilon
    actions[explored] = torch.randint(12, (int(explored.sum()),), generator=generator)
    left = MINI_RACE_ACTIONS - clock
    returns = left * (-0.06 + 0.0005 * floats[:, VELOCITY][:, 2])
    returns += NOISE * torch.randn(NUM_SAMPLES, generator=generator)
    returns += gain * advantage.gather(1, actions.unsqueeze(1)).squeeze(1)
    return CalibrationData(frames, floats, actions, greedy, returns, epsilon)


@cache
def calibrated(
    gain: float = 0.02, epsilon: float = 0.3
) -> tuple[IQN, IQN, IQN, CalibrationData, CalibrationReport]:
    before, online, target = imitated(), imitated(), imitated()
    data = drive(before, gain, epsilon)
    generator = torch.Generator().manual_seed(5)
    shares: list[float] = []
    report = fit_calibration(
        online, [target], data, grad_steps=60, generator=generator, watch=shares.append
    )
    assert shares == sorted(shares)  # a bar that ends when the work does
    assert shares[-1] == 1.0 > shares[-2]
    return before, online, target, data, report


def test_greedy_actions_stay_at_all_clock_values() -> None:
    before, online, _, data, report = calibrated()
    assert set(data.floats[:, CLOCK].int().tolist()) == set(range(MINI_RACE_ACTIONS))
    actions = [
        network.q_values(data.frames, data.floats, TAUS).argmax(dim=1)
        for network in (before, online)
    ]
    assert len(set(actions[0].tolist())) > 1
    assert torch.equal(*actions)
    assert report.greedy_agreement == 1.0


def test_advantages_are_scaled_without_rounding() -> None:
    before, online, _, data, report = calibrated()
    logits = [
        network.A_head(network.mixed(network.features(data.frames, data.floats), TAUS))
        for network in (before, online)
    ]
    assert torch.equal(logits[0] * report.gain, logits[1])


def test_the_gain_of_the_returns_is_found() -> None:
    report = calibrated(gain=0.02)[-1]
    assert report.gain_source == "fitted"
    assert report.gain_estimate is not None
    assert report.gain_standard_error is not None
    assert abs(report.gain_estimate - 0.02) < 4 * report.gain_standard_error
    assert report.gain_standard_error < 0.005
    assert math.log2(report.gain).is_integer()
    assert 2**-0.5 <= report.gain / report.gain_estimate <= 2**0.5


def test_the_gap_is_that_of_the_greedy_action() -> None:
    before, _, _, data, report = calibrated()
    with torch.no_grad():
        advantage = before.advantages(before.features(data.frames, data.floats), TAUS)
    expected = report.gain * float(advantage.amax(dim=1).mean())
    assert report.greedy_gap == pytest.approx(expected, rel=0.05)


def test_a_line_is_found_wherever_its_inputs_lie() -> None:
    draw = torch.Generator().manual_seed(1)
    inputs = 7.0 + torch.randn(500, 3, generator=draw)
    slope = torch.tensor([[2.0], [-1.0], [0.5]])
    weight, offset, used = _ridge(inputs, inputs @ slope + 30.0)
    torch.testing.assert_close(weight, slope.double(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(offset, torch.tensor([30.0]).double(), rtol=1e-2, atol=0.0)
    assert used == pytest.approx(3.0, abs=0.01)


def test_only_the_value_head_trains_and_nothing_is_drawn_at_random() -> None:
    network = imitated().train()
    with _only_value_head_trains(network):
        assert not any(module.training for module in network.modules())
        trained = {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad}
        assert trained == {"V_head"}
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(("gain", "epsilon"), [(0.0, 0.3), (-0.02, 0.3), (0.02, 0.0)])
def test_returns_that_do_not_tell_give_the_fallback(gain: float, epsilon: float) -> None:
    before, online, _, data, report = calibrated(gain, epsilon)
    assert report.gain_source == "fallback"
    assert 0.0 < report.greedy_gap < 0.2 * report.return_std
    actions = [
        network.q_values(data.frames, data.floats, TAUS).argmax(dim=1)
        for network in (before, online)
    ]
    assert torch.equal(*actions)


FITS = 16


def t_of_state_alone(seed: int) -> float:
    """t of the gain where returns depend on the state alone, and grow with the largest logit."""
    network = imitated()
    generator = torch.Generator().manual_seed(seed)
    frames, floats = observations(600)
    floats += 0.3 * floats.std(dim=0) * torch.randn(floats.shape, generator=generator)
    with torch.no_grad():
        advantage = network.advantages(network.features(frames, floats), TAUS)
    largest, greedy = advantage.max(dim=1)
    actions = greedy.clone()
    explored = torch.rand(600, generator=generator) < 0.15
    actions[explored] = torch.randint(12, (int(explored.sum()),), generator=generator)
    returns = 0.1 * largest + 0.05 * torch.randn(600, generator=generator)
    data = CalibrationData(frames, floats, actions, greedy, returns, 0.15)
    report = fit_calibration(network, [], data, grad_steps=1, generator=generator)
    assert report.gain_estimate is not None
    assert report.gain_standard_error is not None
    return report.gain_estimate / report.gain_standard_error


def test_returns_of_the_state_alone_are_not_taken_for_consequences_of_actions() -> None:
    """The largest logit is no linear function of the features, so no regression takes it off."""
    t = torch.tensor([t_of_state_alone(seed) for seed in range(FITS)])
    assert abs(float(t.mean())) < 3.0 / math.sqrt(FITS)
    assert int((t > 2.0).sum()) <= 2


def test_values_come_to_the_scale_of_returns() -> None:
    before, online, _, data, report = calibrated()
    assert report.value_loss_after < 0.3 * report.value_loss_before
    errors = []
    for network in (before, online):
        with torch.no_grad():
            q = network.q_values(data.frames, data.floats, TAUS)
        taken = q.gather(1, data.actions.unsqueeze(1)).squeeze(1)
        errors.append(float((taken - data.returns).abs().mean()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < float((data.returns - data.returns.median()).abs().mean())


def test_only_the_value_head_and_the_gain_change() -> None:
    before, online, target, _, _ = calibrated()
    changed = {
        name
        for name, tensor in online.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    heads = {f"V_head.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert changed - {"A_head.2.bias"} == heads | {"A_head.2.weight"}
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, online.state_dict()[name])


def test_modes_and_flags_are_as_before() -> None:
    network = imitated()
    assert network.img_head is not None
    network.img_head.requires_grad_(False)
    network.train()
    network.V_head.eval()
    data = drive(network, 0.02, 0.3)
    fit_calibration(network, [], data, grad_steps=1)
    trainable = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trainable == {"float_feature_extractor", "iqn_fc", "A_head", "V_head"}
    assert network.training
    assert network.A_head.training
    assert not network.V_head.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_report_is_plain_json() -> None:
    report = calibrated()[-1]
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["gain"] == report.gain
    assert plain["samples"] == NUM_SAMPLES


def test_broken_data_are_refused() -> None:
    frames, floats = observations(30)
    actions, returns = torch.zeros(30, dtype=torch.int64), torch.zeros(30)
    returns[3] = torch.nan
    data = CalibrationData(frames, floats, actions, actions, returns, 0.3)
    with pytest.raises(ValueError, match="NaN"):
        fit_calibration(imitated(), [], data)
    for short in (replace(data, actions=actions[:-1]), replace(data, greedy=actions[:-1])):
        with pytest.raises(ValueError, match="one length"):
            fit_calibration(imitated(), [], short)
