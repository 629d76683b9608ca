"""Columns sorted by tag."""

import numpy as np
import numpy.typing as npt

from pipeline.analysis.events.jit import compiled


@compiled
def group_by_tag(
    tags: npt.NDArray[np.int32],
    steps: npt.NDArray[np.int64],
    walls: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    n_tags: int,
) -> tuple[
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
]:
    """Return columns sorted by tag, in the order of writing within a tag.

    Args:
        tags: (N,) tag numbers.
        steps: (N,).
        walls: (N,).
        values: (N,).
        n_tags: T.

    Returns:
        Starts (T + 1,) of each tag's part, then steps, walls and values (N,).
    """
    starts = np.zeros(n_tags + 1, np.int64)
    for tag in tags:
        starts[tag + 1] += 1
    starts = np.cumsum(starts)
    place = starts[:-1].copy()
    sorted_steps, sorted_walls = np.empty_like(steps), np.empty_like(walls)
    sorted_values = np.empty_like(values)
    for i in range(len(tags)):
        at = place[tags[i]]
        place[tags[i]] += 1
        sorted_steps[at], sorted_walls[at], sorted_values[at] = steps[i], walls[i], values[i]
    return starts, sorted_steps, sorted_walls, sorted_values
