"""A policy as one ONNX graph: raw observations in, action values and the greedy action out."""

import io
import itertools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from datasets.contract.errors import UserError
from rl.config.network import POOLED_SIDE, NetworkConfig
from rl.network.encoders import LimitedMaxPool
from rl.network.iqn import IQN, midpoint_taus
from rl.network.layers import set_noise
from rl.network.policy import Policy
from rl.network.prior import Driver, PriorPolicy, log_preferences
from rl.transfer.tensor_files import check_export_extra

OPSET: Final = 18
MAX_DIFFERENCE: Final = 1e-4
"""Largest |dQ| allowed, times the largest |Q| where that is above 1: rounding, nothing more."""
MIN_AGREEMENT: Final = 0.999
"""Smallest share of observations with the same greedy action: equal values may be ordered anew."""
_TRACED_BATCH: Final = 3


class _Network(nn.Module):
    """A network at fixed fractions, in operations that ONNX has."""

    embedding: Tensor

    def __init__(self, network: IQN) -> None:
        super().__init__()
        self.network = folded(network)
        with torch.no_grad():
            # The same for all observations, so it is a constant of the graph.
            embedding = self.network.embed(midpoint_taus(1, network.config.iqn.k))
        self.register_buffer("embedding", embedding)

    def mixed(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the (B, K, D) input of the heads."""
        encoded: list[Tensor] = []
        if self.network.img_head is not None:
            frames = (given["frame"].to(torch.float32) - 128.0) * (1.0 / 128.0)
            for layer in self.network.img_head:
                frames = layer(frames)
            encoded.append(frames)
        if self.network.float_feature_extractor is not None:
            encoded.append(self.network.float_feature_extractor(given["floats"]))
        return torch.cat(encoded, dim=1).unsqueeze(1) * self.embedding

    def advantages(self, mixed: Tensor) -> Tensor:
        """Return (B, A) action values less their mean over the actions."""
        head = self.network.A_head
        advantage = head.last(head.hidden(mixed).mean(dim=1))
        centred: Tensor = advantage - advantage.mean(dim=-1, keepdim=True)
        return centred

    def q_values(self, mixed: Tensor) -> Tensor:
        """Return (B, A) action values in reward units."""
        head = self.network.V_head
        value: Tensor = head.last(head.hidden(mixed).mean(dim=1))
        return value + self.advantages(mixed)


class GreedyPolicy(nn.Module):
    """What greedy evaluation computes: fixed fractions, no noise, normalisation included.

    Attributes:
        input_names: of the observations that the policy uses: `frame`, `floats`, or both.
    """

    def __init__(self, policy: Driver) -> None:
        """Copy `policy`, with spectral norms folded into the weights that they normalise."""
        super().__init__()
        network = policy if isinstance(policy, IQN) else policy.network
        self.values = _Network(network)
        self.prior: _Network | None = None
        if isinstance(policy, PriorPolicy):
            self.prior = _Network(policy.prior.network)
            self.floor, self.weight = policy.prior.floor, policy.w
        self.input_names = input_names(policy.config)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Map what `input_names` says to values and actions.

        Args:
            inputs: `frame` (B, n_stack, H, W) uint8 and `floats` (B, n_floats) float32, raw.

        Returns: (B, A) values in reward units, mean over the fractions, or scores Q + w l with a
            prior; (B,) int64 actions.
        """
        given = dict(zip(self.input_names, inputs, strict=True))
        values = self.values.q_values(self.values.mixed(given))
        if self.prior is not None:
            logits = self.prior.advantages(self.prior.mixed(given))
            values = values + self.weight * log_preferences(logits, self.floor).float()
        return values, values.argmax(dim=1)


class WindowMaxPool(nn.Module):
    """`LimitedMaxPool` in operations that ONNX has; exact: maxima may be taken in any order."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, min(H, 6), min(W, 6))."""
        return _window_max(_window_max(x, 2), 3)


def _window_max(x: Tensor, dimension: int) -> Tensor:
    """Maxima over the windows that adaptive pooling takes along one dimension."""
    size = x.shape[dimension]
    if size <= POOLED_SIDE:
        return x
    starts = [index * size // POOLED_SIDE for index in range(POOLED_SIDE)]
    ends = [-(-(index + 1) * size // POOLED_SIDE) for index in range(POOLED_SIDE)]
    windows = [
        x.narrow(dimension, start, end - start).amax(dim=dimension, keepdim=True)
        for start, end in zip(starts, ends, strict=True)
    ]
    return torch.cat(windows, dim=dimension)


def input_names(config: NetworkConfig) -> tuple[str, ...]:
    """Observations that a policy uses, in the order of the graph's inputs.

    A prior uses no others than the network beside it, which started with the prior's encoders.
    """
    return ("frame",) * config.use_image_head + ("floats",) * config.floats.enabled


def folded(network: IQN) -> IQN:
    """Copy to the CPU in evaluation mode: noise off, spectral norms folded into the weights."""
    # Not a deep copy: that shares the classes of parametrised layers, which are changed below.
    plain = IQN(network.config, num_actions=network.num_actions).eval()
    plain.load_state_dict(network.state_dict())
    set_noise(plain, False)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for name, child in list(module.named_children()):
            if isinstance(child, LimitedMaxPool):
                setattr(module, name, WindowMaxPool())
    return plain


def onnx_bytes(network: Driver, metadata: Mapping[str, Any]) -> bytes:
    """Write the graph.

    Args:
        network: the policy.
        metadata: plain JSON types, put into the file's properties, each as JSON text.

    Returns: an ONNX file with inputs `frame` and `floats`, as far as the network uses them, and
        outputs `q_values` (B, A) float32 and `action` (B,) int64; B is free.

    Raises:
        UserError: a package is missing, or the policy needs several frames at once.
    """
    check_export_extra("onnx", "onnxscript", "onnxruntime")
    import onnx

    policy = GreedyPolicy(network)
    with _quiet():
        program = torch.onnx.export(
            policy,
            _example(network),
            input_names=list(policy.input_names),
            output_names=["q_values", "action"],
            dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in policy.input_names),),
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None
    model = program.model_proto
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _example(policy: Driver) -> tuple[Tensor, ...]:
    config = policy.config
    if config.n_stack != 1:
        raise UserError(
            f"n_stack is {config.n_stack}: only a policy of one frame drives, or can be exported"
        )
    example = {
        "frame": torch.zeros(_TRACED_BATCH, 1, *config.image_hw, dtype=torch.uint8),
        "floats": torch.zeros(_TRACED_BATCH, config.floats.n_floats),
    }
    return tuple(example[name] for name in input_names(config))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes about versions from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@dataclass(frozen=True)
class Parity:
    """How a graph compares with the policy that it was made from.

    Attributes:
        observations: that both were asked about.
        agreement: share of them with the same greedy action.
        max_difference: largest |dQ|, in reward units.
        max_value: largest |Q| of the policy, in reward units.
    """

    observations: int
    agreement: float
    max_difference: float
    max_value: float

    @property
    def holds(self) -> bool:
        """Whether the graph is the policy, up to rounding."""
        limit = MAX_DIFFERENCE * max(1.0, self.max_value)
        return self.max_difference <= limit and self.agreement >= MIN_AGREEMENT

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "observations": self.observations,
            "greedy_agreement": self.agreement,
            "max_abs_dq": self.max_difference,
            "max_abs_q": self.max_value,
            "holds": self.holds,
        }


class OnnxPolicy:
    """An ONNX file that is asked like `rl.network.policy.Policy`, on the CPU.

    Attributes:
        input_names: of the observations that the graph takes.
        metadata: what `onnx_bytes` put into the file.
    """

    def __init__(self, data: bytes) -> None:
        check_export_extra("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
        self.input_names: list[str] = [each.name for each in self._session.get_inputs()]
        found = self._session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {key: json.loads(text) for key, text in found.items()}

    def act(
        self, frames: npt.NDArray[np.uint8], floats: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return values (B, A) and actions (B,) for frames (B, H, W) and raw floats (B, F)."""
        given = {"frame": frames[:, None], "floats": floats}
        values, actions = self._session.run(None, {name: given[name] for name in self.input_names})
        return values, actions


def compare(
    network: Driver,
    data: bytes,
    frames: npt.NDArray[np.uint8],
    floats: npt.NDArray[np.float32],
    *,
    chunk: int = 256,
) -> Parity:
    """Ask the graph and greedy evaluation's policy about the same observations.

    Args:
        network: the policy.
        data: the ONNX file made of it.
        frames: (B, H, W) gray pictures.
        floats: (B, F) raw.
        chunk: observations per call; the first is asked alone.
    """
    expected_by, got_by = Policy(network), OnnxPolicy(data)
    borders = sorted({0, 1, *range(chunk, len(frames), chunk), len(frames)})
    same, difference, largest = 0, 0.0, 0.0
    for first, end in itertools.pairwise(borders):
        part = slice(first, end)
        expected = expected_by.values(frames[part], floats[part])
        values, actions = got_by.act(frames[part], floats[part])
        same += int((actions == expected.argmax(axis=1)).sum())
        difference = max(difference, float(np.abs(values - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return Parity(len(frames), same / len(frames), difference, largest)
