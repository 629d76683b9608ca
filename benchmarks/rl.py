"""Speed of stage 3 as it runs: frames driven and samples learnt, by the number of collectors.

    uv run python -m benchmarks.rl [--collectors 1 2] [--track A01] [--seconds 30] [--rounds 2]

Each run is a real one: collector processes, replay memory, learner, at a fixed number of uses of
each transition. What comes before the first updates is left out. The numbers of collectors take
turns, so that other load on the machine meets all of them. Prints one JSON object as its last line.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from rl.config.experiment import RLConfig, load_rl_config
from rl.envs.factory import SIMULATOR
from rl.reporting.progress import ProgressLine
from rl.reporting.reporter import Reporter
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.run.threads import learner_threads
from rl.training.evaluations import Evaluations
from rl.training.limits import RunLimits, StopSignal
from rl.training.loop import TrainingLoop
from rl.training.setup import build_source, evaluator_setup

WARM_UP_UPDATES = 5
CONFIG = Path("config_files/rl/config_quick.yaml")


class TimedReporter(Reporter):
    """Also sums up what the learner's time went into."""

    totals: Counter[str]

    def spent(self, activity: str, seconds: float) -> None:
        """Note how the learner's time was spent."""
        self.totals[activity] += seconds  # type: ignore[assignment]
        super().spent(activity, seconds)


def configuration(args: argparse.Namespace, collectors: int, folder: Path) -> RLConfig:
    """Return the run to measure: one map, no evaluations, no saves."""
    entry = f"{{short_name: map, map_path: '{args.track}', is_exploration: true}}"
    options = {
        "output_dir": folder / "rl",
        "tensorboard_dir": folder / "tensorboard",
        "map_cycle.entries": f"[{entry}]",
        "memory_size_schedule": f"[[0, [50000, {args.memory_start}]]]",
        "number_times_single_memory_is_used_before_discard": args.uses,
        "evaluation.every_s": "null",
        "evaluation.every_frames": "null",
        "guide.enabled": "false",
        "save_every_minutes": 1e6,
        "performance.serial": "false",
        "performance.collectors_count": collectors,
        "performance.device": args.device,
    }
    return load_rl_config(args.config, [f"{key}={value}" for key, value in options.items()])


def measure(args: argparse.Namespace, collectors: int) -> Counter[str]:
    """Seconds, frames, samples and the learner's busy seconds of one run."""
    with tempfile.TemporaryDirectory() as name, ProgressLine() as progress:
        cfg = configuration(args, collectors, Path(name))
        torch.set_num_threads(learner_threads(cfg.performance))
        folder = RunFolder(Path(name) / "rl" / "run")
        folder.root.mkdir(parents=True)
        run, saver = build_run(cfg), RunSaver(folder)
        tracks = SIMULATOR.maps(cfg.map_cycle.maps)
        source, evaluator = build_source(run), evaluator_setup(run, tracks).build(run.champion)
        try:
            reporter = TimedReporter(run, folder, tracks, progress, resumed=False)
            reporter.totals = Counter()

            def go(deadline: float | None, updates: int | None) -> None:
                limits, stop = RunLimits(deadline, None, updates, None), StopSignal()
                evaluations = Evaluations(run, evaluator, None, saver, reporter)
                TrainingLoop(run, source, evaluations, saver, reporter, limits, stop).train()

            go(None, WARM_UP_UPDATES)
            reporter.totals.clear()
            began, frames, used = time.monotonic(), run.frames, run.pace.used
            go(began + args.seconds, None)
            found: Counter[str] = Counter(
                frames=run.frames - frames, samples=run.pace.used - used, runs=1
            )
            found["seconds"] = time.monotonic() - began  # type: ignore[assignment]
            found["learning"] = reporter.totals["training"] + reporter.totals["testing"]
            reporter.finish()
            reporter.close()
        finally:
            source.close()
    return found


def summary(collectors: int, found: Counter[str]) -> dict[str, float]:
    """Rates over all runs of one number of collectors."""
    seconds = float(found["seconds"])
    return {
        "collectors": collectors,
        "seconds": round(seconds, 1),
        "frames_per_s": round(found["frames"] / seconds, 1),
        "samples_per_s": round(found["samples"] / seconds, 1),
        "learner_share": round(found["learning"] / seconds, 3),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--collectors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--track", default="A01")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run, start apart")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--uses", type=int, default=2, help="of each transition")
    parser.add_argument(
        "--memory-start", type=int, default=5000, help="transitions before learning"
    )
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    totals: dict[int, Counter[str]] = {count: Counter() for count in args.collectors}
    for _ in range(args.rounds):
        for count, total in totals.items():
            total.update(measure(args, count))
    results = [summary(count, total) for count, total in totals.items()]
    first, last = results[0], results[-1]
    report = {
        "benchmark": "rl",
        "config": args.config.name,
        "track": args.track,
        "uses_per_transition": args.uses,
        "cores": os.cpu_count(),
        "results": results,
        "frames_last_to_first": round(last["frames_per_s"] / max(first["frames_per_s"], 1e-9), 3),
        "samples_last_to_first": round(
            last["samples_per_s"] / max(first["samples_per_s"], 1e-9), 3
        ),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
