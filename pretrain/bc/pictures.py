"""Pictures of what behavioural cloning has learnt."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datasets.contract.actions import ACTION_NAMES
from datasets.contract.files import atomic_path


def save_confusion(path: Path, counts: npt.NDArray[np.int64], title: str) -> None:
    """Save a confusion matrix as a PNG, each row as shares of its true action.

    Args:
        path: of the picture.
        counts: (A, A) true action by predicted action.
        title: above the matrix.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure = Figure(figsize=(8.5, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(counts))
    axes.set_xticks(places, ACTION_NAMES, rotation=45, ha="right")
    axes.set_yticks(
        places,
        [f"{name} ({total})" for name, total in zip(ACTION_NAMES, totals[:, 0], strict=True)],
    )
    for row in places:
        for column in places:
            if counts[row, column]:
                share = shares[row, column]
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=color)
    axes.set_xlabel("predicted action")
    axes.set_ylabel("action of the driver (frames)")
    axes.set_title(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
