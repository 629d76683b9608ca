"""The `nn:` section: defaults, refusals, what counts as another architecture."""

from typing import Any

import pytest
from pydantic import ValidationError

from datasets.contract.config import load_config
from datasets.contract.errors import UserError
from rl.config.network import NetworkConfig


def test_defaults() -> None:
    config = NetworkConfig()
    assert config.image_hw == (64, 64)
    assert config.vis.cnn.resolved_channels == (16, 32, 64, 32)
    assert (config.iqn.n, config.iqn.num_taus_target, config.iqn.k) == (8, 8, 32)
    assert (config.iqn.embedding_dimension, config.iqn.kappa) == (128, 0.005)
    assert config.decoder.dense_hidden_dimension == 1024
    assert not any(config.part(p).freeze for p in ("vis", "floats", "iqn", "advantage", "value"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 30}, "too small"),
        ({"vis": {"cnn": {"channels": [16, 32]}}}, "needs 4 numbers"),
        ({"vis": {"cnn": {"layer_norm": True}}}, "belongs to arch impala"),
        ({"use_image_head": False, "floats": {"enabled": False}}, "nothing to see"),
        ({"decoder": {"dense_hidden_dimension": 7}}, "must be even"),
        ({"vis": {"unfreeze_at_frames": 10}}, "needs freeze"),
        ({"decoder": {"value": {"lr_scale": -0.1}}}, "greater than or equal to 0"),
        ({"iqn": {"kappa": 0}}, "greater than 0"),
    ],
)
def test_impossible_networks_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NetworkConfig.model_validate(values)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError, match="freeze"):
        load_config(NetworkConfig, None, ["decoder.advantage.freese=true"])


def test_training_options_do_not_change_the_architecture() -> None:
    other = NetworkConfig.model_validate(
        {"vis": {"freeze": True}, "decoder": {"value": {"lr_scale": 0.1}}, "iqn": {"n": 16}}
    )
    assert other.architecture() == NetworkConfig().architecture()


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 128},
        {"floats": {"enabled": False}},
        {"decoder": {"layer_norm": True}},
        {"vis": {"cnn": {"arch": "impala"}}},
        {"iqn": {"embedding_dimension": 64}},
    ],
)
def test_another_architecture_is_told_apart(values: dict[str, Any]) -> None:
    assert NetworkConfig.model_validate(values).architecture() != NetworkConfig().architecture()
