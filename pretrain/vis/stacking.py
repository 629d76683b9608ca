"""Observations of several frames, and an encoder of one frame made of theirs."""

from collections.abc import Mapping

from torch import Tensor

from datasets.contract.errors import UserError
from rl.transfer.artifacts import Tensors

FIRST_CONVOLUTIONS = ("img_head.0.weight", "img_head.0.conv.weight")
"""Its kernel's name in the default and in the IMPALA form."""


def merge_stack(tensors: Mapping[str, Tensor]) -> Tensors:
    """Make an encoder of n frames, which are its input channels, one of a single frame.

    The kernel becomes the average over the frames, times n, since each of them added its share.
    On n equal frames, such as those of a car that stands, the outputs stay what they were; a plain
    average would leave the first layer with an nth of its input.

    Args:
        tensors: of the encoder, by full name.

    Raises:
        UserError: there is no first convolution to merge.
    """
    merged = dict(tensors)
    found = [name for name in FIRST_CONVOLUTIONS if name in tensors]
    if not found:
        raise UserError("img_head has no first convolution whose channels could be merged")
    kernel = tensors[found[0]]
    merged[found[0]] = kernel.double().sum(dim=1, keepdim=True).to(kernel.dtype)
    return merged
