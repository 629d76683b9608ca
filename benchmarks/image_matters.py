"""Does the picture matter? Behavioural cloning on A01 with and without it, at equal budget.

    uv run python -m benchmarks.image_matters

Both arms see the same replays, the same floats and as many optimiser steps; the blind arm has no
image encoder. The last line is one JSON object.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track as progress

from datasets.contract.config import load_config
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from pretrain.bc.config import BCConfig
from pretrain.bc.train import run
from rl.envs.registry import find_track
from rl.evaluation.greedy import EvaluationResult, evaluate
from rl.transfer.load_policy import load_policy

CONFIG = Path("config_files/pretrain/bc/pretrain_config_bc_demo.yaml")
TRACK = "A01"
STARTS = 64
ARMS = {"image": True, "blind": False}


def main() -> None:
    """Train and drive each arm with each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks/image_matters"))
    parser.add_argument("--replays", type=int, default=80)
    parser.add_argument("--driver", default="expert", help="who is imitated; experts look ahead")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads, default all")
    arguments = parser.parse_args()
    logging.getLogger("pretrain").setLevel(logging.WARNING)
    dataset = arguments.out / f"{TRACK}_{arguments.driver}_{arguments.replays}.h5"
    if not dataset.exists():
        drive_dataset(dataset, DriveRequest((TRACK,), arguments.replays, arguments.driver))
    rounds = [(seed, arm) for seed in range(arguments.seeds) for arm in ARMS]
    results: dict[str, list[EvaluationResult]] = {arm: [] for arm in ARMS}
    for seed, arm in progress(rounds, "cloning and driving"):
        results[arm].append(_clone_and_drive(dataset, arm, seed, arguments))
    print(json.dumps(_report(results, arguments)))


def _clone_and_drive(
    dataset: Path, arm: str, seed: int, arguments: argparse.Namespace
) -> EvaluationResult:
    overrides = [
        f"dataset={dataset}",
        f"output_dir={arguments.out}",
        f"run_name={arm}_{seed}",
        f"nn.use_image_head={str(ARMS[arm]).lower()}",
        "encoder_init_path=null",
        f"seed={seed}",
        f"epochs={arguments.epochs}",
        "max_minutes=null",
        "early_stopping=false",
        "overwrite=true",
        f"num_threads={arguments.threads or 'null'}",
    ]
    folder = run(load_config(BCConfig, CONFIG, overrides))
    return evaluate(load_policy(folder), find_track(TRACK), starts=STARTS, seed=seed)


def _report(
    results: dict[str, list[EvaluationResult]], arguments: argparse.Namespace
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "benchmark": "image_matters",
        "track": TRACK,
        "starts": STARTS,
        "replays": arguments.replays,
        "driver": arguments.driver,
        "epochs": arguments.epochs,
    }
    for arm, runs in results.items():
        means = [run.mean_ms for run in runs if run.mean_ms is not None]
        report[arm] = {
            "finish_rate": [round(run.finish_rate, 3) for run in runs],
            "mean_ms": [None if run.mean_ms is None else round(run.mean_ms) for run in runs],
            "finish_rate_mean": round(float(np.mean([run.finish_rate for run in runs])), 3),
            "mean_ms_mean": round(float(np.mean(means))) if means else None,
        }
    return report


if __name__ == "__main__":
    main()
