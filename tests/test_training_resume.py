"""A serial run that is saved and resumed equals one that was never interrupted, bit for bit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl.checkpoint import load_checkpoint
from rl.segments import SegmentStore
from rl.training import train
from tests.rl_samples import tiny_config

WALL_CLOCK = {"training_seconds", "first_finish_s", "_started_at", "since_seconds"}


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


@pytest.mark.parametrize("stops", [(23,), (11, 34)])
def test_resumed_serial_run_equals_an_uninterrupted_one(
    tmp_path: Path, stops: tuple[int, ...]
) -> None:
    train(tiny_config(tmp_path, run_name="whole"), max_grad_steps=46)
    parts = tiny_config(tmp_path, run_name="parts")
    run = tmp_path / "rl" / "parts"
    train(parts, max_grad_steps=stops[0])
    for stop in (*stops[1:], 46):
        torch.manual_seed(stop)  # what another process would have
        train(parts, resume=run, max_grad_steps=stop)
    whole, resumed = saved(tmp_path / "rl" / "whole"), saved(run)
    # The end of each call evaluates, which the uninterrupted run does once.
    for state in (whole, resumed):
        del state["champion"], state["state"]["evaluations"]
    assert differences(whole, resumed) == []
    assert whole["state"]["memory"]["total"] > 300  # the memory was overwritten meanwhile


SCRIPT = """
import sys
from pathlib import Path
from rl.training import train
from tests.rl_samples import tiny_config
cfg = tiny_config(Path(sys.argv[1]), run_name="killed", save_every_minutes=0.002)
train(cfg, max_grad_steps=100_000)
"""


def test_killed_run_goes_on_from_its_last_save(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    run = tmp_path / "rl" / "killed"
    try:
        while not (run / "checkpoints" / "000006").exists():
            assert process.poll() is None
    finally:
        process.kill()
    process.wait()
    _, parts, _ = load_checkpoint(run / "checkpoints")
    steps = parts["learner"]["counters"]["grad_steps"] + 15
    train(tiny_config(tmp_path, run_name="killed"), resume=run, max_grad_steps=steps)
    train(tiny_config(tmp_path, run_name="whole"), max_grad_steps=steps)
    ours, theirs = saved(run), saved(tmp_path / "rl" / "whole")
    for part in ("learner", "collector", "rows"):
        assert differences(ours[part], theirs[part], part) == []
