"""The encoder's first two convolutions on blocks of pixels: the same function, faster on a CPU.

Both have kernels of 4 x 4 and stride 2. With 2 x 2 pixels of the first map as the channels of one
place, the second is a convolution of 2 x 2 with stride 1, and the first one, which makes these
places from blocks of 4 x 4 pixels, too. A CPU multiplies 16 channels or more at once and is slow
at strided convolutions of 1 and 8 channels, above all at their gradients. The results are those of
the plain form up to the rounding of sums.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE: Final = 4
"""Side of a block in pixels, and of both kernels."""
STRIDE: Final = 2


def map_side(pixels: int) -> int:
    """Return the side of the second map of a picture with a side of `pixels`."""
    first = (pixels - SIDE) // STRIDE + 1
    return (first - SIDE) // STRIDE + 1


def to_blocks(frames: Tensor) -> Tensor:
    """Arrange the pixels that the second map depends on in blocks of 4 x 4.

    Args:
        frames: (B, C, H, W) of any dtype.

    Returns:
        (B, 16 C, h, w) in channels-last memory, h blocks of rows and w of columns. Where the last
        block reaches beyond the picture it is 0; the kernels are 0 there.
    """
    for axis in (-2, -1):
        have = frames.shape[axis]
        need = SIDE * (map_side(have) + 2)
        frames = frames.narrow(axis, 0, min(have, need))
        if need > have:
            frames = F.pad(frames, (0, 0, 0, need - have) if axis == -2 else (0, need - have))
    batch, channels, height, width = frames.shape
    rows, columns = height // SIDE, width // SIDE
    if frames.dtype == torch.uint8:  # the 4 pixels of a row as one number: a copy for all 4
        numbers = frames.contiguous().view(torch.int32)
        numbers = numbers.view(batch, channels, rows, SIDE, columns).permute(0, 2, 4, 1, 3)
        blocks = numbers.contiguous().view(torch.uint8)
    else:
        pixels = frames.reshape(batch, channels, rows, SIDE, columns, SIDE)
        blocks = pixels.permute(0, 2, 4, 1, 3, 5)
    blocks = blocks.reshape(batch, rows, columns, channels * SIDE * SIDE)
    return blocks.permute(0, 3, 1, 2)


def first_kernel(weight: Tensor) -> Tensor:
    """Return the (4 O, 16 C, 2, 2) kernel on blocks of a first layer's (O, C, 4, 4) one.

    Its output channels are the 2 x 2 places of a block, and in each the O channels.
    """
    outputs, channels = weight.shape[:2]
    # The kernel at each of the four places of the 8 x 8 pixels that 2 x 2 blocks hold.
    placed = [
        F.pad(weight, (left, SIDE - left, top, SIDE - top))
        for top in (0, STRIDE)
        for left in (0, STRIDE)
    ]
    kernel = torch.stack(placed).view(4 * outputs, channels, 2, SIDE, 2, SIDE)
    kernel = kernel.permute(0, 1, 3, 5, 2, 4).reshape(4 * outputs, channels * SIDE * SIDE, 2, 2)
    return kernel.contiguous(memory_format=torch.channels_last)


def second_kernel(weight: Tensor) -> Tensor:
    """Return the (O, 4 C, 2, 2) kernel of a second layer's (O, C, 4, 4) one."""
    outputs, channels = weight.shape[:2]
    kernel = weight.reshape(outputs, channels, 2, STRIDE, 2, STRIDE).permute(0, 3, 5, 1, 2, 4)
    kernel = kernel.reshape(outputs, 4 * channels, 2, 2)
    return kernel.contiguous(memory_format=torch.channels_last)


def first_two(
    blocks: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    negative_slope: float,
) -> Tensor:
    """Return the second layer's map before its activation.

    Args:
        blocks: (B, 16 C, h, w) from `to_blocks`, floating point.
        first: (O1, C, 4, 4) weight and (O1,) bias of the first layer, with stride 2.
        second: (O2, O1, 4, 4) weight and (O2,) bias of the second layer, with stride 2.
        negative_slope: of the LeakyReLU between them.

    Returns:
        (B, O2, h - 2, w - 2).
    """
    weight, bias = first
    x = F.conv2d(blocks, first_kernel(weight), bias.repeat(4))
    x = F.leaky_relu(x, negative_slope, inplace=True)
    weight, bias = second
    return F.conv2d(x, second_kernel(weight), bias)
