"""The way back from features to a frame, and the losses of reconstruction."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4
"""Side in pixels of the square that one position of the decoder's last map paints."""


class Decoder(nn.Module):
    """Paints frames from the encoder's features, with about as much work as the encoder does.

    Three convolutions with bilinear steps between them lead from the encoder's last map to one
    position per 4 x 4 pixels, which then paints all of them (sub-pixel layer, arXiv:1609.05158):
    convolutions at the full resolution would take most of the time of training.

    Args:
        map_shape: (C, h, w) of the encoder's last map.
        image_hw: height and width of a frame in pixels.
        n_stack: frames to paint.

    Attributes:
        background: (n_stack, H, W) what is painted on; best started at the mean frame, since most
            of a frame, the sky and the own car, is the same in all of them.
    """

    def __init__(
        self, map_shape: tuple[int, int, int], image_hw: tuple[int, int], n_stack: int = 1
    ) -> None:
        super().__init__()
        channels, height, width = map_shape
        grid = (-(-image_hw[0] // BLOCK), -(-image_hw[1] // BLOCK))
        middle = (_between(height, grid[0]), _between(width, grid[1]))
        self.image_hw = image_hw
        self.layers = nn.Sequential(
            nn.Unflatten(1, map_shape),
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.LeakyReLU(),
            nn.Upsample(middle, mode="bilinear"),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.LeakyReLU(),
            nn.Upsample(grid, mode="bilinear"),
            nn.Conv2d(32, n_stack * BLOCK**2, 3, padding=1),
            nn.PixelShuffle(BLOCK),
        )
        self.background = nn.Parameter(torch.zeros(n_stack, *image_hw))
        self.to(memory_format=torch.channels_last)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C * h * w) features to (B, n_stack, H, W) frames, unbounded."""
        painted: Tensor = self.layers(features)
        return painted[..., : self.image_hw[0], : self.image_hw[1]] + self.background


class GaussianCode(nn.Module):
    """The noisy code of a variational autoencoder between features and decoder.

    Args:
        features: length of the encoder's output.
        latent: length of the code.
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.mean_and_log_variance = nn.Linear(features, 2 * latent)
        self.expand = nn.Sequential(nn.Linear(latent, features), nn.LeakyReLU())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Pass (B, D) features through the code; noisy in training, its mean otherwise.

        Returns: (B, D) features for the decoder, and the (B,) divergence from the standard normal
            in nats (arXiv:1312.6114, appendix B).
        """
        mean, log_variance = self.mean_and_log_variance(features).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-10.0, 10.0)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        code = mean + noise * (0.5 * log_variance).exp()
        return self.expand(code), divergence


def contrast_weights(frames: Tensor, edge_weight: float) -> Tensor:
    """Weights that make thin lines count: they are few pixels, and all that a driver looks at.

    Args:
        frames: (B, C, H, W) in any linear scale of gray that spans 2 from black to white.
        edge_weight: extra weight where black meets white.

    Returns: (B, C, H, W), 1 plus edge_weight times the range of gray within 3 x 3 pixels, over 2.
    """
    highest = F.max_pool2d(frames, 3, 1, 1)
    lowest = -F.max_pool2d(-frames, 3, 1, 1)
    return 1.0 + 0.5 * edge_weight * (highest - lowest)


def weighted_mse(painted: Tensor, frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the squared error over all pixels, a scalar."""
    return (weights * (painted - frames).square()).sum() / weights.sum()


def _between(small: int, large: int) -> int:
    """Geometric middle of two sizes, rounded."""
    return max(1, round(math.sqrt(small * large)))
