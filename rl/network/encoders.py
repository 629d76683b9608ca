"""What the network sees with: the image encoder and the encoder of the float features."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from datasets.contract.memory import check_memory, machine_memory
from rl.config.network import CONV_KERNELS, CONV_STRIDES, POOLED_SIDE, CnnConfig, FloatsConfig
from rl.config.network_size import encoder_need
from rl.network.block_convolutions import first_two, to_blocks
from rl.network.layers import LEAKY_GAIN, init_orthogonal

RELU_GAIN = nn.init.calculate_gain("relu")


def normalise_frames(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bring (B, C, H, W) uint8 frames to [-1, 1) as (x - 128) / 128; floats pass as they are."""
    if frames.dtype != torch.uint8:
        return frames
    return frames.to(dtype).sub_(128.0).mul_(1.0 / 128.0)


class LimitedMaxPool(nn.Module):
    """Adaptive max pooling to 6 x 6 that leaves smaller maps at their size."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, min(H, 6), min(W, 6))."""
        height, width = x.shape[-2:]
        return F.adaptive_max_pool2d(x, (min(height, POOLED_SIDE), min(width, POOLED_SIDE)))


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, *, gain: float
) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    init_orthogonal(conv, gain)
    return conv


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip connection (arXiv:1802.01561, fig. 3)."""

    def __init__(self, channels: int, *, spectral: bool) -> None:
        super().__init__()
        convs = [_conv(channels, channels, 3, padding=1, gain=RELU_GAIN) for _ in range(2)]
        self.conv_0, self.conv_1 = (spectral_norm(c) if spectral else c for c in convs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = x + self.conv_1(F.relu(self.conv_0(F.relu(x))))
        return out


class ImpalaBlock(nn.Module):
    """Convolution, max pooling and two residual blocks; halves the side of the map."""

    def __init__(self, inputs: int, channels: int, *, spectral: bool, norm: bool) -> None:
        super().__init__()
        self.conv = _conv(inputs, channels, 3, padding=1, gain=RELU_GAIN)
        self.norm = nn.GroupNorm(1, channels) if norm else None
        self.residual_0 = ResidualBlock(channels, spectral=spectral)
        self.residual_1 = ResidualBlock(channels, spectral=spectral)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, ceil(H / 2), ceil(W / 2))."""
        x = F.max_pool2d(self.conv(x), 3, 2, 1)
        if self.norm is not None:
            x = self.norm(x)
        out: Tensor = self.residual_1(self.residual_0(x))
        return out


def _default_layers(inputs: int, cnn: CnnConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    shapes = zip(cnn.resolved_channels, CONV_KERNELS, CONV_STRIDES, strict=True)
    for index, (channels, kernel, stride) in enumerate(shapes):
        conv: nn.Module = _conv(inputs, channels, kernel, stride, gain=LEAKY_GAIN)
        if cnn.spectral_norm and index > 0:
            conv = spectral_norm(conv)
        # In place: a convolution's gradient needs its input, never its result.
        layers += [conv, nn.LeakyReLU(inplace=True)]
        inputs = channels
    return layers


def _impala_layers(inputs: int, cnn: CnnConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels in cnn.resolved_channels:
        layers.append(
            ImpalaBlock(inputs, channels, spectral=cnn.spectral_norm, norm=cnn.layer_norm)
        )
        inputs = channels
    return [*layers, nn.ReLU()]


class ImageHead(nn.Sequential):
    """The image encoder. Its layers carry the names `0`, `2`, `4`, `6` in the default form.

    Attributes:
        map_shape: (C, H, W) of the last feature map.
        out_features: its number of entries, the length of the output.
    """

    def __init__(self, cnn: CnnConfig, image_hw: tuple[int, int], n_stack: int = 1) -> None:
        """Build the encoder.

        Raises:
            UserError: it needs more memory than this machine has.
        """
        check_memory([encoder_need(cnn, image_hw, n_stack)], machine_memory())
        build = _default_layers if cnn.arch == "default" else _impala_layers
        layers = build(n_stack, cnn)
        if cnn.maxpool:
            layers.append(LimitedMaxPool())
        super().__init__(*layers, nn.Flatten())
        with torch.no_grad():
            probe = nn.Sequential(*layers).eval()(torch.zeros(1, n_stack, *image_hw))
        self.train()
        self.map_shape: tuple[int, int, int] = (probe.shape[1], probe.shape[2], probe.shape[3])
        self.out_features: int = probe.numel()
        self._has_default_form = cnn.arch == "default"
        self.to(memory_format=torch.channels_last)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames to their features.

        Args:
            frames: (B, n_stack, H, W) uint8, or floating point if already (x - 128) / 128.

        Returns: (B, out_features).
        """
        layers = list(self)
        if self._has_default_form and frames.device.type == "cpu":
            x, layers = self._second_map(frames), layers[3:]
        else:
            x = normalise_frames(frames).contiguous(memory_format=torch.channels_last)
        for layer in layers:
            x = layer(x)
        return x

    def _second_map(self, frames: Tensor) -> Tensor:
        """Return what layer `2` of the default form makes of frames; faster than layer by layer."""
        blocks = normalise_frames(to_blocks(frames))
        first, activation, second = self[0], self[1], self[2]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(activation, nn.LeakyReLU)
        assert isinstance(second, nn.Conv2d)
        assert first.bias is not None
        assert second.bias is not None
        return first_two(
            blocks,
            (first.weight, first.bias),
            (second.weight, second.bias),
            activation.negative_slope,
        )


class FloatExtractor(nn.Module):
    """Two linear layers over normalised float features, named `0` and `2` as artifacts carry them.

    Attributes:
        out_features: units of the output.
    """

    float_mean: Tensor
    float_std: Tensor

    def __init__(self, config: FloatsConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != config.n_floats or len(std) != config.n_floats:
            raise ValueError(
                f"n_floats is {config.n_floats}, the normalisation has {len(mean)} and {len(std)}"
            )
        self.out_features = config.hidden_dimension
        layers = OrderedDict[str, nn.Module]()
        layers["0"] = nn.Linear(config.n_floats, config.hidden_dimension)
        if config.layer_norm:
            layers["norm_0"] = nn.LayerNorm(config.hidden_dimension)
        layers["1"] = nn.LeakyReLU()
        layers["2"] = nn.Linear(config.hidden_dimension, config.hidden_dimension)
        if config.layer_norm:
            layers["norm_2"] = nn.LayerNorm(config.hidden_dimension)
        layers["3"] = nn.LeakyReLU()
        for name, layer in layers.items():
            self.add_module(name, layer)
            if isinstance(layer, nn.Linear):
                init_orthogonal(layer)
        self.register_buffer("float_mean", torch.tensor(mean), persistent=False)
        self.register_buffer("float_std", torch.tensor(std), persistent=False)

    def forward(self, floats: Tensor) -> Tensor:
        """Map (B, n_floats) raw float features to (B, hidden_dimension)."""
        x = (floats - self.float_mean) / self.float_std
        for layer in self.children():
            x = layer(x)
        return x
