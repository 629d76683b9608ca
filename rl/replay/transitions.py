"""Transitions of a sample: where they lie in the memory, and as a batch of torch tensors.

Batches are gathered into buffers that are used again.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl.replay.ring import Slots


class TransitionIndex(NamedTuple):
    """Where the B transitions of a sample lie in the ring."""

    slots: Slots
    """(B,) of s."""
    places: Slots
    """(B, n_steps) of the observations from s on."""
    next_slots: Slots
    """(B,) of s'."""
    length: Slots
    """(B,) actions n from s to s'."""
    rewarded: Slots
    """(B,) actions whose rewards count, at most n."""
    terminal: npt.NDArray[np.bool_]
    """(B,) whether nothing is bootstrapped from s'."""
    clock: Slots
    """(B,) elapsed actions of the mini-race at s, 0 without mini-races."""


@dataclass(slots=True)
class Batch:
    """B transitions (s, a, r, discount, s').

    The tensors of a batch from a replay memory are overwritten by the next one of the same size.
    """

    frames: Tensor
    """(B, 1, H, W) uint8."""
    floats: Tensor
    """(B, F) float32, the mini-race clock in feature 0."""
    actions: Tensor
    """(B,) int64."""
    rewards: Tensor
    """(B,) float32, n-step sums with the potentials' difference."""
    discounts: Tensor
    """(B,) float32, gamma^n; 0 where the transition is terminal."""
    next_frames: Tensor
    """(B, 1, H, W) uint8."""
    next_floats: Tensor
    """(B, F) float32."""
    weights: Tensor
    """(B,) float32 importance weights, 1 for uniform sampling."""
    slots: Tensor
    """(B,) int64 places in the memory."""
    clock: Tensor
    """(B,) int64 elapsed actions of the mini-race at s, 0 without mini-races."""
    next_preferences: Tensor | None = None
    """(B, A) float16 log preferences of the prior at s'; None without a prior."""
    images: Tensor | None = None
    """(B, D) float32 features of a frozen image encoder at s; None if it is trained."""
    next_images: Tensor | None = None
    """(B, D) float32, the same at s'."""

    @classmethod
    def empty(
        cls,
        size: int,
        image_hw: tuple[int, int],
        n_floats: int,
        *,
        pin: bool,
        preferences: int | None = None,
        images: int | None = None,
    ) -> Self:
        """Buffers for `size` transitions, in page-locked memory if `pin`.

        Args:
            size: B.
            image_hw: height and width of a frame in pixels.
            n_floats: F.
            pin: use page-locked memory.
            preferences: A, actions that a prior has preferences of; None without a prior.
            images: D, features of a frozen image encoder; None if it is trained.
        """

        def new(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=pin)

        def optional(width: int | None, dtype: torch.dtype) -> Tensor | None:
            return None if width is None else new(size, width, dtype=dtype)

        return cls(
            frames=new(size, 1, *image_hw, dtype=torch.uint8),
            floats=new(size, n_floats, dtype=torch.float32),
            actions=new(size, dtype=torch.int64),
            rewards=new(size, dtype=torch.float32),
            discounts=new(size, dtype=torch.float32),
            next_frames=new(size, 1, *image_hw, dtype=torch.uint8),
            next_floats=new(size, n_floats, dtype=torch.float32),
            weights=new(size, dtype=torch.float32),
            slots=new(size, dtype=torch.int64),
            clock=new(size, dtype=torch.int64),
            next_preferences=optional(preferences, torch.float16),
            images=optional(images, torch.float32),
            next_images=optional(images, torch.float32),
        )

    def __len__(self) -> int:
        """Return the number of transitions B."""
        return len(self.actions)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device; itself if it is there already."""
        if self.frames.device == device:
            return self
        return self._map(lambda tensor: tensor.to(device))

    def without_images(self) -> "Batch":
        """Return the batch without features of an image encoder, which has to be asked then."""
        return self if self.images is None else replace(self, images=None, next_images=None)

    def clone(self) -> "Batch":
        """Return a copy that later batches do not overwrite."""
        return self._map(Tensor.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            changed[field.name] = None if tensor is None else change(tensor)
        return Batch(**changed)
