"""Values that change over the frames driven: pure interpolation between set points.

A schedule is a sequence of (step, value), sorted by step. The value before the first point is the
first one, after the last point the last one.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import TypeVar

Points = Sequence[tuple[float, float]]
Value = TypeVar("Value")


def check_points(points: Sequence[tuple[float, object]], name: str) -> None:
    """Raise unless the schedule can be evaluated.

    Raises:
        ValueError: no points, a negative step, or steps that do not increase.
    """
    steps = [point[0] for point in points]
    if not steps:
        raise ValueError(f"{name} needs at least one [step, value] point")
    if steps[0] < 0:
        raise ValueError(f"{name} starts at the negative step {steps[0]:g}")
    for before, after in itertools.pairwise(steps):
        if after <= before:
            raise ValueError(f"{name} is out of order: step {after:g} comes after step {before:g}")


def staircase(points: Sequence[tuple[float, Value]], step: float) -> Value:
    """Value of the last point whose step is not after `step`."""
    index = bisect.bisect_right([point[0] for point in points], step) - 1
    return points[max(index, 0)][1]


def linear(points: Points, step: float) -> float:
    """Straight lines between the points."""
    (start, low), (end, high), share = _segment(points, step)
    return low if start == end else low + (high - low) * share


def exponential(points: Points, step: float) -> float:
    """Geometric interpolation between the points; a straight line where a segment touches 0."""
    (start, low), (end, high), share = _segment(points, step)
    if start == end or low == high:
        return low
    if low <= 0.0 or high <= 0.0:
        return low + (high - low) * share
    return float(low * (high / low) ** share)


def _segment(points: Points, step: float) -> tuple[tuple[float, float], tuple[float, float], float]:
    """The points around `step` and how far between them it lies, in [0, 1]."""
    index = bisect.bisect_right([point[0] for point in points], step)
    if index == 0:
        return points[0], points[0], 0.0
    if index == len(points):
        return points[-1], points[-1], 0.0
    before, after = points[index - 1], points[index]
    return before, after, (step - before[0]) / (after[0] - before[0])
