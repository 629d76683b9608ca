"""Device and precision, chosen when a run starts."""

from typing import Literal

import torch

from datasets.contract.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for on this machine.

    Raises:
        UserError: an unknown device, or one that this machine does not have.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is unknown: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if available else 0
        if (device.index or 0) >= count:
            raise UserError(f"device {name!r} is not there ({count} found): use auto or cpu")
    return device


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Number format of the learner's matrix products; weights and outputs stay in float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
