"""Statistics of paired measurements: the mean difference, its interval, what could be detected."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

SIGNIFICANCE: Final = 0.05
"""Two-sided probability of a false alarm."""
POWER: Final = 0.8
"""Probability with which a difference of the detectable size is found."""
_GRID: Final = 40_001


@dataclass(frozen=True)
class PairedDifference:
    """Differences of P pairs, second less first, in the unit of the measurements.

    Attributes:
        pairs: number P.
        mean: mean difference.
        spread: standard deviation of the differences (P - 1 degrees of freedom).
        interval: 95 % confidence interval of the mean difference.
        detectable: size of a true difference that a two-sided test at 5 % finds with 80 % power:
            (t(0.975) + t(0.8)) * spread / sqrt(P).
    """

    pairs: int
    mean: float
    spread: float
    interval: tuple[float, float]
    detectable: float

    @property
    def is_detected(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval[0] > 0.0 or self.interval[1] < 0.0


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Compare two measurements of the same P subjects.

    Raises:
        ValueError: fewer than two pairs, or sequences of different lengths.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"expected two or more pairs, got {len(first)} and {len(second)} values")
    differences = np.subtract(second, first)
    pairs, mean = len(differences), float(differences.mean())
    spread = float(differences.std(ddof=1))
    error = spread / pairs**0.5
    limit = student_quantile(1.0 - SIGNIFICANCE / 2, pairs - 1)
    detectable = (limit + student_quantile(POWER, pairs - 1)) * error
    return PairedDifference(
        pairs, mean, spread, (mean - limit * error, mean + limit * error), detectable
    )


@functools.cache
def student_quantile(probability: float, freedom: int) -> float:
    """Return a quantile above the median of Student's distribution, to about four digits.

    With t = sqrt(f) tan(angle) the density (1 + t^2 / f)^(-(f + 1) / 2) dt is cos(angle)^(f - 1).

    Args:
        probability: from 0.5 to 1, both excluded.
        freedom: degrees of freedom f, at least 1.
    """
    angles = np.linspace(0.0, np.pi / 2, _GRID)
    density = np.cos(angles) ** (freedom - 1)
    areas = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2))
    share = areas / areas[-1]
    angle = np.interp(2.0 * probability - 1.0, share, angles)
    return float(freedom**0.5 * np.tan(angle))
