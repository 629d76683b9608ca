"""Policies as ONNX, artifacts as safetensors: the same function, the same checks."""

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.contract.config import load_config
from datasets.contract.errors import UserError
from pipeline.cli import build_parser, main
from pipeline.commands.stage_commands import DEFAULT_RL_CONFIG
from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.network.encoders import LimitedMaxPool
from rl.network.iqn import IQN
from rl.network.policy import Policy
from rl.transfer import tensor_files
from rl.transfer.artifacts import load_artifact, safe_bytes
from rl.transfer.injector import inject
from rl.transfer.load_policy import load_policy
from rl.transfer.sources import artifact_kind, find_sources
from tests.network_helpers import observations, small_config
from tests.transfer_helpers import save

NO_EXTRA = "needs the packages of: uv sync --extra export"


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def _export(*arguments: object) -> int:
    return main(["export", *(str(argument) for argument in arguments)])


NETWORKS: dict[str, dict[str, Any]] = {
    "default": {},
    "floats alone": {"use_image_head": False},
    "frames alone": {"floats": {"enabled": False}},
    "impala": {
        "vis": {
            "cnn": {"arch": "impala", "channels": [2, 3], "spectral_norm": True, "maxpool": True}
        },
        "decoder": {"noisy": True, "layer_norm": True},
    },
}


