"""Updates per second of stage 3 as it runs, beside an earlier state of the code.

    git worktree add --detach ../before COMMIT
    uv run python -m benchmarks.stage3 --pretrain output/ptretrain/bc/quick --before ../before \
        [--config config_files/rl/config_demo.yaml] [--seconds 60] [--pairs 3] [--busy]

Each arm is a real run: collector processes, evaluations and saves as the configuration says. They
take turns, first one, then the other first, so that other load on the machine meets both; the ratio
is that of the two runs of a pair. Without `--before` the arms are numbers of learner threads, 1 and
2. `--busy` lets a process compute beside each run. Prints one JSON object as its last line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import paired_difference

HERE = Path(__file__).resolve().parents[1]
CHILD = HERE / "benchmarks" / "stage3_phases.py"
BUSY_LOOP = "while True: pass"


@dataclass(frozen=True)
class Arm:
    """One of the two things that are compared.

    Attributes:
        name: in the report.
        folder: of the code.
        options: overrides of the configuration.
        policy: how threads wait, a value of `OMP_WAIT_POLICY`; None leaves it to OpenMP.
    """

    name: str
    folder: Path
    options: tuple[str, ...] = ()
    policy: str | None = "passive"


def arms(args: argparse.Namespace) -> tuple[Arm, Arm]:
    """Return the first arm, and the one whose ratio to it is reported."""
    if args.before is None:
        one, two = (
            Arm(f"{n} threads", HERE, (f"performance.learner_threads={n}",), policy)
            for n, policy in ((1, "passive"), (2, args.policy))
        )
        return one, two
    before = Arm("before", args.before.resolve(), tuple(args.before_set), None)
    return before, Arm("now", HERE, tuple(args.now_set))


def run_arm(arm: Arm, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one run of an arm."""
    with tempfile.TemporaryDirectory() as name:
        options = [
            f"output_dir={name}/rl",
            f"tensorboard_dir={name}/tensorboard",
            "limits.max_minutes=60",
            *args.overrides,
            *arm.options,
        ]
        # Without the folder of this file in the path, where `rl` is a benchmark.
        command = [
            sys.executable,
            "-P",
            str(CHILD),
            str(args.seconds),
            "--config",
            str(args.config),
        ]
        if args.pretrain is not None:
            command += ["--pretrain", str(args.pretrain.resolve())]
        for option in options:
            command += ["--set", option]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment["PYTHONPATH"] = str(arm.folder)
        if arm.policy is not None:
            environment["OMP_WAIT_POLICY"] = arm.policy
        with busy_process(args.busy):
            done = subprocess.run(
                command, cwd=arm.folder, env=environment, capture_output=True, text=True
            )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"updates"')]
    if not lines:
        raise RuntimeError(f"{arm.name} measured nothing:\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """Let a process of the same priority compute meanwhile, if `wanted`."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY_LOOP])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def rates(rows: list[dict[str, Any]]) -> list[float]:
    """Return the updates per second of each run."""
    return [row["updates"] / row["seconds"] for row in rows]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rates, and the share of the seconds of each phase, over the runs of one arm."""
    seconds = sum(row["seconds"] for row in rows)
    names = {name for row in rows for name in row["phases"]}
    share = {
        name: round(sum(row["phases"].get(name, [0, 0.0, 0.0])[1] for row in rows) / seconds, 4)
        for name in names
    }
    updates = sum(row["updates"] for row in rows)
    return {
        "updates_per_s": [round(rate, 3) for rate in rates(rows)],
        "frames_per_s": round(sum(row["frames"] for row in rows) / seconds, 1),
        "cpu_s_per_update": round(sum(row["cpu_seconds"] for row in rows) / max(updates, 1), 4),
        "share_of_seconds": dict(sorted(share.items(), key=lambda item: -item[1])),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="folder of an earlier state of the code")
    parser.add_argument("--before-set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--now-set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--policy", choices=("passive", "active"), default="passive")
    parser.add_argument("--config", type=Path, default=Path("config_files/rl/config_demo.yaml"))
    parser.add_argument("--pretrain", type=Path)
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run, start apart")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="beside a process that computes")
    args = parser.parse_args()
    first, second = arms(args)
    rows: dict[str, list[dict[str, Any]]] = {first.name: [], second.name: []}
    for pair in range(args.pairs):
        for arm in (first, second) if pair % 2 == 0 else (second, first):
            rows[arm.name].append(run_arm(arm, args))
            print(arm.name, json.dumps(rows[arm.name][-1]), flush=True)
    before, after = rates(rows[first.name]), rates(rows[second.name])
    report: dict[str, Any] = {
        "benchmark": "stage3",
        "config": args.config.name,
        "busy": args.busy,
        "cores": os.cpu_count(),
        "arms": {name: summary(found) for name, found in rows.items()},
        "ratios": [round(b / a, 3) for a, b in zip(before, after, strict=True)],
        "ratio": round(float(np.exp(np.mean(np.log(after)) - np.mean(np.log(before)))), 3),
    }
    if args.pairs > 1:
        found = paired_difference(list(np.log(before)), list(np.log(after)))
        report["interval"] = [round(float(np.exp(limit)), 3) for limit in found.interval]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
