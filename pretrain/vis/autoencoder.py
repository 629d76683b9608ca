"""The way back from features to a frame, and the losses of reconstruction."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 1024


class Decoder(nn.Module):
    """Paints frames from the encoder's features with two dense layers.

    The camera sits on the car, so the same things lie in the same places of the picture: a dense
    layer learns their shapes in a few hundred steps, where convolutions from the encoder's last
    map of 4 x 4 positions still paint clouds. It reads the features as the network's heads do, and
    it costs little beside the encoder. Nothing of it is kept.

    Args:
        features: D, length of the encoder's output.
        image_hw: height and width of a frame in pixels.
        n_stack: frames to paint.

    Attributes:
        background: (n_stack, H, W) what is painted on; best started at the mean frame, since most
            of a frame, the sky and the own car, is the same in all of them.
    """

    def __init__(self, features: int, image_hw: tuple[int, int], n_stack: int = 1) -> None:
        super().__init__()
        height, width = image_hw
        self.layers = nn.Sequential(
            nn.Linear(features, HIDDEN),
            nn.LeakyReLU(),
            nn.Linear(HIDDEN, n_stack * height * width),
            nn.Unflatten(1, (n_stack, height, width)),
        )
        self.background = nn.Parameter(torch.zeros(n_stack, height, width))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, D) features to (B, n_stack, H, W) frames, unbounded."""
        painted: Tensor = self.layers(features)
        return painted + self.background


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
        mean, log_variance = self.encode(features)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        code = mean + noise * (0.5 * log_variance).exp()
        return self.expand(code), divergences(mean, log_variance).sum(dim=1)

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, D) features to the code's (B, L) mean and logarithm of its variance, float32."""
        mean, log_variance = self.mean_and_log_variance(features).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-10.0, 10.0)


def divergences(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of each number of a code from the standard normal, (B, L), in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


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
