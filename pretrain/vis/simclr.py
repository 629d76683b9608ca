"""Learning to see by telling frames apart (SimCLR, arXiv:2002.05709)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from pretrain.vis.config import SimclrConfig

GROUP_FRAMES = 16
"""Frames that share one draw of an augmentation: few calls, and still many draws in a batch."""
BLUR_KERNEL_PX = 5
BLUR_PROBABILITY = 0.5
ASPECT_RATIOS = (0.9, 1.1)


class Views:
    """Draws altered copies of frames, as a driver would still drive by them.

    There is no horizontal flip, which image collections profit from: it would teach the encoder
    that a left turn is a right turn. Crops and shifts stay small for the same reason, since the
    place of the road in the picture is the place of the car on the road.

    The frames of an observation share their draws of everything but noise: what moves between
    them stays.

    Args:
        config: strength of each change.
        image_hw: height and width of a frame in pixels.
    """

    def __init__(self, config: SimclrConfig, image_hw: tuple[int, int]) -> None:
        changes: list[nn.Module] = []
        if config.crop_area_min < 1:
            scale = (config.crop_area_min, 1.0)
            changes.append(
                v2.RandomResizedCrop(image_hw, scale=scale, ratio=ASPECT_RATIOS, antialias=True)
            )
        if config.shift_px:
            changes.append(v2.RandomCrop(image_hw, padding=config.shift_px, padding_mode="edge"))
        if config.brightness or config.contrast:
            changes.append(v2.ColorJitter(brightness=config.brightness, contrast=config.contrast))
        if config.blur_px:
            blur = v2.GaussianBlur(BLUR_KERNEL_PX, (0.1, max(config.blur_px, 0.1)))
            changes.append(v2.RandomApply([blur], p=BLUR_PROBABILITY))
        if config.noise:
            changes.append(v2.GaussianNoise(sigma=config.noise))
        self._changes = changes

    def __call__(self, frames: Tensor) -> Tensor:
        """Alter (B, n_stack, H, W) uint8 frames, on their device; the same shape and type."""
        # With a gray channel of its own, a frame is never taken for the colours of its neighbours.
        frames = frames.unsqueeze(2)
        changed = torch.empty_like(frames)
        groups = -(-len(frames) // GROUP_FRAMES)
        for first in range(groups):
            # Neighbours in time may be neighbours in the batch. Altered alike, they would be closer
            # to each other than to their other views.
            changed[first::groups] = self._alter(frames[first::groups])
        return changed.squeeze(2)

    def _alter(self, frames: Tensor) -> Tensor:
        for change in self._changes:
            frames = change(frames)
        return frames


class Projection(nn.Sequential):
    """The head that the loss reads, thrown away afterwards: features before it serve better.

    Args:
        features: length of what the encoder gives.
        hidden: units between.
        outputs: D, length of a projection.
    """

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy: find a frame's other view among all others.

    Args:
        first: (B, D) projections of one view of each frame.
        second: (B, D) projections of the other view.
        temperature: that divides the cosines, > 0.

    Returns: the mean over all 2B views, a scalar (arXiv:2002.05709, eq. 1).
    Raises: ValueError if the shapes differ.
    """
    cosines, partner = _cosines(first, second)
    return F.cross_entropy(cosines / temperature, partner)


@torch.no_grad()
def partner_accuracy(first: Tensor, second: Tensor) -> Tensor:
    """Share of the 2B views that are nearest to the other view of their frame, a scalar."""
    cosines, partner = _cosines(first, second)
    return (cosines.argmax(dim=1) == partner).float().mean()


def _cosines(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines (2B, 2B) with -inf on the diagonal, and the (2B,) index of each view's partner."""
    if first.shape != second.shape or first.dim() != 2:
        raise ValueError(f"views of {tuple(first.shape)} and {tuple(second.shape)}")
    batch = len(first)
    with torch.autocast(first.device.type, enabled=False):
        views = F.normalize(torch.cat([first, second]).float(), dim=1)
        cosines = views @ views.T
    cosines = cosines.masked_fill(
        torch.eye(2 * batch, dtype=torch.bool, device=first.device), -torch.inf
    )
    return cosines, torch.arange(2 * batch, device=first.device).roll(batch)
