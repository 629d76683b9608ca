"""Where numbers go: TensorBoard under the experiments' tags, and `metrics.csv`."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

SUMMARY_QUANTILES: Final = {
    "q1": 0.25,
    "median": 0.5,
    "q3": 0.75,
    "d9": 0.9,
    "d98": 0.98,
    "max": 1.0,
}


class TensorBoardLog:
    """Scalars in `<folder>/<run><suffix>`, where the suffix follows a schedule."""

    def __init__(self, folder: Path, run_name: str, *, purge_after: int | None = None) -> None:
        """Prepare to write; a log folder is opened with its first scalar.

        Args:
            folder: of all logs.
            run_name: first part of the log folder's name.
            purge_after: on a resume, frames after which older entries are hidden.
        """
        self._folder = Path(folder)
        self._run_name = run_name
        self._purge_after = purge_after
        self._suffix: str | None = None
        self._writer: SummaryWriter | None = None

    def scalars(self, values: Mapping[str, float], frames: int, suffix: str = "") -> None:
        """Write scalars at a step of `frames` observations."""
        writer = self._open(suffix)
        for tag, value in values.items():
            writer.add_scalar(tag, value, frames)

    def text(self, tag: str, text: str, frames: int) -> None:
        """Write a text to the folder in use."""
        self._open(self._suffix or "").add_text(tag, text, frames)

    def close(self) -> None:
        """Flush and close the log folder in use."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, suffix: str) -> SummaryWriter:
        if self._writer is None or suffix != self._suffix:
            self.close()
            path = str(self._folder / f"{self._run_name}{suffix}")
            self._writer = SummaryWriter(path, purge_step=self._purge_after)
            self._suffix, self._purge_after = suffix, None
        return self._writer


class IntervalMeans:
    """Collects numbers between two reports."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value to each of some names."""
        for name, value in values.items():
            self._values[name].append(value)

    def take(self) -> dict[str, npt.NDArray[np.float64]]:
        """All values by name, and start anew."""
        taken = {name: np.array(values) for name, values in self._values.items()}
        self._values.clear()
        return taken


def quantiles(values: npt.NDArray[np.floating], prefix: str) -> dict[str, float]:
    """Quartiles and upper quantiles of some values, by tag `<prefix>_<name>`."""
    if not len(values):
        return {}
    found = np.quantile(values, list(SUMMARY_QUANTILES.values()))
    return {
        f"{prefix}_{name}": float(value)
        for name, value in zip(SUMMARY_QUANTILES, found, strict=True)
    }


def priority_tags(priorities: npt.NDArray[np.float64]) -> dict[str, float]:
    """Spread of the replay priorities; nothing for uniform replay."""
    if not len(priorities):
        return {}
    names = {"min": 0.0, "q1": 0.1, "median": 0.5, "q3": 0.75, "d9": 0.9, "c98": 0.98, "max": 1.0}
    found = np.quantile(priorities, list(names.values()))
    tags = {f"Buffer/priorities_{n}": float(v) for n, v in zip(names, found, strict=True)}
    tags["Buffer/priorities_mean"] = float(priorities.mean())
    return tags


def weight_tags(network: nn.Module) -> dict[str, float]:
    """L2 norm of each parameter, by tag."""
    return {
        f"Network/weights/{name.removeprefix('_orig_mod.')}/L2": float(p.detach().norm())
        for name, p in network.named_parameters()
    }
