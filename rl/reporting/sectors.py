"""The parts that a track is timed in: it has no checkpoints."""

from typing import Final

import numpy as np
import numpy.typing as npt

N_SPLITS: Final = 8
"""Parts of equal length."""


def sector_marks(start_m: float, length_m: float) -> npt.NDArray[np.float64]:
    """Return the (N_SPLITS - 1,) metres along the line at which one part ends and the next begins.

    Args:
        start_m: metres along the line at the start.
        length_m: of the line, from start to finish.
    """
    marks: npt.NDArray[np.float64] = start_m + length_m * np.arange(1, N_SPLITS) / N_SPLITS
    return marks


def sector_seconds(
    meters: npt.NDArray[np.floating],
    time_ms: npt.NDArray[np.number],
    *,
    start_m: float,
    length_m: float,
    finish_ms: int | None,
) -> list[float]:
    """Return the seconds that a run took for each part of the line that it completed.

    The marks lie at equal fractions of the line; the last part ends at the finish, so that the
    parts of a finished run add up to its race time.

    Args:
        meters: (T,) progress along the line at each observation.
        time_ms: (T,) race time of each observation, increasing.
        start_m: metres along the line at the start.
        length_m: of the line.
        finish_ms: race time at the finish; None of a run that did not finish.
    """
    furthest = np.maximum.accumulate(meters)
    times = time_ms.astype(np.float64)
    passed = [0.0]
    for mark in sector_marks(start_m, length_m):
        after = int(np.searchsorted(furthest, mark))
        if after == len(furthest):
            break
        before = max(after - 1, 0)
        pair = slice(before, after + 1)
        passed.append(float(np.interp(mark, furthest[pair], times[pair])))
    if finish_ms is not None:
        passed.append(float(finish_ms))
    return [float(part) / 1000.0 for part in np.diff(passed)]
