"""Numbers of a run at checkpoints of time or steps: since the start, and since the last checkpoint.

All routines take an axis: one number for each entry, sorted, in minutes or steps. A checkpoint c
counts the entries at or before c; its interval those after the checkpoint before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDING: Final = 1e-6
"""Share of a checkpoint by which an entry may lie behind it: hours are logged as 32-bit floats."""
COLLAPSE_SHARE: Final = 0.5
"""An interval's finish rate at or under this share of the best one before it is a collapse."""
LEAST_RUNS: Final = 4
"""Runs in an interval from which on its finish rate is judged."""
LEAST_RATE: Final = 0.2
"""Best interval rate from which on a fall is judged."""


@dataclass(frozen=True)
class Entries:
    """Values along an axis.

    Attributes:
        at: (N,) minutes or steps, sorted.
        values: (N,).
    """

    at: Floats
    values: Floats

    def finite(self) -> "Entries":
        """Return the entries whose values are finite."""
        fine = np.isfinite(self.values)
        return self if fine.all() else Entries(self.at[fine], self.values[fine])

    def counts(self, checkpoints: Floats) -> npt.NDArray[np.int64]:
        """Return how many entries each checkpoint counts."""
        return np.searchsorted(self.at, _with_rounding(checkpoints), side="right")


def _with_rounding(checkpoints: Floats) -> Floats:
    found: Floats = checkpoints + ROUNDING * np.maximum(np.abs(checkpoints), 1.0)
    return found


@dataclass(frozen=True)
class RaceEntries:
    """Runs that were driven.

    Attributes:
        times: race time of each run in s, 300 without a finish.
        finished: 1 or 0 for each run; None if the tag has no such partner.
        finished_times: race times of finished runs alone in s; None likewise.
    """

    times: Entries
    finished: Entries | None
    finished_times: Entries | None


@dataclass(frozen=True)
class RaceNumbers:
    """Race times at a checkpoint; None where nothing was driven or the tag cannot tell.

    Attributes:
        runs: driven since the start.
        best: least time in s since the start, 300 if none finished.
        mean: of all times since the start in s, 300 for those without a finish.
        std: standard deviation of the same (divided by N).
        best_finished: least time of a finished run since the start in s.
        finish_rate: share of finished runs since the start, in [0, 1].
        first_finish: where on the axis the first run finished, None before.
        interval_runs: driven since the last checkpoint.
        interval_best: as `best`, since the last checkpoint.
        interval_mean: as `mean`.
        interval_std: as `std`.
        interval_mean_finished: mean time of the finished runs in s.
        interval_rate: as `finish_rate`.
    """

    runs: int
    best: float | None
    mean: float | None
    std: float | None
    best_finished: float | None
    finish_rate: float | None
    first_finish: float | None
    interval_runs: int
    interval_best: float | None
    interval_mean: float | None
    interval_std: float | None
    interval_mean_finished: float | None
    interval_rate: float | None


class _Sums:
    """Counts, means and extremes of any range of entries."""

    def __init__(self, entries: Entries, checkpoints: Floats) -> None:
        entries = entries.finite()
        self._values = entries.values
        # About a middle value, so that squares of nearly equal times keep their digits. A whole
        # number leaves sums of 0 and 1 exact.
        self._middle = float(np.rint(entries.values.mean())) if len(entries.values) else 0.0
        off = entries.values - self._middle
        self._sum = np.concatenate([[0.0], np.cumsum(off)])
        self._squares = np.concatenate([[0.0], np.cumsum(off * off)])
        self._ends = entries.counts(checkpoints)
        least = np.minimum.accumulate(entries.values) if len(entries.values) else entries.values
        self._least = np.concatenate([[np.inf], least])

    def range(self, index: int, *, interval: bool) -> tuple[int, int]:
        """Return the entries of a checkpoint, or of its interval, as (low, high)."""
        low = int(self._ends[index - 1]) if interval and index else 0
        return low, int(self._ends[index])

    def mean(self, low: int, high: int) -> float | None:
        if high <= low:
            return None
        return self._middle + float(self._sum[high] - self._sum[low]) / (high - low)

    def std(self, low: int, high: int) -> float | None:
        if high <= low:
            return None
        mean = float(self._sum[high] - self._sum[low]) / (high - low)
        square = float(self._squares[high] - self._squares[low]) / (high - low)
        return float(np.sqrt(max(square - mean * mean, 0.0)))

    def least(self, low: int, high: int) -> float | None:
        if high <= low:
            return None
        return float(self._least[high]) if low == 0 else float(self._values[low:high].min())


