"""Networks that follow the online one: the target network and the averaged weights."""

import torch
from torch import Tensor, nn

WARM_UP = 10


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, rate: float) -> None:
    """Move the follower's parameters towards the leader's by `rate`, and copy its buffers.

    Args:
        follower: changed in place; of the same architecture.
        leader: the online network.
        rate: 0 to 1; 1 copies.
    """
    ours: list[Tensor] = list(follower.parameters())
    theirs: list[Tensor] = list(leader.parameters())
    if rate >= 1.0:
        torch._foreach_copy_(ours, theirs)
    else:
        torch._foreach_lerp_(ours, theirs, rate)
    for mine, other in zip(follower.buffers(), leader.buffers(), strict=True):
        mine.copy_(other)


def average_rate(decay: float, updates: int) -> float:
    """Rate of the running average after `updates` updates; early ones forget the start faster."""
    return 1.0 - min(decay, (1.0 + updates) / (WARM_UP + updates))


@torch.no_grad()
def blend(kept: Tensor, fresh: Tensor, share: float) -> None:
    """Mix `share` of `fresh` into `kept`, in place."""
    kept.lerp_(fresh.to(kept.device), share)
