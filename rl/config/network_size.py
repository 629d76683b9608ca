"""How large a network is, by arithmetic alone: known before anything is reserved."""

from dataclasses import dataclass
from typing import Final

from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import N_FLOATS
from datasets.contract.memory import MemoryNeed
from rl.config.network import (
    CONV_KERNELS,
    CONV_STRIDES,
    POOLED_SIDE,
    CnnConfig,
    DecoderConfig,
    FloatsConfig,
    NetworkConfig,
)

FLOAT_BYTES: Final = 4
_BLOCK_KERNEL: Final = 3
_BLOCK_CONVOLUTIONS: Final = 4
"""Of the two residual blocks of an Impala block."""


@dataclass(frozen=True)
class EncoderSize:
    """Size of an image encoder.

    Attributes:
        parameters: numbers that are trained.
        features: length of the output.
        activations: numbers that one observation's forward pass computes in its convolutions.
    """

    parameters: int
    features: int
    activations: int


def encoder_size(cnn: CnnConfig, image_hw: tuple[int, int], channels: int = 1) -> EncoderSize:
    """Return the size of an image encoder for frames of (H, W) pixels in `channels`."""
    count = _default_size if cnn.arch == "default" else _impala_size
    parameters, activations, (height, width) = count(cnn, image_hw, channels)
    if cnn.maxpool:
        height, width = min(height, POOLED_SIDE), min(width, POOLED_SIDE)
    return EncoderSize(parameters, cnn.resolved_channels[-1] * height * width, activations)


def _default_size(
    cnn: CnnConfig, image_hw: tuple[int, int], inputs: int
) -> tuple[int, int, tuple[int, int]]:
    height, width = image_hw
    parameters = activations = 0
    for outputs, kernel, stride in zip(
        cnn.resolved_channels, CONV_KERNELS, CONV_STRIDES, strict=True
    ):
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        parameters += outputs * (inputs * kernel * kernel + 1)
        activations += outputs * height * width
        inputs = outputs
    return parameters, activations, (height, width)


def _impala_size(
    cnn: CnnConfig, image_hw: tuple[int, int], inputs: int
) -> tuple[int, int, tuple[int, int]]:
    height, width = image_hw
    area = _BLOCK_KERNEL * _BLOCK_KERNEL
    parameters = activations = 0
    for outputs in cnn.resolved_channels:
        parameters += outputs * (inputs * area + 1)
        parameters += _BLOCK_CONVOLUTIONS * outputs * (outputs * area + 1)
        parameters += 2 * outputs if cnn.layer_norm else 0
        activations += outputs * height * width  # the first convolution, before it is pooled
        height, width = (height + 1) // 2, (width + 1) // 2
        activations += _BLOCK_CONVOLUTIONS * outputs * height * width
        inputs = outputs
    return parameters, activations, (height, width)


def feature_dimension(network: NetworkConfig) -> int:
    """Return D, the length of a network's features."""
    image = _encoder_of(network).features if network.use_image_head else 0
    return image + (network.floats.hidden_dimension if network.floats.enabled else 0)


def parameter_count(network: NetworkConfig, num_actions: int = N_ACTIONS) -> int:
    """Return the number of parameters of `rl.network.iqn.IQN`."""
    features = feature_dimension(network)
    count = _encoder_of(network).parameters if network.use_image_head else 0
    count += _floats_parameters(network.floats) if network.floats.enabled else 0
    count += features * (network.iqn.embedding_dimension + 1)
    return count + sum(head_parameters(network.decoder, features, out) for out in (num_actions, 1))


def head_parameters(decoder: DecoderConfig, features: int, outputs: int) -> int:
    """Return the number of parameters of one head."""
    hidden = decoder.dense_hidden_dimension // 2
    linear = hidden * (features + 1) + outputs * (hidden + 1)
    return linear * (2 if decoder.noisy else 1) + (2 * hidden if decoder.layer_norm else 0)


def activation_count(network: NetworkConfig, taus: int) -> int:
    """Return the numbers that a forward pass computes at least for one observation.

    Args:
        network: the network.
        taus: quantile fractions of the observation.
    """
    image = _encoder_of(network).activations if network.use_image_head else 0
    hidden = network.decoder.dense_hidden_dimension
    return image + taus * (feature_dimension(network) + hidden)


def observation_bytes(network: NetworkConfig) -> int:
    """Return the bytes of one observation: a frame and its floats."""
    height, width = network.image_hw
    return network.n_stack * height * width + FLOAT_BYTES * N_FLOATS


def encoder_need(cnn: CnnConfig, image_hw: tuple[int, int], channels: int = 1) -> MemoryNeed:
    """Return what an image encoder and its look at one frame take."""
    size = encoder_size(cnn, image_hw, channels)
    pixels = channels * image_hw[0] * image_hw[1]
    numbers = size.parameters + size.activations + pixels
    return MemoryNeed("the image encoder", FLOAT_BYTES * numbers, "nn.vis.cnn, image_size")


def network_need(network: NetworkConfig, copies: int = 1) -> MemoryNeed:
    """Return what `copies` of a network take."""
    size = copies * FLOAT_BYTES * parameter_count(network)
    return MemoryNeed("the networks", size, "nn, image_size")


def _encoder_of(network: NetworkConfig) -> EncoderSize:
    return encoder_size(network.vis.cnn, network.image_hw, network.n_stack)


def _floats_parameters(floats: FloatsConfig) -> int:
    units = floats.hidden_dimension
    norms = 4 * units if floats.layer_norm else 0
    return units * (floats.n_floats + 1) + units * (units + 1) + norms
