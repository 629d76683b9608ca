"""Colours, lines and axes of curves, the same in pictures and on pages."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.analysis.checkpoint_values import Floats

COLOURS: Final = (
    "#1f77b4",  # blue
    "#ff7f0e",  # orange
    "#2ca02c",  # green
    "#d62728",  # red
    "#9467bd",  # purple
    "#8c564b",  # brown
    "#e377c2",  # pink
    "#bcbd22",  # olive
    "#17becf",  # cyan
    "#7f7f7f",  # gray
)
STYLES: Final = ("-", "--", "-.", ":")
"""As matplotlib names them."""
_SETTLED_SHARE: Final = 0.1
"""First share of each curve, in time, that may leave the picture at the top or bottom."""


def style_of(index: int) -> dict[str, Any]:
    """Return colour and line style of the run with this number: no two of 40 look the same."""
    style = STYLES[index // len(COLOURS) % len(STYLES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": style}


def settled_range(curves: Sequence[tuple[Floats, Floats]]) -> tuple[float, float] | None:
    """Return limits for the y axis that what happens after the start fills.

    A first value of 15,000 or 300 s would otherwise make a line of everything after it.

    Args:
        curves: (x, y) of each.

    Returns:
        None if there is nothing to choose.
    """
    parts = []
    for x, y in curves:
        if not len(x):
            continue
        late = x >= x[0] + _SETTLED_SHARE * (x[-1] - x[0])
        parts.append(y[late & np.isfinite(y)])
    values = np.concatenate(parts) if parts else np.zeros(0)
    if len(values) < 2 or values.max() == values.min():
        return None
    room = 0.06 * (values.max() - values.min())
    return float(values.min() - room), float(values.max() + room)
