"""Do products in bfloat16 change what is learnt? Equal updates in float32 and in bfloat16.

    uv run python -m benchmarks.precision --pretrain output/demo/bc/demo --emulate

For each seed one serial run in each format: the same network, the same number of updates, and so
the same number of observations. Evaluations of equal number drive from the same starts in both. A
run counts by the mean time of its evaluations in the last half of the updates, over finished races,
and by the share of races that finished. Results are appended to `results.jsonl` below --runs as
runs end; the same command continues an interrupted run and adds the missing ones. The last line is
one JSON object: paired differences, their spread, and the difference that this number of seeds
could have detected.

On a CPU without bfloat16 units PyTorch rounds in software. `--emulate` multiplies rounded operands
in float32 instead (benchmarks/rounded_products.py), which is faster and gives the same values up to
the order of additions.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.json_lines import append_line, read_lines
from benchmarks.paired import paired_difference
from benchmarks.rounded_products import RoundedProducts
from datasets.contract.csv_log import read_csv
from rl.config.experiment import RLConfig, load_rl_config
from rl.run.folder import RunFolder
from rl.training.train import train

CONFIG: Final = Path("config_files/rl/config_demo.yaml")
ARMS: Final = ("float32", "bfloat16")
MEASURES: Final = ("mean_ms", "finish_rate")
EVALUATIONS: Final = 6
"""Periodic evaluations of a run, evenly spaced."""
RESULTS: Final = "results.jsonl"


def main() -> None:
    """Train the missing runs, one after another, and compare the arms."""
    arguments = _parse()
    results = arguments.runs / RESULTS
    for seed in arguments.seeds:
        for arm in ARMS:
            if (seed, arm) not in {(row["seed"], row["arm"]) for row in read_lines(results)}:
                append_line(results, train_arm(arm, seed, arguments))
    rows = [row for row in read_lines(results) if row["seed"] in arguments.seeds]
    settings = {"updates": arguments.updates, "kappa": arguments.kappa}
    print(json.dumps({"benchmark": "precision", **settings, **compare(rows), "runs": rows}))


def train_arm(arm: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one seed in one number format, or continue it, and return its result.

    Args:
        arm: `float32` or `bfloat16`.
        seed: of the run.
        arguments: of the command line.
    """
    folder = RunFolder(arguments.runs / f"{arm}_{seed}")
    config = config_of(arm, seed, arguments)
    emulated = arguments.emulate and arm == "bfloat16"
    cpu = time.process_time()
    resume = folder.root if folder.has_checkpoint else None
    pretrain = arguments.pretrain if resume is None else None
    with contextlib.ExitStack() as stack:
        if emulated:
            stack.enter_context(RoundedProducts())
        limit = arguments.updates
        result = train(config, resume=resume, pretrain=pretrain, max_grad_steps=limit)
    if result.interrupted:
        raise SystemExit(f"{folder.root}: {result.stopped}; the same command continues it")
    return {
        "arm": arm,
        "seed": seed,
        "emulated": emulated,
        "updates": result.grad_steps,
        "frames": result.frames,
        "cpu_s": round(time.process_time() - cpu, 1),
        "cpu_is_of_all": resume is None,
        **measure(read_csv(folder.evaluations), arguments.updates),
    }


def config_of(arm: str, seed: int, arguments: argparse.Namespace) -> RLConfig:
    """Return the configuration of one run.

    Evaluations are spaced by observations, since those follow from the updates in a serial run.
    """
    plain = load_rl_config(arguments.config, arguments.overrides)
    uses = plain.number_times_single_memory_is_used_before_discard
    frames = arguments.updates * plain.batch_size // uses
    overrides = [
        *arguments.overrides,
        f"seed={seed}",
        f"run_name={arm}_{seed}",
        f"output_dir={arguments.runs}",
        f"tensorboard_dir={arguments.runs / 'tensorboard'}",
        f"nn.iqn.kappa={arguments.kappa}",
        f"performance.precision={arm}",
        "performance.serial=true",
        "evaluation.every_s=null",
        f"evaluation.every_frames={max(frames // EVALUATIONS, 1)}",
        "evaluation.champion=false",
        "limits.max_minutes=null",
    ]
    return load_rl_config(arguments.config, overrides)


def measure(rows: Sequence[Mapping[str, str]], updates: int) -> dict[str, Any]:
    """Return what a run's evaluations say of its last half.

    Args:
        rows: of `evaluations.csv`.
        updates: of the whole run.

    Returns:
        Mean over evaluations of `mean_ms` (None if no race finished) and `finish_rate`, their
        number, and the mean times of all evaluations in order.
    """
    trained = [row for row in rows if row["kind"] == "screening" and row["weights"] != "pretrained"]
    late = [row for row in trained if 2 * int(row["grad_steps"]) >= updates]
    times = [float(row["mean_ms"]) for row in late if row["mean_ms"]]
    return {
        "mean_ms": float(np.mean(times)) if times else None,
        "finish_rate": float(np.mean([float(row["finish_rate"]) for row in late])),
        "evaluations": len(late),
        "all_mean_ms": [float(row["mean_ms"]) if row["mean_ms"] else None for row in trained],
    }


def compare(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the paired differences, bfloat16 less float32, of each measure.

    Seeds that only one arm has, or that have no time in one of them, are left out of a measure and
    counted by its `pairs`; a measure with fewer than two pairs is null.
    """
    by_arm = {arm: {row["seed"]: row for row in rows if row["arm"] == arm} for arm in ARMS}
    found: dict[str, Any] = {}
    for name in MEASURES:
        first, second = ({s: row[name] for s, row in by_arm[arm].items()} for arm in ARMS)
        seeds = [s for s in first if first[s] is not None and second.get(s) is not None]
        if len(seeds) < 2:
            found[name] = None
            continue
        values = [first[s] for s in seeds], [second[s] for s in seeds]
        difference = paired_difference(*values)
        spreads = {
            f"{arm}_spread": float(np.std(v, ddof=1)) for arm, v in zip(ARMS, values, strict=True)
        }
        means = {arm: float(np.mean(v)) for arm, v in zip(ARMS, values, strict=True)}
        found[name] = {
            **means,
            **spreads,
            **asdict(difference),
            "is_detected": difference.is_detected,
        }
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="K=V")
    parser.add_argument("--pretrain", type=Path, help="folder of a bc run; default: from scratch")
    parser.add_argument("--kappa", type=float, default=0.005, help="Huber width, reward units")
    parser.add_argument("--updates", type=int, default=400, help="of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--emulate", action="store_true", help="see above")
    parser.add_argument("--runs", type=Path, default=Path("output/benchmarks/precision"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
