"""Speed of the learner's step, of its plain form, and of sampling, in one process.

    uv run python -m benchmarks.learner [--threads 1 2] [--device auto] [--batch 512] [--rounds 12]

The forms take turns, so that other load on the machine meets all of them. Prints one JSON object
as its last line.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.plain_learner import PlainLearner
from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD, N_FLOATS
from rl.config.experiment import RLConfig
from rl.learning.learner import Learner
from rl.network.devices import resolve_device
from rl.replay.memory import ReplayMemory
from rl.replay.rollout import Rollout
from rl.replay.transitions import Batch

ROLLOUT_STEPS = 500
MEMORY_SLOTS = 20_000
LEARNING_RATE = 1e-4


def synthetic_rollout(seed: int, image_hw: tuple[int, int]) -> Rollout:
    """Return a run of random observations of the usual shapes."""
    rng = np.random.default_rng(seed)
    steps = ROLLOUT_STEPS
    floats = FLOAT_MEAN + FLOAT_STD * rng.standard_normal((steps + 1, N_FLOATS), dtype=np.float32)
    frames = rng.integers(0, 256, (steps + 1, *image_hw), dtype=np.uint8)
    return Rollout(
        track="benchmark",
        is_exploration=True,
        fill_buffer=True,
        seed=seed,
        weights_version=0,
        frames=frames[:-1],
        floats=floats[:-1],
        actions=rng.integers(0, N_ACTIONS, steps).astype(np.uint8),
        action_was_greedy=rng.random(steps) < 0.9,
        q_values=np.zeros((steps, N_ACTIONS), dtype=np.float32),
        meters=np.cumsum(rng.random(steps + 1)),
        time_ms=50 * np.arange(steps + 1, dtype=np.int32),
        next_frame=frames[-1],
        next_floats=floats[-1],
        finished=False,
        race_time_ms=300_000,
    )


def filled_memory(config: RLConfig) -> ReplayMemory:
    """Return a memory with more runs than it holds."""
    image_hw = config.network.image_hw
    memory = ReplayMemory(MEMORY_SLOTS, image_hw, N_FLOATS, config)
    rng = np.random.default_rng(0)
    for seed in range(MEMORY_SLOTS // ROLLOUT_STEPS + 1):
        rewards = rng.normal(0.0, 0.03, ROLLOUT_STEPS).astype(np.float32)
        memory.add(synthetic_rollout(seed, image_hw), rewards, rng)
    return memory


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Duration of one call, the device's work included."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def take_turns(
    calls: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each call, after a warm-up."""
    for call in calls.values():
        seconds(call, device)
        seconds(call, device)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds(call, device))
    return {name: float(np.median(times)) for name, times in taken.items()}


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measured multiply-add rate of a large matrix product, in floating point operations/s."""
    n = 1024 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    repeats = 4 if device.type == "cpu" else 20

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(a, a)

    multiply()
    return repeats * 2.0 * n**3 / min(seconds(multiply, device) for _ in range(5))


def step_flops(learner: Learner, batch: Batch) -> float:
    """Floating point operations of one step's matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        learner.step(batch, learning_rate=LEARNING_RATE)
    return float(counter.get_total_flops())


def measure(config: RLConfig, args: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return samples per second of all forms with one number of threads."""
    torch.set_num_threads(threads)
    device = resolve_device(args.device)
    memory, rng = filled_memory(config), np.random.default_rng(0)
    forms = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    compiled = device.type == "cuda"
    learners = {
        name: Learner(
            config.network, config, config.btr, device=device, dtype=dtype, compiled=compiled
        )
        for name, dtype in forms.items()
    }
    reference = learners["float32"]
    plain = PlainLearner(config.network, config, dict(reference.online.state_dict()))
    generator = torch.Generator().manual_seed(0)
    batch = memory.sample(args.batch, rng, gamma=0.999).clone()

    def plain_step() -> float:
        taus = reference.objective.draw_taus(args.batch, generator, device)
        return plain.step(batch.to(device), taus, LEARNING_RATE)

    def our_step(learner: Learner) -> Callable[[], object]:
        return lambda: learner.step(batch, learning_rate=LEARNING_RATE)

    calls: dict[str, Callable[[], object]] = {"plain": plain_step}
    calls |= {name: our_step(learner) for name, learner in learners.items()}
    calls["sampling"] = lambda: memory.sample(args.batch, rng, gamma=0.999)
    taken = take_turns(calls, args.rounds, device)
    eager = Learner(config.network, config, config.btr, device=device)
    flops = step_flops(eager, batch)
    result: dict[str, Any] = {"threads": threads, "device": device.type}
    for name in ("plain", *learners):
        result[f"{name}_samples_per_s"] = round(args.batch / taken[name], 1)
    for name, dtype in forms.items():
        result[f"{name}_speedup"] = round(taken["plain"] / taken[name], 3)
        rate = flops / taken[name] / matmul_flops(device, dtype)
        result[f"{name}_fraction_of_matmul_rate"] = round(rate, 3)
        result[f"{name}_sampling_share"] = round(taken["sampling"] / taken[name], 4)
    result["sampling_ms"] = round(1e3 * taken["sampling"], 3)
    result["bytes_per_transition"] = memory.bytes_per_transition
    return result


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    config = RLConfig()
    results = [measure(config, args, threads) for threads in args.threads]
    print(json.dumps({"benchmark": "learner", "batch": args.batch, "results": results}))


if __name__ == "__main__":
    main()
