"""The encoder's first two convolutions on blocks of pixels, against their plain form."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rl.network.block_convolutions import first_two, map_side, to_blocks
from rl.network.encoders import ImageHead, normalise_frames
from tests.rl_samples import tiny_network

B, C, FIRST, SECOND = 3, 2, 5, 7
SLOPE = 0.01


def parameters() -> list[Tensor]:
    """Weight and bias of both layers, with gradients."""
    shapes = [(FIRST, C, 4, 4), (FIRST,), (SECOND, FIRST, 4, 4), (SECOND,)]
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]


def plain(frames: Tensor, given: list[Tensor]) -> Tensor:
    """The two layers as they are defined."""
    first = F.leaky_relu(F.conv2d(frames, given[0], given[1], 2), SLOPE)
    return F.conv2d(first, given[2], given[3], 2)


# Sides whose last block ends with the picture (64, 36), before it (41, 37), or beyond it (34, 35).
@pytest.mark.parametrize("size", [(64, 36), (41, 34), (35, 37), (10, 66)])
def test_values_and_gradients_are_those_of_the_plain_form(size: tuple[int, int]) -> None:
    frames = torch.randn(B, C, *size, dtype=torch.float64, requires_grad=True)
    given = parameters()
    expected = plain(frames, given)
    found = first_two(to_blocks(frames), (given[0], given[1]), (given[2], given[3]), SLOPE)
    assert found.shape == (B, SECOND, map_side(size[0]), map_side(size[1]))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), [frames, *given])
    gradients = torch.autograd.grad((found * weights).sum(), [frames, *given])
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", [(64, 36), (41, 34), (35, 37)])
def test_bytes_are_arranged_as_numbers_are(size: tuple[int, int]) -> None:
    frames = torch.randint(0, 256, (B, C, *size), dtype=torch.uint8)
    blocks = to_blocks(frames)
    assert blocks.dtype == torch.uint8
    assert torch.equal(blocks, to_blocks(frames.double()).to(torch.uint8))
    # A view of a longer array, as a slice of a memory is.
    assert torch.equal(to_blocks(frames[1:]), blocks[1:])


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_encoder_gives_what_its_layers_give_one_by_one(spectral_norm: bool) -> None:
    network = tiny_network()
    cnn = network.vis.cnn.model_copy(update={"spectral_norm": spectral_norm})
    head = ImageHead(cnn, (34, 41), 2).eval()
    frames = torch.randint(0, 256, (B, 2, 34, 41), dtype=torch.uint8)
    x = normalise_frames(frames)
    for layer in head:
        x = layer(x)
    torch.testing.assert_close(head(frames), x, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(head(normalise_frames(frames)), x, atol=1e-6, rtol=1e-5)
