"""Whether a policy's probabilities mean what they say, and the temperature that makes them.

A temperature divides the logits: it changes how sure the policy is, never what it does.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

BINS: Final = 15
_LOG_RANGE: Final = (-3.0, 3.0)
_SEARCH_STEPS: Final = 60


@dataclass(frozen=True)
class Reliability:
    """How often predictions of some confidence are right.

    Attributes:
        edges: (BINS + 1,) of the bins of confidence, 0 to 1.
        count: (BINS,) predictions in each bin.
        confidence, accuracy: (BINS,) means in each bin; 0 in an empty one.
    """

    edges: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1: the mean gap (arXiv:1706.04599, eq. 3)."""
        share = self.count / self.count.sum().clamp(min=1)
        return float((share * (self.accuracy - self.confidence).abs()).sum())


def reliability(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Reliability:
    """Compare confidence and accuracy.

    Args:
        logits: (n, A).
        labels: (n,) int64 actions.
        temperature: by which the logits are divided.
    """
    confidence, predicted = (logits.double() / temperature).softmax(dim=1).max(dim=1)
    hit = (predicted == labels).double()
    edges = torch.linspace(0.0, 1.0, BINS + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])
    count = torch.bincount(place, minlength=BINS).double()
    some = count.clamp(min=1)
    return Reliability(
        edges,
        count,
        torch.bincount(place, weights=confidence, minlength=BINS) / some,
        torch.bincount(place, weights=hit, minlength=BINS) / some,
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Fit the temperature that maximises the likelihood (arXiv:1706.04599, section 4.2).

    The likelihood has one peak in 1 / T, so a search by golden section finds it.

    Args:
        logits: (n, A), n > 0. labels: (n,) int64 actions.

    Returns: T in about 0.05 to 20.
    """
    exact = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(exact / torch.tensor(log_temperature).double().exp(), labels))

    low, high = _LOG_RANGE
    ratio = (5**0.5 - 1) / 2
    for _ in range(_SEARCH_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
        if high - low < 1e-4:
            break
    return float(torch.tensor((low + high) / 2).exp())