class TestOnnx:
    """The graph computes what greedy evaluation computes."""

    @pytest.mark.parametrize("name", list(NETWORKS))
    def test_graph_equals_the_policy_for_any_batch(self, name: str) -> None:
        pytest.importorskip("onnxruntime", reason=NO_EXTRA)
        pytest.importorskip("onnxscript", reason=NO_EXTRA)
        from pipeline.exporting.onnx_policy import OnnxPolicy, compare, input_names, onnx_bytes

        config = small_config(**NETWORKS[name])
        network = IQN(config).train()  # noise is on, and spectral norms move
        network(*observations(5, config), torch.rand(5, 3))
        data = onnx_bytes(network.eval(), {"run": name})
        frames, floats = (part.numpy() for part in observations(70, config))
        graph, policy = OnnxPolicy(data), Policy(network)
        assert graph.metadata == {"run": name}
        assert set(graph.input_names) == set(input_names(config))
        for size in (1, 7):
            values, actions = graph.act(frames[:size, 0], floats[:size])
            expected = policy.values(frames[:size, 0], floats[:size])
            assert values.dtype == np.float32
            assert actions.dtype == np.int64
            np.testing.assert_allclose(values, expected, atol=2e-5)
            np.testing.assert_array_equal(actions, values.argmax(axis=1))
        parity = compare(network, data, frames[:, 0], floats, chunk=32)
        assert parity.observations == 70
        assert parity.holds

    def test_another_policy_is_no_parity(self) -> None:
        pytest.importorskip("onnxruntime", reason=NO_EXTRA)
        pytest.importorskip("onnxscript", reason=NO_EXTRA)
        from pipeline.exporting.onnx_policy import compare, onnx_bytes

        config = small_config(use_image_head=False)
        frames, floats = (part.numpy() for part in observations(40, config))
        data = onnx_bytes(IQN(config), {})
        assert not compare(IQN(config), data, frames[:, 0], floats).holds

    @pytest.mark.parametrize("shape", [(7, 5), (14, 13), (6, 20)])
    def test_pooling_by_windows_is_adaptive_pooling(self, shape: tuple[int, int]) -> None:
        from pipeline.exporting.onnx_policy import WindowMaxPool

        x = torch.randn(3, 2, *shape)
        assert torch.equal(WindowMaxPool()(x), LimitedMaxPool()(x))

    def test_command_writes_the_graph_and_its_parity(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("onnxscript", reason=NO_EXTRA)
        onnxruntime = pytest.importorskip("onnxruntime", reason=NO_EXTRA)
        save(tmp_path / "bc", IQN(small_config(use_image_head=False)), "iqn_bc.pt")
        out = tmp_path / "policy.onnx"
        assert _export(tmp_path / "bc", "--format", "onnx", "--out", out, "--track", "short") == 0
        assert "greedy agreement 100.00%" in capsys.readouterr().out
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        assert [each.name for each in session.get_outputs()] == ["q_values", "action"]
        report = json.loads((tmp_path / "policy.onnx.json").read_text())
        assert report["parity"]["holds"] is True
        assert report["parity"]["observations"] > 1000
        assert report["inputs"] == {"floats": ["float32", ["batch", 184]]}
        assert report["run_name"] == "test"

    def test_failed_parity_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("onnxscript", reason=NO_EXTRA)
        pytest.importorskip("onnxruntime", reason=NO_EXTRA)
        from pipeline.exporting import onnx_policy

        monkeypatch.setattr(onnx_policy, "MAX_DIFFERENCE", -1.0)
        save(tmp_path / "bc", IQN(small_config(use_image_head=False)), "iqn_bc.pt")
        out = tmp_path / "policy.onnx"
        assert _export(tmp_path / "bc", "--format", "onnx", "--out", out, "--track", "short") == 2
        assert "not written" in capsys.readouterr().err
        assert not list(tmp_path.glob("policy*"))


class TestSafetensors:
    """A `.safetensors` stands for a `.pt`."""

    @pytest.fixture(autouse=True)
    def _needs_the_package(self) -> None:
        pytest.importorskip("safetensors", reason=NO_EXTRA)

    def test_round_trip_through_the_injector_is_exact(self, tmp_path: Path) -> None:
        config = small_config(decoder={"noisy": True, "layer_norm": True})
        trained = IQN(config)
        save(tmp_path / "bc", trained, "iqn_bc.pt")
        out = tmp_path / "given" / "any_name.safetensors"
        assert _export(tmp_path / "bc", "--format", "safetensors", "--out", out) == 0
        sources = find_sources(out)
        assert sources is not None
        assert sources.network == config
        online, target = IQN(config), IQN(config)
        assert inject(online, [target], sources).whole_policy
        for network in (online, target):
            state = network.state_dict()
            assert all(torch.equal(state[k], v) for k, v in trained.state_dict().items())

    @pytest.mark.parametrize("kept", ["instead", "beside"])
    def test_folder_with_it_is_read(self, tmp_path: Path, kept: str) -> None:
        trained = IQN(small_config())
        save(tmp_path, trained, "encoder.pt", "actions_head.pt", "float_head.pt")
        for name in ("encoder", "actions_head", "float_head"):
            source, out = tmp_path / f"{name}.pt", tmp_path / f"{name}.safetensors"
            assert _export(source, "--format", "safetensors", "--out", out) == 0
            if kept == "instead":
                source.unlink()
        if kept == "instead":
            (tmp_path / "pretrain_meta.json").unlink()
        policy = load_policy(tmp_path).state_dict()
        given = {k: v for k, v in trained.state_dict().items() if not k.startswith("V_head")}
        assert all(torch.equal(policy[k], v) for k, v in given.items())

    def test_header_has_the_metadata_as_strings(self, tmp_path: Path) -> None:
        from safetensors import safe_open

        meta = save(tmp_path, IQN(small_config()), "iqn_bc.pt", "encoder.pt")
        out = tmp_path / "x.safetensors"
        out.write_bytes(safe_bytes(load_artifact(tmp_path / "encoder.pt")))
        with safe_open(out, framework="pt") as file:
            header = file.metadata()
            assert set(file.keys()) == set(meta.shapes["encoder.pt"])
        assert NetworkConfig.model_validate(json.loads(header["network"])) == meta.network
        assert json.loads(header["sha256"]) == {"encoder.pt": meta.sha256["encoder.pt"]}
        assert json.loads(header["normalisation"]) == meta.normalisation
        assert json.loads(header["actions"]) == meta.actions

    @pytest.mark.parametrize("where", ["header", "tensors"])
    def test_changed_file_is_refused(self, tmp_path: Path, where: str) -> None:
        save(tmp_path, IQN(small_config()), "encoder.pt")
        out = tmp_path / "y.safetensors"
        out.write_bytes(safe_bytes(load_artifact(tmp_path / "encoder.pt")))
        data = out.read_bytes()
        # in the run's name, or in the lowest bits of a number: both stay readable
        _flip(out, data.index(b'test\\"') + 2 if where == "header" else len(data) - 4)
        with pytest.raises(UserError, match="changed, cut or swapped"):
            load_artifact(out)

    def test_cut_file_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path, IQN(small_config()), "encoder.pt")
        out = tmp_path / "z.safetensors"
        data = safe_bytes(load_artifact(tmp_path / "encoder.pt"))
        for length in (3, 60, len(data) - 9):
            out.write_bytes(data[:length])
            with pytest.raises(UserError, match="not a readable safetensors file"):
                load_artifact(out)

    def test_file_of_another_contract_is_refused(self, tmp_path: Path) -> None:
        save(tmp_path, IQN(small_config()), "encoder.pt")
        artifact = load_artifact(tmp_path / "encoder.pt")
        assert artifact.meta is not None
        values = artifact.meta.model_dump(mode="json") | {"actions": {"names": ["fly"]}}
        header = {key: json.dumps(value) for key, value in values.items()}
        out = tmp_path / "w.safetensors"
        out.write_bytes(tensor_files.serialise_safe(out, artifact.tensors, header))
        with pytest.raises(UserError, match="`actions` differs"):
            load_artifact(out)

    @pytest.mark.parametrize("place", ["a string of it", "itself"])
    def test_header_that_nests_too_deep_is_refused(self, tmp_path: Path, place: str) -> None:
        save(tmp_path, IQN(small_config()), "encoder.pt")
        artifact = load_artifact(tmp_path / "encoder.pt")
        assert artifact.meta is not None
        deep = "[" * 100_000 + "]" * 100_000
        out = tmp_path / "deep.safetensors"
        if place == "itself":
            out.write_bytes(len(deep).to_bytes(8, "little") + deep.encode())
        else:
            values = artifact.meta.model_dump(mode="json")
            header = {key: json.dumps(value) for key, value in values.items()} | {"network": deep}
            out.write_bytes(tensor_files.serialise_safe(out, artifact.tensors, header))
        with pytest.raises(UserError, match=r"no readable|not a readable"):
            load_artifact(out)

    def test_foreign_file_needs_its_input_scale(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        network = IQN(small_config())
        tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(tensors, tmp_path / "iqn_bc.safetensors")
        with pytest.raises(UserError, match="--legacy-input"):
            find_sources(tmp_path)
        sources = find_sources(tmp_path, legacy_input="iqn")
        assert sources is not None
        assert inject(IQN(network.config), [], sources).whole_policy

    def test_several_artifacts_must_be_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(tmp_path, IQN(small_config()), "encoder.pt", "actions_head.pt")
        assert (
            _export(tmp_path, "--format", "safetensors", "--out", tmp_path / "a.safetensors") == 2
        )
        assert "encoder.pt, actions_head.pt" in capsys.readouterr().err


def test_missing_packages_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind in ("onnx", "safetensors"):
        assert _export(tmp_path, "--format", kind, "--out", tmp_path / f"a.{kind}") == 2
        assert capsys.readouterr().err.strip().endswith("uv sync --extra export")


def test_a_missing_safetensors_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.safetensors: cannot be read"):
        artifact_kind(tmp_path / "nowhere.safetensors")


def test_commands_of_a_model_card_are_commands(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "iqn_bc.pt")
    card = (tmp_path / "MODEL_CARD.md").read_text()
    start = "uv run rulka-pipeline "
    commands = [line.removeprefix(start) for line in card.splitlines() if line.startswith(start)]
    assert {line.split()[0] for line in commands} == {"eval", "rl", "export"}
    for command in commands:
        assert build_parser().parse_args(shlex.split(command)).run is not None


def test_commands_of_a_model_card_build_its_network(tmp_path: Path) -> None:
    unusual = small_config(
        vis={"cnn": {"arch": "impala", "channels": [2, 3], "layer_norm": True}},
        decoder={"noisy": True},
        floats={"layer_norm": True},
    )
    for config in (unusual, NetworkConfig(), small_config(use_image_head=False)):
        save(tmp_path, IQN(config), "iqn_bc.pt")
        card = (tmp_path / "MODEL_CARD.md").read_text()
        (line,) = [line for line in card.splitlines() if " rl --pretrain " in line]
        parsed = build_parser().parse_args(shlex.split(line)[3:])
        built = load_config(RLConfig, DEFAULT_RL_CONFIG, parsed.overrides).network
        assert built.architecture() == config.architecture()
