"""Pictures of what the visual stage has learnt."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import image as mpl_image

from datasets.contract.files import atomic_path

SCALE = 3
GAP = 4


def save_reconstructions(
    path: Path, originals: npt.NDArray[np.uint8], painted: npt.NDArray[np.uint8], columns: int = 8
) -> None:
    """Save originals with their reconstructions right below, as a PNG.

    Args:
        path: of the picture.
        originals: (n, H, W) frames.
        painted: (n, H, W) reconstructions.
        columns: pairs per row.
    """
    pairs = np.concatenate([originals, painted], axis=1)
    pairs = np.pad(pairs, ((0, 0), (0, GAP), (0, GAP)), constant_values=255)
    missing = -len(pairs) % columns
    pairs = np.concatenate([pairs, np.full((missing, *pairs.shape[1:]), 255, dtype=np.uint8)])
    rows = [
        np.concatenate(list(pairs[first : first + columns]), axis=1)
        for first in range(0, len(pairs), columns)
    ]
    picture = np.kron(np.concatenate(rows), np.ones((SCALE, SCALE), dtype=np.uint8))
    with atomic_path(path) as temporary:
        mpl_image.imsave(temporary, picture, cmap="gray", vmin=0, vmax=255, format="png")
