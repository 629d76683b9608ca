"""Training over the socket beside training without it: one car, equal settings, several seeds.

    python -m benchmarks.game_training --pretrain output/ptretrain/bc/quick --frames 150000

Both arms start from the same cloned policy on `short`, without varied starts. The mean greedy lap
of a run is that of the greedy entries of its map cycle in the last tenth of its frames, which both
arms drive alike; champions are not compared, since each arm chooses its own among other races.
The same command again goes on where it was interrupted.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.game_link import served_game
from datasets.contract.files import read_json
from pipeline.analysis.run_log import read_runs
from rl.config.experiment import load_rl_config
from rl.envs.registry import find_track
from rl.run.folder import RunFolder
from rl.training.train import train

ARMS: Final = ("socket", "direct")
BAR: Final = 0.04
LAST_SHARE: Final = 0.1
T_975: Final = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 8: 2.306, 10: 2.228}
"""Quantile of Student's t by degrees of freedom."""


def overrides(out: Path, arm: str, seed: int, port: int, line: Path) -> list[str]:
    """Keys of one run; both arms differ in where they drive alone."""
    entry = {"short_name": "short", "map_path": "short", "reference_line_path": str(line)}
    cycle = [
        {**entry, "is_exploration": True, "repeat": 8},
        {**entry, "is_exploration": False},
    ]
    values: dict[str, Any] = {
        "run_name": f"{arm}_{seed}",
        "output_dir": str(out / "rl"),
        "tensorboard_dir": str(out / "tensorboard"),
        "seed": seed,
        "map_cycle.entries": cycle,
        "environment.start_noise": 0.0,
        "limits.max_minutes": None,
        "evaluation.every_s": None,
        "evaluation.champion": False,
        "evaluation.starts": 1,
        "evaluation.final_starts": 1,
        "performance.cars_per_collector": 1,
        "performance.collectors_count": 1,
        "env": "game" if arm == "socket" else "sim",
        "game.base_port": port,
        "game.launch": False,
    }
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def mean_greedy_s(out: Path, name: str) -> tuple[float, float]:
    """Return the mean greedy lap in s (NaN without a finish) and the share that finished."""
    (log,) = read_runs([name], out / "tensorboard", cache=None)
    finished = log.series("Race/eval_race_finished_trained_short")
    times = log.series("Race/eval_race_time_finished_trained_short")
    since = (1.0 - LAST_SHARE) * log.steps[1]
    late = times.values[times.steps >= since]
    share = finished.values[finished.steps >= since]
    mean = float(late.mean()) if len(late) else float("nan")
    return mean, float(share.mean()) if len(share) else 0.0


def run(arguments: argparse.Namespace, arm: str, seed: int, port: int, line: Path) -> None:
    """Train one run, or go on with it, and print its mean greedy lap in s."""
    keys = overrides(arguments.out, arm, seed, port, line)
    cfg = load_rl_config(arguments.config, keys)
    folder = RunFolder(arguments.out / "rl" / f"{arm}_{seed}")
    if not folder.config.exists():
        train(cfg, pretrain=arguments.pretrain, max_frames=arguments.frames)
    elif read_json(folder.stats)["cumul_number_frames_played"] < arguments.frames:
        train(cfg, resume=folder.root, max_frames=arguments.frames)
    mean, rate = mean_greedy_s(arguments.out, f"{arm}_{seed}")
    print(f"{arm} seed {seed}: {mean:.2f} s, {rate:.0%} finish", flush=True)


def main() -> int:
    """Train all runs, print the interval of the difference, and whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrain", type=Path, required=True, help="folder of a bc run")
    parser.add_argument("--config", type=Path, default=Path("config_files/rl/config_quick.yaml"))
    parser.add_argument("--frames", type=int, default=150_000)
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks/game_training"))
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help="train this run alone")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    line = arguments.out / "short.npy"
    np.save(line, find_track("short").line.points)
    with served_game("short") as port:
        if arguments.one:
            run(arguments, arguments.one[0], int(arguments.one[1]), port, line)
            return 0
        for seed in range(arguments.seeds):
            for arm in ARMS:  # each in a process of its own, as a user would
                command = [sys.executable, "-m", "benchmarks.game_training", *sys.argv[1:]]
                subprocess.run([*command, "--one", arm, str(seed)], check=True)
    seeds = range(arguments.seeds)
    found = {
        arm: np.array([mean_greedy_s(arguments.out, f"{arm}_{seed}") for seed in seeds])
        for arm in ARMS
    }
    laps = {arm: values[:, 0] for arm, values in found.items()}
    all_finish = all(bool((values[:, 1] == 1.0).all()) for values in found.values())
    relative = (laps["socket"] - laps["direct"]) / laps["direct"].mean()
    half = T_975.get(len(relative) - 1, 2.0) * relative.std(ddof=1) / np.sqrt(len(relative))
    low, high = relative.mean() - half, relative.mean() + half
    print(f"all greedy races of the last tenth finish: {'yes' if all_finish else 'no'}")
    print(f"difference of mean greedy laps: {low:+.1%} to {high:+.1%} (bar: within {BAR:.0%})")
    met = bool(np.isfinite(relative).all() and low >= -BAR and high <= BAR)
    return 0 if met and all_finish else 1


if __name__ == "__main__":
    sys.exit(main())
