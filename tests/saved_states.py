"""Saved states of runs: read whole, and compared."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.replay.segments import SegmentStore
from rl.run.checkpoint import load_checkpoint

WALL_CLOCK = {
    "training_seconds",
    "cpu_seconds",
    "setup_seconds",
    "setup_cpu_seconds",
    "calibration_seconds",
    "first_finish_s",
    "_started_at",
    "since_seconds",
}


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two saved states differ, wall-clock fields apart."""
    if path.rsplit(".", 1)[-1] in WALL_CLOCK:
        return []
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [path]
        return [d for key in ours for d in differences(ours[key], theirs[key], f"{path}.{key}")]
    if isinstance(ours, list):
        pairs = zip(ours, theirs, strict=True)
        return [d for i, pair in enumerate(pairs) for d in differences(*pair, f"{path}.{i}")]
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [path]
    if isinstance(ours, np.ndarray):
        return [] if np.array_equal(ours, theirs) else [path]
    return [] if ours == theirs else [path]


def saved(run: Path) -> dict[str, Any]:
    """Everything of a run's last checkpoint, with the memory's rows put together."""
    _, parts, segments = load_checkpoint(run / "checkpoints")
    store = SegmentStore(run / "checkpoints")
    rows: dict[str, list[torch.Tensor]] = {}
    oldest, total = parts["state"]["memory"]["oldest"], parts["state"]["memory"]["total"]
    place = oldest
    for segment in segments:
        for name, column in torch.load(store.path(segment), weights_only=True).items():
            rows.setdefault(name, []).append(column[place - segment.first :])
        place = segment.end
    assert place == total
    return {**parts, "rows": {name: torch.cat(columns) for name, columns in rows.items()}}


class Crashing:
    """A value that no checkpoint can hold."""

    def __reduce__(self) -> str:
        raise TypeError("crashes while it is saved")
