"""Pictures of what the visual stage has learnt."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datasets.contract.files import atomic_path

GAP_PX = 4
INCHES_PER_FRAME = 1.25
DPI = 120

Frames = npt.NDArray[np.uint8]


def save_reconstructions(
    path: Path, originals: Frames, painted: Frames, columns: int = 8, title: str = ""
) -> None:
    """Save originals with their reconstructions right below, as a PNG.

    Args:
        path: of the picture.
        originals: (n, H, W) frames.
        painted: (n, H, W) reconstructions.
        columns: pairs per row.
        title: above the picture.
    """
    missing = -len(originals) % columns
    padding = np.full((missing, *originals.shape[1:]), 255, dtype=np.uint8)
    rows = [
        np.concatenate([frames, padding]).reshape(-1, columns, *originals.shape[1:])
        for frames in (originals, painted)
    ]
    grid = np.stack(rows, axis=1).reshape(-1, columns, *originals.shape[1:])
    _save_grid(path, grid, ["seen", "painted"] * (len(grid) // 2), [], title)


def save_traversals(
    path: Path, frames: Frames, row_labels: Sequence[str], columns: Sequence[str], title: str
) -> None:
    """Save what changes when one number of a code does, a row for each number.

    Args:
        path: of the picture.
        frames: (rows, columns, H, W) painted frames.
        row_labels: of the numbers of the code.
        columns: what the number is in each of them.
        title: above the picture.
    """
    _save_grid(path, frames, row_labels, columns, title)


def save_neighbours(
    path: Path,
    frames: Frames,
    row_labels: Sequence[str],
    notes: Sequence[Sequence[str]],
    title: str,
) -> None:
    """Save frames, each with its nearest neighbours beside it.

    Args:
        path: of the picture.
        frames: (rows, 1 + k, H, W), the frame that was looked for first.
        row_labels: of the rows.
        notes: (rows, 1 + k) one line on each frame.
        title: above the picture.
    """
    columns = ["frame", *(f"nearest {i}" for i in range(1, frames.shape[1]))]
    _save_grid(path, frames, row_labels, columns, title, notes)


def _save_grid(
    path: Path,
    frames: Frames,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    notes: Sequence[Sequence[str]] = (),
) -> None:
    rows, columns, height, width = frames.shape
    below = GAP_PX + (round(0.16 * height) if notes else 0)
    padded = np.pad(frames, ((0, 0), (0, 0), (0, below), (0, GAP_PX)), constant_values=255)
    picture = padded.transpose(0, 2, 1, 3).reshape(rows * (height + below), -1)
    size = (
        INCHES_PER_FRAME * columns * (1 + GAP_PX / width) + 1.2,
        INCHES_PER_FRAME * rows * (height + below) / width + 0.8,
    )
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    steps = (height + below, width + GAP_PX)
    axes.set_yticks([(height - 1) / 2 + steps[0] * i for i in range(rows)], row_labels)
    places = [(width - 1) / 2 + steps[1] * i for i in range(len(column_labels))]
    axes.set_xticks(places, column_labels)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    for row, line in enumerate(notes):
        for column, note in enumerate(line):
            place = (steps[1] * column + width / 2, steps[0] * row + height + 1)
            axes.text(*place, note, ha="center", va="top", fontsize=8)
    axes.set_title(title, fontsize=10, pad=22 if column_labels else 6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", bbox_inches="tight")
