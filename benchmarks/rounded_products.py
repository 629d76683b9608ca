"""Products in bfloat16 computed in float32 from rounded operands, for CPUs without bfloat16 units.

A bfloat16 unit multiplies operands of 8 significant bits, adds in float32 and rounds the sum. So
does this form; the order of the additions differs, which changes a sum in its 24th bit and
therefore, once in a few hundred values, what it is rounded to.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_ATEN = torch.ops.aten
_PRODUCTS: Final = frozenset(
    {
        _ATEN.mm,
        _ATEN.addmm,
        _ATEN.bmm,
        _ATEN.baddbmm,
        _ATEN.convolution,
        _ATEN.convolution_backward,
    }
)


def _wide(value: Any) -> Any:
    is_low = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
    return value.float() if is_low else value


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) else value


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this context, products of bfloat16 tensors are computed in float32 and rounded.

    Forward and backward passes of autocast are covered. All other operations are left alone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation; products of bfloat16 operands in float32."""
        options = dict(kwargs or {})
        is_product = func.overloadpacket in _PRODUCTS
        if not (is_product and args[0].dtype == torch.bfloat16):
            return func(*args, **options)
        return tree_map(_rounded, func(*tree_map(_wide, tuple(args)), **options))
