"""Two ways to use a second core for an update, in turns with one thread.

    uv run python -m benchmarks.learner_threads [--rounds 8] [--busy]

`two threads`: products are shared by two threads. `target ahead`: a second thread computes what the
next update needs of the target network, always one update old. Each round makes two updates in each
form; ratios are medians over the rounds. It runs once with passive waiting and once with OpenMP's
own choice, in processes of their own, because OpenMP reads it when torch is loaded. `--busy` lets a
process compute beside them. Prints one JSON object as its last line.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.learner import LEARNING_RATE, filled_memory
from benchmarks.stage3 import busy_process
from rl.config.experiment import load_rl_config
from rl.learning.learner import Learner
from rl.replay.transitions import Batch
from rl.run.heap import keep_freed_memory

CONFIG = Path("config_files/rl/config_quick.yaml")
UPDATES = 2


class HeldTarget:
    """Stands for the target network: quantiles that were computed before."""

    def __init__(self, quantiles: Tensor) -> None:
        self._held = quantiles

    def features(self, frames: Tensor, floats: Tensor, image: Tensor | None = None) -> Tensor:
        """Return nothing of use."""
        return floats

    def quantiles(self, features: Tensor, taus: Tensor) -> Tensor:
        """Return the (B, M, A) quantiles that are held."""
        return self._held


class AheadLearner:
    """Updates whose targets a second thread computed during the update before."""

    def __init__(self, learner: Learner, batch: Batch) -> None:
        """Compute the first targets.

        Args:
            learner: its loss is replaced.
            batch: of every update.
        """
        self._learner, self._batch = learner, batch
        self._taus = learner.objective.draw_taus(len(batch), learner.generator, learner.device)
        self._pool = ThreadPoolExecutor(1)
        self._held = self._target()
        objective = learner.objective

        def loss(online: Any, target: Any, *rest: Any) -> Any:
            return objective(online, HeldTarget(self._held), *rest)  # type: ignore[arg-type]

        learner._loss = loss  # type: ignore[assignment]

    @torch.no_grad()
    def _target(self) -> Tensor:
        target, batch = self._learner.target, self._batch
        features = target.features(batch.next_frames, batch.next_floats)
        return target.quantiles(features, self._taus.target)

    def step(self) -> None:
        """Make one update; the target network follows while its next values are computed."""
        ahead = self._pool.submit(self._target)
        self._learner.step(self._batch, learning_rate=LEARNING_RATE)
        self._held = ahead.result()


def measure(rounds: int) -> dict[str, Any]:
    """Return seconds and CPU seconds of an update in each form."""
    keep_freed_memory()
    cfg = load_rl_config(CONFIG, [])
    memory = filled_memory(cfg)
    batch = memory.sample(cfg.batch_size, np.random.default_rng(0), gamma=0.99).clone()

    def learner() -> Learner:
        return Learner(cfg.network, cfg, cfg.btr, averaging_decay=cfg.averaging.decay)

    plain, ahead = learner(), AheadLearner(learner(), batch)

    def step() -> None:
        plain.step(batch, learning_rate=LEARNING_RATE)

    forms: dict[str, tuple[int, Callable[[], None]]] = {
        "one thread": (1, step),
        "two threads": (2, step),
        "target ahead": (1, ahead.step),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for round_ in range(rounds):
        for name in list(forms) if round_ % 2 else list(forms)[::-1]:
            threads, call = forms[name]
            torch.set_num_threads(threads)
            call()
            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(UPDATES):
                call()
            seconds = (time.perf_counter() - began, time.process_time() - cpu)
            taken[name].append((seconds[0] / UPDATES, seconds[1] / UPDATES))
    return _summary(taken)


def _summary(taken: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    one = np.array(taken["one thread"])
    result: dict[str, Any] = {}
    for name, values in taken.items():
        found = np.array(values)
        result[name] = {
            "ms": round(1e3 * float(np.median(found[:, 0])), 1),
            "cpu_ms": round(1e3 * float(np.median(found[:, 1])), 1),
            "speed_ratio": round(float(np.median(one[:, 0] / found[:, 0])), 3),
            "cpu_ratio": round(float(np.median(found[:, 1] / one[:, 1])), 3),
        }
    return result


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--busy", action="store_true", help="beside a process that computes")
    parser.add_argument("--child", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.rounds)))
        return
    report: dict[str, Any] = {"benchmark": "learner_threads", "busy": args.busy}
    for policy in ("passive", None):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        if policy is not None:
            environment["OMP_WAIT_POLICY"] = policy
        command = [sys.executable, "-m", "benchmarks.learner_threads", "--child"]
        with busy_process(args.busy):
            done = subprocess.run(
                [*command, "--rounds", str(args.rounds)],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        report[policy or "default"] = json.loads(done.stdout.splitlines()[-1])
        report["load_average"] = round(os.getloadavg()[0], 1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
