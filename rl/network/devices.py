"""Device and precision, chosen when a run starts."""

from typing import Final, Literal

import torch

from datasets.contract.errors import UserError

_CPU_BFLOAT16: Final = ("avx512_bf16", "amx_bf16", "bf16")

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

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
    """Return the number format of matrix products; weights and outputs stay in float32.

    `auto` is bfloat16 where the device multiplies in it, which is about twice as fast.
    """
    low = multiplies_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return torch.bfloat16 if low else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for it: emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _CPU_BFLOAT16)
