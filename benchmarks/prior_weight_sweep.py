"""Drive the saved networks of runs at other weights of their prior: is the weight the limit, or Q?

    uv run python -m benchmarks.prior_weight_sweep output/rl/RUN...

The averaged network of each run's last checkpoint is driven greedily with its frozen prior at
several weights w: if a smaller one is faster, the ladder of the weight is the limit; if it fails,
the values are. One line of each weight; the last line is one JSON object.
"""

import argparse
import json
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.race import MAX_RACE_MS
from rl.config.experiment import load_rl_config
from rl.envs.factory import SIMULATOR
from rl.evaluation.greedy import evaluate
from rl.network.prior import PriorPolicy
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver

WEIGHTS: Final = (0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.0)
STARTS: Final = 32
SLOWEST: Final = 1.5
"""Races are cut off at this multiple of the fastest mean so far: a lost car is no news."""


def sweep(run_path: Path, weights: tuple[float, ...]) -> dict[str, dict[str, float | None]]:
    """Return finish rate and mean time in s at each weight, by track and weight.

    Raises:
        UserError: the run cannot be loaded, or has no prior.
    """
    folder = RunFolder(run_path)
    run = build_run(load_rl_config(folder.config))
    RunSaver(folder).restore(run)
    if run.prior is None:
        raise UserError(f"{run_path}: the run has no prior")
    network, _ = run.learner.network_to_evaluate(use_averaged=True)
    driver = run.driver(network)
    assert isinstance(driver, PriorPolicy)
    found: dict[str, dict[str, float | None]] = {}
    for name, track in SIMULATOR.maps(run.cfg.map_cycle.maps).items():
        longest_ms = MAX_RACE_MS
        for weight in weights:
            driver.weight.fill_(weight)
            result = evaluate(driver, track, starts=STARTS, seed=1, max_race_ms=longest_ms)
            mean = result.mean_ms
            if mean is not None and result.finish_rate == 1.0:
                longest_ms = min(longest_ms, int(SLOWEST * mean))
            seconds = None if mean is None else mean / 1000.0
            found[f"{name} {weight:g}"] = {"finish_rate": result.finish_rate, "mean_s": seconds}
            print(
                f"{run_path.name} {run.frames:,} frames, {name}, w {weight:g}: "
                f"{result.finish_rate:.0%} {'-' if seconds is None else f'{seconds:.2f} s'}",
                flush=True,
            )
    return found


def main() -> None:
    """Sweep the runs of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    runs = parser.parse_args().runs
    print(json.dumps({str(run): sweep(run, WEIGHTS) for run in runs}))


if __name__ == "__main__":
    main()
