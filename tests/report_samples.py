"""Run folders for tests of the report: kept races of scripted drivers, configuration, logs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.contract.config import dump_config
from datasets.contract.files import write_json
from rl.config.experiment import load_rl_config
from rl.envs.registry import find_track
from rl.evaluation.best_runs import save_best_run
from rl.evaluation.greedy import DrivenRun, evaluate_drivers
from rl.run.folder import RunFolder
from tests.event_samples import Entry, race, write_events

MAP = "s"
"""Short name of the map; its track is the straight line of `tests.rl_samples`."""


def kept_run(line: Path, skill: str, seed: int) -> DrivenRun:
    """A race of a scripted driver from a varied start."""
    best = evaluate_drivers(find_track(str(line)), skill, starts=1, seed=seed).best_run
    assert best is not None
    return DrivenRun(MAP, best.start_seed, best.start_noise, best.race_time_ms, best.actions)


def write_run(
    root: Path, name: str, line: Path, run: DrivenRun | None, *, lr: float = 0.001
) -> RunFolder:
    """Write the folder of a run: configuration, a kept race, reports and machine."""
    folder = RunFolder(root / "rl" / name)
    entries = f"[{{short_name: {MAP}, map_path: '{line}', is_exploration: true}}]"
    settings = [
        f"map_cycle.entries={entries}",
        f"tensorboard_dir={root / 'tensorboard'}",
        f"lr_schedule=[[0, {lr}]]",
    ]
    dump_config(load_rl_config(None, settings), folder.config)
    if run is not None:
        save_best_run(folder.best_runs, run, {"run": name})
    part: dict[str, Any] = {"part": "vis", "source": f"{name}</script>.pt", "frozen": True}
    write_json(folder.injection_report, {"label": "whole policy", "parts": [part]})
    write_json(folder.calibration_report, {"gain": 0.25, "gain_source": "fitted"})
    machine = {"from_frames": 0, "cpu": "A & B", "cores": 2, "packages": {"torch": "2.0"}}
    write_json(folder.machine, [machine])
    result = {"track": MAP, "starts": 64, "finish_rate": 0.5, "mean_ms": 9876.0, "best_ms": None}
    write_json(folder.best / "pretrain_meta.json", {"metrics": {"results": [result]}})
    return folder


def write_logs(root: Path, name: str, times_s: Sequence[float | None]) -> Path:
    """Write the logs of a run, one greedy race and one loss a minute."""
    entries: list[Entry] = []
    for minute, time_s in enumerate(times_s):
        entries += race(60.0 * minute, 100 * minute + 1, time_s, track=MAP)
        loss = float("nan") if minute == 1 else 1.0 / (minute + 1)
        entries.append(Entry(60.0 * minute, 100 * minute + 1, "Training/loss", loss))
    return write_events(root / "tensorboard" / name, entries)