def race_numbers(entries: RaceEntries, checkpoints: Floats) -> list[RaceNumbers]:
    """Return the numbers of a tag of race times at each checkpoint.

    Args:
        entries: runs driven.
        checkpoints: (C,) increasing, on the entries' axis.
    """
    times = _Sums(entries.times, checkpoints)
    finished = None if entries.finished is None else _Sums(entries.finished, checkpoints)
    only = None if entries.finished_times is None else _Sums(entries.finished_times, checkpoints)
    first = first_finish(entries)
    found = []
    for i, checkpoint in enumerate(_with_rounding(checkpoints)):
        whole, part = times.range(i, interval=False), times.range(i, interval=True)
        found.append(
            RaceNumbers(
                runs=whole[1],
                best=times.least(*whole),
                mean=times.mean(*whole),
                std=times.std(*whole),
                best_finished=_of(only, _Sums.least, i, interval=False),
                finish_rate=_of(finished, _Sums.mean, i, interval=False),
                first_finish=first if first is not None and first <= checkpoint else None,
                interval_runs=part[1] - part[0],
                interval_best=times.least(*part),
                interval_mean=times.mean(*part),
                interval_std=times.std(*part),
                interval_mean_finished=_of(only, _Sums.mean, i, interval=True),
                interval_rate=_of(finished, _Sums.mean, i, interval=True),
            )
        )
    return found


def _of(
    sums: _Sums | None,
    number: Callable[[_Sums, int, int], float | None],
    index: int,
    *,
    interval: bool,
) -> float | None:
    """Return a number of a checkpoint, or of its interval, None without sums."""
    return None if sums is None else number(sums, *sums.range(index, interval=interval))


def first_finish(entries: RaceEntries) -> float | None:
    """Return where on the axis the first run finished; None if none did or nothing says so."""
    if entries.finished is None:
        return None
    when = entries.finished.at[entries.finished.values >= 0.5]
    return float(when[0]) if len(when) else None


def last_values(entries: Entries, checkpoints: Floats) -> list[float | None]:
    """Return the last value at each checkpoint, NaN if that is what was logged; None before one."""
    counts = entries.counts(checkpoints)
    return [float(entries.values[n - 1]) if n else None for n in counts]


def first_at_most(entries: Entries, target: float) -> int | None:
    """Return the index of the first entry whose value is at most `target`, None without one."""
    reached = np.flatnonzero(entries.values <= target)
    return int(reached[0]) if len(reached) else None


@dataclass(frozen=True)
class Collapse:
    """An interval in which the finish rate fell by half or more.

    Attributes:
        at: the interval's checkpoint.
        rate: its finish rate, in [0, 1].
        best_before: best finish rate of an interval before it.
    """

    at: float
    rate: float
    best_before: float


def collapses(numbers: Sequence[RaceNumbers], checkpoints: Floats) -> list[Collapse]:
    """Return where the interval's finish rate fell to half of the best one before it, or lower.

    Intervals of fewer than `LEAST_RUNS` runs are passed over. A collapse is named once; the next
    one needs a rate above half of the best in between.
    """
    found: list[Collapse] = []
    best, fallen = 0.0, False
    for number, at in zip(numbers, checkpoints, strict=True):
        rate = number.interval_rate
        if rate is None or number.interval_runs < LEAST_RUNS:
            continue
        low = best >= LEAST_RATE and rate <= COLLAPSE_SHARE * best
        if low and not fallen:
            found.append(Collapse(float(at), rate, best))
        fallen, best = low, max(best, rate)
    return found
