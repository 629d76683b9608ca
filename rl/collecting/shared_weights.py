"""Weights on their way from the learner to collectors: flat, versioned, in shared memory."""

import time
from multiprocessing.context import SpawnContext
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

READ_TIMEOUT_S: Final = 10.0


def _tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and persistent buffers in the order of the state dict, checked to be floats."""
    state = module.state_dict()
    wrong = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    if wrong:
        raise ValueError(f"only floating point tensors can be shared, got {', '.join(wrong)}")
    return list(state.values())


def flat_size(module: nn.Module) -> int:
    """Return the number of float32 values that hold the module's state."""
    return sum(tensor.numel() for tensor in _tensors(module))


@torch.no_grad()
def to_flat(module: nn.Module, flat: npt.NDArray[np.float32]) -> None:
    """Write the module's state into `flat`, (`flat_size`,) float32."""
    start = 0
    for tensor in _tensors(module):
        end = start + tensor.numel()
        flat[start:end] = tensor.detach().reshape(-1).float().cpu().numpy()
        start = end


def flat_state(module: nn.Module) -> npt.NDArray[np.float32]:
    """Return the module's state, (`flat_size`,) float32."""
    flat = np.empty(flat_size(module), dtype=np.float32)
    to_flat(module, flat)
    return flat


@torch.no_grad()
def from_flat(flat: npt.NDArray[np.float32], module: nn.Module) -> None:
    """Read the module's state from `flat`, (`flat_size`,) float32."""
    tensors = _tensors(module)
    if flat.size != sum(tensor.numel() for tensor in tensors):
        raise ValueError(f"expected {sum(t.numel() for t in tensors)} values, got {flat.size}")
    start = 0
    for tensor in tensors:
        end = start + tensor.numel()
        tensor.copy_(torch.from_numpy(flat[start:end]).view_as(tensor))
        start = end


class SharedWeights:
    """One network's weights in shared memory, written by the learner and read by collectors.

    No lock is involved, which a killed process could keep: the version is odd while the learner
    writes, and a reader that saw it odd, or changed, reads again (a sequence lock).
    """

    def __init__(self, module: nn.Module, context: SpawnContext, version: int = 0) -> None:
        """Reserve memory for `module`'s state and publish it.

        Args:
            module: a network whose tensors are all floating point.
            context: the multiprocessing context whose processes will read.
            version: of these first weights.
        """
        self._values = context.RawArray("f", flat_size(module))
        self._sequence = context.RawValue("q", 0)
        self._version = context.RawValue("q", 0)
        self.publish(module, version)

    @property
    def version(self) -> int:
        """Version of the latest published weights."""
        return int(self._version.value)

    def _flat(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(self._values, dtype=np.float32)

    def publish(self, module: nn.Module, version: int) -> None:
        """Replace the shared weights. There must be one writer only."""
        self._sequence.value += 1
        to_flat(module, self._flat())
        self._version.value = version
        self._sequence.value += 1

    def pull_into(self, module: nn.Module) -> int:
        """Copy the latest weights into `module`, all of one version.

        Returns:
            Their version.

        Raises:
            TimeoutError: the writer never finished, which means that it died while writing.
        """
        deadline = time.monotonic() + READ_TIMEOUT_S
        while True:
            before = self._sequence.value
            copy, version = self._flat().copy(), self.version
            if before % 2 == 0 and before == self._sequence.value:
                from_flat(copy, module)
                return version
            if time.monotonic() > deadline:
                raise TimeoutError("the learner stopped while it was publishing weights")
            time.sleep(0.0005)
