"""Ridge regression from sums of products: one pass over the data, memory of one matrix."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried per target, relative to features of variance 1."""
_TINY: Final = 1e-12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over samples of the products of (1, features, targets).

    Attributes:
        sums: (1 + D + T, 1 + D + T) float64.
        n_targets: T.
    """

    sums: Floats
    n_targets: int

    @classmethod
    def empty(cls, n_features: int, n_targets: int) -> Self:
        """Of no samples."""
        size = 1 + n_features + n_targets
        return cls(np.zeros((size, size)), n_targets)

    def add(self, features: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> None:
        """Take in (n, D) features and their (n, T) targets."""
        rows = np.concatenate([np.ones((len(features), 1)), features, targets], axis=1)
        self.sums[...] += rows.T @ rows

    def __add__(self, other: Self) -> "Moments":
        return Moments(self.sums + other.sums, self.n_targets)

    @property
    def count(self) -> float:
        """Samples taken in."""
        return float(self.sums[0, 0])

    @property
    def covariance(self) -> Floats:
        """(D + T, D + T) of features and targets."""
        mean = self.sums[0, 1:] / self.count
        return np.asarray(self.sums[1:, 1:] / self.count - np.outer(mean, mean))


def r2_of(weights: Floats, held_out: Moments) -> Floats:
    """Share of the variance of each target that a linear map explains on held-out samples.

    Args:
        weights: (1 + D, T), the intercept first.
        held_out: of the samples to judge by.

    Returns:
        (T,); 0 is as good as their mean, NaN for a target that does not vary.
    """
    n_targets = held_out.n_targets
    errors = np.concatenate([weights, -np.eye(n_targets)])
    squares = np.einsum("it,ij,jt->t", errors, held_out.sums, errors, optimize=True)
    variance = np.diag(held_out.covariance)[-n_targets:]
    total = np.where(variance > _TINY, variance * held_out.count, np.nan)
    return np.asarray(1.0 - squares / total)


def fit_ridge(moments: Moments, penalty: float) -> Floats:
    """Weights (1 + D, T), the intercept first, of ridge regression on standardised features.

    Features that do not vary get weight 0.
    """
    covariance, n_targets = moments.covariance, moments.n_targets
    n_features = len(covariance) - n_targets
    variance = np.diag(covariance)[:n_features]
    scale = np.where(variance > _TINY, np.sqrt(np.maximum(variance, _TINY)), np.inf)
    correlation = covariance[:n_features, :n_features] / np.outer(scale, scale)
    correlation[np.diag_indices(n_features)] += penalty
    wanted = covariance[:n_features, n_features:] / scale[:, None]
    slopes = np.linalg.solve(correlation, wanted) / scale[:, None]
    mean = moments.sums[0, 1:] / moments.count
    intercept = mean[n_features:] - mean[:n_features] @ slopes
    return np.concatenate([intercept[None], slopes])


def held_out_r2(fit: Moments, choose: Moments, held_out: Moments) -> Floats:
    """R2 (T,) on held-out samples, with the penalty of each target chosen on others.

    Args:
        fit: samples to fit each penalty on.
        choose: samples to choose the penalty by; then both are fitted together.
        held_out: samples to report on.
    """
    tried = np.stack([r2_of(fit_ridge(fit, penalty), choose) for penalty in PENALTIES])
    best = np.argmax(np.nan_to_num(tried, nan=-np.inf), axis=0)
    together = fit + choose
    scores = {i: r2_of(fit_ridge(together, PENALTIES[i]), held_out) for i in set(best.tolist())}
    return np.array([scores[i][target] for target, i in enumerate(best.tolist())])
