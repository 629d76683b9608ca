"""Artifacts: round trip, refusals, atomic writes, folding of the input scale."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datasets.contract.errors import UserError
from rl.network.encoders import ImageHead
from rl.network.iqn import IQN, PARTS
from rl.transfer.artifacts import fold_unit_range, load_artifact, module_tensors, save_artifacts
from rl.transfer.metadata import FILE_PARTS, META_FILE, PRIOR_FILE, PriorMeta, read_meta
from tests.network_helpers import small_config
from tests.transfer_helpers import save, tensors_of


def test_round_trip(tmp_path: Path) -> None:
    network = IQN(small_config())
    meta = save(tmp_path, network, "encoder.pt", "iqn_bc.pt")
    for name in ("encoder.pt", "iqn_bc.pt"):
        artifact = load_artifact(tmp_path / name)
        expected = tensors_of(network, name)
        assert artifact.tensors.keys() == expected.keys()
        assert all(torch.equal(artifact.tensors[key], expected[key]) for key in expected)
        assert artifact.sha256 == meta.sha256[name]
        assert artifact.network == network.config
    assert read_meta(tmp_path / META_FILE) == meta


def test_what_is_copied_from_a_module_keeps_its_values_while_the_module_learns() -> None:
    network = IQN(small_config())
    tensors = module_tensors(network.iqn_fc, "iqn_fc")
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        network.get_parameter("iqn_fc.0.weight").add_(1.0)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    changed = network.get_parameter("iqn_fc.0.weight")
    assert not torch.equal(tensors["iqn_fc.0.weight"], changed)


def test_a_prior_is_written_with_its_weight_only(tmp_path: Path) -> None:
    network = IQN(small_config())
    tensors = tensors_of(network, "iqn_bc.pt")
    options: dict[str, Any] = {"stage": "rl", "run_name": "test", "network": network.config}
    files = {"iqn_bc.pt": tensors, PRIOR_FILE: tensors}
    with pytest.raises(ValueError, match=r"prior\.pt is not an artifact's name"):
        save_artifacts(tmp_path, files, **options)
    prior = PriorMeta(weight=0.1, floor=-5.0, network=network.config)
    save_artifacts(tmp_path, files, **options, prior=prior)
    assert read_meta(tmp_path / META_FILE).prior == prior
    with pytest.raises(ValueError, match=r"encoder\.txt is not an artifact's name"):
        save_artifacts(tmp_path, {"encoder.txt": tensors}, **options, prior=prior)


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"floor": 0.0}, {"floor": 1.0}])
def test_a_prior_without_effect_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PriorMeta.model_validate({"weight": 0.1, "floor": -5.0, "network": small_config(), **wrong})


def test_files_are_plain_state_dicts(tmp_path: Path) -> None:
    network = IQN(small_config())
    save(tmp_path, network, "actions_head.pt")
    content = torch.load(tmp_path / "actions_head.pt", weights_only=True)
    assert set(content) == {
        f"{module}.{layer}.{kind}"
        for module, layer in (("A_head", 0), ("A_head", 2), ("iqn_fc", 0))
        for kind in ("weight", "bias")
    }


def test_metadata_says_what_a_reader_needs(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt", metrics={"loss": 0.5, "bad": float("nan")})
    meta = json.loads((tmp_path / META_FILE).read_text())
    assert meta["format_version"] == 1
    assert meta["image_size"] == [36, 38]
    assert meta["use_floats"] is True
    assert meta["shapes"]["encoder.pt"]["img_head.0.weight"] == [2, 1, 4, 4]
    assert meta["normalisation"]["frames"] == "(x - 128) / 128"
    assert meta["metrics"] == {"loss": 0.5, "bad": None}
    assert len(meta["actions"]["names"]) == 12


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _foreign(path: Path) -> None:
    path.write_bytes(b"not a tensor file")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("spoil", [_cut, _foreign, _flip])
def test_a_changed_file_is_refused(tmp_path: Path, spoil: Any) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt")
    spoil(tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="hash"):
        load_artifact(tmp_path / "encoder.pt")


@pytest.mark.parametrize("spoil", [_cut, _foreign])
def test_a_broken_file_without_metadata_is_refused(tmp_path: Path, spoil: Any) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt")
    (tmp_path / META_FILE).unlink()
    spoil(tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="not a readable PyTorch state dict"):
        load_artifact(tmp_path / "encoder.pt", legacy_input="iqn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "expected a state dict, got list"),
        ({"epoch": 3}, "`epoch` is not a tensor"),
        ({"img_head.0.weight": torch.zeros(2, dtype=torch.int64)}, "expected floating point"),
        ({"img_head.0.weight": torch.tensor([1.0, float("nan")])}, "NaN"),
        ({}, "expected a state dict"),
    ],
)
def test_foreign_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "encoder.pt")
    with pytest.raises(UserError, match=message):
        load_artifact(tmp_path / "encoder.pt", legacy_input="iqn")


def test_a_file_without_metadata_needs_its_input_scale(tmp_path: Path) -> None:
    network = IQN(small_config())
    torch.save(tensors_of(network, "encoder.pt"), tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="--legacy-input"):
        load_artifact(tmp_path / "encoder.pt")
    artifact = load_artifact(tmp_path / "encoder.pt", legacy_input="iqn")
    assert artifact.legacy_input == "iqn"
    assert torch.equal(artifact.tensors["img_head.0.bias"], _state(network, "img_head.0.bias"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_artifact(tmp_path / "encoder.pt")


def test_a_file_that_the_metadata_does_not_list_is_refused(tmp_path: Path) -> None:
    network = IQN(small_config())
    save(tmp_path, network, "encoder.pt")
    torch.save(tensors_of(network, "actions_head.pt"), tmp_path / "actions_head.pt")
    with pytest.raises(UserError, match="does not list"):
        load_artifact(tmp_path / "actions_head.pt")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 99, "format_version 99, expected 1"),
        ("network", {"image_sise": 3}, "image_sise"),
        ("normalisation", {"frames": "x / 255"}, "normalisation"),
        ("actions", {"names": ["left"], "action_ms": 50}, "actions"),
    ],
)
def test_metadata_of_another_contract_is_refused(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt")
    path = tmp_path / META_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=message):
        load_artifact(tmp_path / "encoder.pt")


def test_nothing_is_replaced_when_one_file_cannot_be_written(tmp_path: Path) -> None:
    network = IQN(small_config())
    save(tmp_path, network, "encoder.pt")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = tensors_of(network, "actions_head.pt")
    broken["A_head.2.bias"] = torch.full((12,), float("inf"))
    files = {"encoder.pt": tensors_of(IQN(small_config()), "encoder.pt"), "actions_head.pt": broken}
    with pytest.raises(UserError, match="NaN or infinite"):
        save_artifacts(tmp_path, files, stage="bc", run_name="r", network=network.config)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_replaced_when_the_disk_refuses(tmp_path: Path) -> None:
    network = IQN(small_config())
    save(tmp_path, network, "encoder.pt")
    before = (tmp_path / "encoder.pt").read_bytes()
    (tmp_path / "iqn_bc.pt").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(UserError, match=r"iqn_bc\.pt"):
        save(tmp_path, IQN(small_config()), "encoder.pt", "iqn_bc.pt")
    assert (tmp_path / "encoder.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_frames_in_the_unit_range_are_folded_exactly() -> None:
    config = small_config()
    head = ImageHead(config.vis.cnn, config.image_hw)
    frames = torch.randint(0, 256, (3, 1, *config.image_hw), dtype=torch.uint8)
    expected = head(frames.float() / 255)
    folded = fold_unit_range(module_tensors(head, "img_head"))
    head.load_state_dict({name.removeprefix("img_head."): t for name, t in folded.items()})
    torch.testing.assert_close(head((frames.float() - 128) / 128), expected, atol=1e-5, rtol=1e-5)


def test_padded_convolutions_are_not_folded() -> None:
    config = small_config(vis={"cnn": {"arch": "impala", "channels": [2, 3]}})
    head = ImageHead(config.vis.cnn, config.image_hw)
    with pytest.raises(UserError, match="arch default"):
        fold_unit_range(module_tensors(head, "img_head"))


def test_each_part_is_in_a_file() -> None:
    assert {part for parts in FILE_PARTS.values() for part in parts} == set(PARTS)


def _state(network: IQN, name: str) -> Tensor:
    tensor: Tensor = network.state_dict()[name]
    return tensor
