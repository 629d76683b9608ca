"""The quantile network: names, shapes, values, initialisation, options."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD
from rl.config.network import NetworkConfig
from rl.network.encoders import ImageHead, normalise_frames
from rl.network.iqn import IQN, PARTS, midpoint_taus, stratified_taus
from rl.network.layers import NoisyLinear, resample_noise, set_noise
from tests.network_helpers import count_parameters, observations, small_config

B, N, A = 3, 5, 4
IMPALA = {"arch": "impala", "channels": [2, 3]}


def test_default_network_has_the_names_and_shapes_of_existing_files() -> None:
    shapes = {name: tuple(t.shape) for name, t in IQN(NetworkConfig()).state_dict().items()}
    expected = {
        "img_head.0.weight": (16, 1, 4, 4),
        "img_head.2.weight": (32, 16, 4, 4),
        "img_head.4.weight": (64, 32, 3, 3),
        "img_head.6.weight": (32, 64, 3, 3),
        "float_feature_extractor.0.weight": (256, 184),
        "float_feature_extractor.2.weight": (256, 256),
        "iqn_fc.0.weight": (768, 128),
        "A_head.0.weight": (512, 768),
        "A_head.2.weight": (12, 512),
        "V_head.0.weight": (512, 768),
        "V_head.2.weight": (1, 512),
    }
    biases = {name.replace("weight", "bias"): shape[:1] for name, shape in expected.items()}
    assert shapes == expected | biases


def test_image_features_of_the_games_resolution() -> None:
    head = ImageHead(NetworkConfig().vis.cnn, (120, 160))
    assert head.out_features == 5632


def test_beyond_the_rainbow_parameter_count() -> None:
    config = NetworkConfig.model_validate(
        {
            "image_size": 84,
            "n_stack": 4,
            "vis": {"cnn": {"arch": "impala", "maxpool": True, "spectral_norm": True}},
            "floats": {"enabled": False},
            "iqn": {"embedding_dimension": 64},
            "decoder": {"dense_hidden_dimension": 1024, "noisy": True},
        }
    )
    assert count_parameters(IQN(config, num_actions=18), noise_scales=False) == 2_908_851


def test_forward_equals_the_formula_written_out() -> None:
    torch.manual_seed(0)
    network = IQN(small_config(), num_actions=A)
    frames, floats = observations()
    taus = torch.rand(B, N)
    state = network.state_dict()
    leaky = nn.functional.leaky_relu

    def linear(name: str, x: Tensor) -> Tensor:
        result: Tensor = state[f"{name}.weight"] @ x + state[f"{name}.bias"]
        return result

    def head(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.2", leaky(linear(f"{name}.0", x)))

    quantiles = network(frames, floats, taus)
    assert quantiles.shape == (B, N, A)
    for b in range(B):
        image = (frames[b : b + 1].float() - 128) / 128
        for layer, stride in ((0, 2), (2, 2), (4, 2), (6, 1)):
            weight, bias = state[f"img_head.{layer}.weight"], state[f"img_head.{layer}.bias"]
            image = leaky(nn.functional.conv2d(image, weight, bias, stride))
        x = (floats[b] - torch.from_numpy(FLOAT_MEAN)) / torch.from_numpy(FLOAT_STD)
        for layer in (0, 2):
            x = leaky(linear(f"float_feature_extractor.{layer}", x))
        features = torch.cat([image.flatten(), x])
        for n in range(N):
            cosines = torch.cos(torch.pi * torch.arange(1, 7) * taus[b, n])
            mixed = features * leaky(linear("iqn_fc.0", cosines))
            advantage = head("A_head", mixed)
            expected = head("V_head", mixed) + advantage - advantage.mean()
            torch.testing.assert_close(quantiles[b, n], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "sections",
    [{}, {"decoder": {"layer_norm": True, "noisy": True}}, {"floats": {"enabled": False}}],
)
def test_q_values_are_the_mean_of_the_quantiles(sections: dict[str, Any]) -> None:
    network = IQN(small_config(**sections), num_actions=A)
    frames, floats = observations()
    taus = stratified_taus(B, N)
    expected = network(frames, floats, taus).mean(dim=1)
    torch.testing.assert_close(network.q_values(frames, floats, taus), expected)


def test_advantages_rank_the_actions_as_q_values_do() -> None:
    network = IQN(small_config())
    frames, floats = observations(64)
    taus = midpoint_taus(1, N)
    features = network.features(frames, floats)
    q, advantages = network.q_from_features(features, taus), network.advantages(features, taus)
    torch.testing.assert_close(q - q.mean(dim=1, keepdim=True), advantages, atol=1e-5, rtol=1e-4)


def test_shared_taus_give_what_repeated_ones_give() -> None:
    network = IQN(small_config(), num_actions=A)
    frames, floats = observations()
    taus = stratified_taus(1, N)
    shared = network(frames, floats, taus)
    torch.testing.assert_close(shared, network(frames, floats, taus.expand(B, N)))


def test_taus_of_another_batch_are_refused() -> None:
    network = IQN(small_config())
    with pytest.raises(ValueError, match=r"taus \(B, N\)"):
        network(*observations(), torch.rand(B + 1, N))


def test_imitation_and_reinforcement_see_the_same_advantages() -> None:
    network = IQN(small_config(), num_actions=A)
    network.A_head.dropout_inner = 0.1
    network.eval()
    frames, floats = observations()
    taus = stratified_taus(B, N)
    features = network.features(frames, floats)
    logits = network.A_head(network.mixed(features, taus))
    quantiles = network(frames, floats, taus)
    centred = logits - logits.mean(dim=2, keepdim=True)
    torch.testing.assert_close(
        quantiles - quantiles.mean(dim=2, keepdim=True), centred, atol=1e-5, rtol=1e-4
    )
    assert torch.equal(logits.mean(dim=1).argmax(1), quantiles.mean(dim=1).argmax(1))


def test_head_dropout_acts_in_training_only_and_leaves_no_tensor() -> None:
    network = IQN(small_config(), num_actions=A)
    names = set(network.state_dict())
    network.A_head.dropout_inner = 0.5
    features, taus = torch.randn(B, network.feature_dimension), torch.rand(B, N)
    first = network.A_head(network.mixed(features, taus))
    assert not torch.equal(first, network.A_head(network.mixed(features, taus)))
    network.eval()
    first = network.A_head(network.mixed(features, taus))
    assert torch.equal(first, network.A_head(network.mixed(features, taus)))
    assert set(network.state_dict()) == names


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"decoder": {"layer_norm": True, "noisy": True}, "floats": {"layer_norm": True}},
        {"vis": {"cnn": {**IMPALA, "spectral_norm": True}}},
        {"vis": {"cnn": {"channels": [2, 3, 4, 5], "spectral_norm": True, "maxpool": True}}},
        {"vis": {"cnn": {**IMPALA, "maxpool": True, "layer_norm": True}}},
    ],
)
def test_every_parameter_moves(sections: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = IQN(small_config(**sections), num_actions=A)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    quantiles = network(*observations(), torch.rand(B, N))
    torch.autograd.backward((quantiles * torch.randn(B, N, A)).sum())
    optimizer.step()
    unmoved = [n for n, p in network.named_parameters() if torch.equal(p, before[n])]
    assert unmoved == []


def test_a_network_without_floats_ignores_them() -> None:
    network = IQN(small_config(floats={"enabled": False}), num_actions=A)
    assert network.part("floats") is None
    assert not any(name.startswith("float") for name in network.state_dict())
    frames, floats = observations()
    taus = torch.rand(B, N)
    assert torch.equal(network(frames, floats, taus), network(frames, floats + 1.0, taus))


def test_a_network_without_images_takes_a_dummy_frame() -> None:
    config = small_config(use_image_head=False)
    network = IQN(config, num_actions=A)
    assert config.image_hw == (1, 1)
    assert network.part("vis") is None
    frames, floats = torch.zeros(B, 1, 1, 1, dtype=torch.uint8), observations()[1]
    assert network(frames, floats, torch.rand(B, N)).shape == (B, N, A)


def test_zero_initialised_heads_start_at_zero_and_learn() -> None:
    network = IQN(small_config(decoder={"zero_init_last": True}), num_actions=A)
    quantiles = network(*observations(), torch.rand(B, N))
    assert torch.equal(quantiles, torch.zeros(B, N, A))
    torch.autograd.backward((quantiles * torch.randn(B, N, A)).sum())
    for head in (network.A_head, network.V_head):
        gradient = head.last.weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_hidden_layers_start_orthogonal_with_leaky_gain() -> None:
    gain = nn.init.calculate_gain("leaky_relu", 0.01)
    weight = IQN(small_config()).A_head.first.weight
    product = weight @ weight.T
    torch.testing.assert_close(product, gain**2 * torch.eye(len(product)), atol=1e-4, rtol=1e-4)


def test_frames_are_scaled_to_minus_one_to_one() -> None:
    frames = torch.tensor([0, 64, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    expected = torch.tensor([-1.0, -0.5, 0.0, 127 / 128]).view(1, 1, 2, 2)
    assert torch.equal(normalise_frames(frames), expected)
    assert frames.flatten()[0] == 0
    assert torch.equal(normalise_frames(expected), expected)


def test_state_dict_round_trip_gives_the_same_function() -> None:
    config = small_config(vis={"cnn": {**IMPALA, "spectral_norm": True}})
    first, second = IQN(config, num_actions=A).eval(), IQN(config, num_actions=A).eval()
    second.load_state_dict(first.state_dict())
    frames, floats = observations()
    taus = torch.rand(B, N)
    assert torch.equal(first(frames, floats, taus), second(frames, floats, taus))


@pytest.mark.parametrize("n", [1, 5, 8])
def test_stratified_taus_fall_into_their_strata(n: int) -> None:
    taus = stratified_taus(200, n, generator=torch.Generator().manual_seed(3))
    assert taus.shape == (200, n)
    strata = torch.arange(n) / n
    assert bool((taus >= strata).all())
    assert bool((taus <= strata + 1 / n).all())
    if n > 1:
        torch.testing.assert_close(taus[:, 0] + taus[:, -1], torch.ones(200))


def test_stratified_taus_follow_their_generator() -> None:
    draws = [stratified_taus(B, N, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_midpoint_taus() -> None:
    assert torch.equal(midpoint_taus(2, 4), torch.tensor([[0.125, 0.375, 0.625, 0.875]] * 2))


def test_noisy_linear_is_its_mean_in_evaluation() -> None:
    layer = NoisyLinear(6, 4)
    x = torch.randn(B, 6)
    noisy = layer(x)
    mean = nn.functional.linear(x, layer.weight, layer.bias)
    assert not torch.allclose(noisy, mean)
    assert torch.equal(layer.eval()(x), mean)


def test_noise_is_kept_until_it_is_resampled_and_can_be_forced() -> None:
    network = IQN(small_config(decoder={"noisy": True}), num_actions=A).eval()
    frames, floats = observations()
    taus = torch.rand(B, N)
    quiet = network(frames, floats, taus)
    set_noise(network, True)
    loud = network(frames, floats, taus)
    assert not torch.allclose(loud, quiet)
    assert torch.equal(loud, network(frames, floats, taus))
    resample_noise(network, torch.Generator().manual_seed(5))
    second = network(frames, floats, taus)
    assert not torch.allclose(loud, second)
    resample_noise(network, torch.Generator().manual_seed(5))
    assert torch.equal(second, network(frames, floats, taus))
    set_noise(network.train(), False)
    assert torch.equal(network(frames, floats, taus), quiet)


def test_noise_has_the_variance_of_its_scale() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(16, 4, sigma0=0.5)
    x, outputs = torch.ones(16), []
    for _ in range(2000):
        layer.resample()
        outputs.append(layer(x) - nn.functional.linear(x, layer.weight, layer.bias))
    # Var f(e) = E|e| = sqrt(2/pi); 16 inputs and the bias; scale 0.5 / sqrt(16).
    first_moment = (2 / torch.pi) ** 0.5
    expected = (0.5 / 4) ** 2 * (16 * first_moment**2 + first_moment)
    assert float(torch.stack(outputs).detach().var()) == pytest.approx(expected, rel=0.15)


def test_parts_cover_all_parameters_once() -> None:
    network = IQN(small_config())
    named = [f"{m}.{n}" for p, m in PARTS.items() for n, _ in _part(network, p).named_parameters()]
    assert sorted(named) == sorted(name for name, _ in network.named_parameters())


def _part(network: IQN, name: str) -> nn.Module:
    part = network.part(name)
    assert part is not None
    return part
