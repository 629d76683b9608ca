"""Building blocks: noisy linear layers, two-layer heads, initialisation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_GAIN = nn.init.calculate_gain("leaky_relu", 0.01)


def init_orthogonal(layer: nn.Module, gain: float = LEAKY_GAIN) -> None:
    """Fill a layer's weight with an orthogonal matrix times `gain`, and its bias with zeros."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    nn.init.orthogonal_(weight, gain)
    nn.init.zeros_(bias)


class NoisyLinear(nn.Linear):
    """Linear layer with factorised Gaussian noise on its weights (arXiv:1706.10295, eq. 10).

    `weight` and `bias` are the means, so that a plain layer's parameters fit. One draw of the
    noise is shared by the whole batch and kept until `resample`.

    Attributes:
        noise: True or False force the noise on or off; None, the default, follows `training`.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, in_features: int, out_features: int, sigma0: float = 0.5) -> None:
        super().__init__(in_features, out_features)
        self.noise: bool | None = None
        sigma = sigma0 / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma))
        self.register_buffer("noise_in", torch.zeros(in_features), persistent=False)
        self.register_buffer("noise_out", torch.zeros(out_features), persistent=False)
        self.resample()

    @property
    def noise_active(self) -> bool:
        """Whether the next forward pass is noisy."""
        return self.training if self.noise is None else self.noise

    @torch.no_grad()
    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw new noise, from `generator` (a CPU one) or torch's global one."""
        for buffer in (self.noise_in, self.noise_out):
            draw = torch.randn(buffer.shape, generator=generator)
            buffer.copy_(draw.sign() * draw.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if not self.noise_active:
            return F.linear(x, self.weight, self.bias)
        weight = self.weight + self.weight_sigma * torch.outer(self.noise_out, self.noise_in)
        return F.linear(x, weight, self.bias + self.bias_sigma * self.noise_out)


def resample_noise(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw new noise in every noisy layer of `module`."""
    for layer in module.modules():
        if isinstance(layer, NoisyLinear):
            layer.resample(generator)


def set_noise(module: nn.Module, noise: bool | None) -> None:
    """Force the noise of every noisy layer on or off; None lets it follow the training mode."""
    for layer in module.modules():
        if isinstance(layer, NoisyLinear):
            layer.noise = noise


class Head(nn.Module):
    """Two linear layers, named `0` and `2` as artifacts carry them, LeakyReLU between.

    Dropout is functional and only active in training: it leaves nothing in the state dict.

    Attributes:
        dropout_inner: share of hidden units that are dropped in training.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        layer_norm: bool = False,
        noisy: bool = False,
        sigma0: float = 0.5,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__()
        self.dropout_inner = 0.0
        self.add_module("0", self._linear(in_features, hidden, noisy, sigma0))
        self.norm = nn.LayerNorm(hidden) if layer_norm else None
        self.add_module("2", self._linear(hidden, out_features, noisy, sigma0))
        init_orthogonal(self.first)
        init_orthogonal(self.last, 1.0)
        if zero_init_last:
            nn.init.zeros_(self.last.weight)

    @staticmethod
    def _linear(in_features: int, out_features: int, noisy: bool, sigma0: float) -> nn.Linear:
        if noisy:
            return NoisyLinear(in_features, out_features, sigma0)
        return nn.Linear(in_features, out_features)

    @property
    def first(self) -> nn.Linear:
        """The layer named `0`, features to hidden units."""
        return self.get_submodule("0")  # type: ignore[return-value]

    @property
    def last(self) -> nn.Linear:
        """The layer named `2`, hidden units to outputs."""
        return self.get_submodule("2")  # type: ignore[return-value]

    def hidden(self, features: Tensor) -> Tensor:
        """Map (..., D) features to the (..., hidden) units that the last layer sees."""
        x = self.first(features)
        if self.norm is not None:
            x = self.norm(x)
        x = F.leaky_relu(x, inplace=True)  # of a fresh tensor that no gradient needs
        return F.dropout(x, self.dropout_inner, self.training and self.dropout_inner > 0)

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., D) features to (..., out)."""
        return self.output(self.hidden(features))

    def output(self, hidden: Tensor) -> Tensor:
        """Map (..., hidden) units to (..., out), in float32 even where autocast is on.

        Values near 1 would be rounded to steps of 0.008 in bfloat16, more than actions differ by.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            out: Tensor = self.last(hidden.float())
        return out
