"""Pictures of what behavioural cloning has learnt."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datasets.contract.actions import ACTION_NAMES
from datasets.contract.files import atomic_path
from pretrain.bc.temperature import Reliability


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


def save_reliability(path: Path, curves: Mapping[str, Reliability], title: str) -> None:
    """Save a reliability diagram as a PNG: confidence against accuracy, and how many of each.

    Args:
        path: of the picture.
        curves: by what the legend calls them.
        title: above the diagram.
    """
    figure = Figure(figsize=(6.5, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="calibrated")
    for name, curve in curves.items():
        some = curve.count > 0
        upper.plot(
            curve.confidence[some],
            curve.accuracy[some],
            marker="o",
            label=f"{name}: error {curve.error:.3f}",
        )
        share = curve.count / curve.count.sum()
        lower.stairs(share.numpy(), curve.edges.numpy())
    upper.set_ylabel("share of right predictions")
    upper.set_title(title)
    upper.legend()
    lower.set_xlabel("confidence of the prediction")
    lower.set_ylabel("share of frames")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
