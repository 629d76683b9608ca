"""Does it help to let the policy drive and be corrected? Plain cloning against rounds of DAgger.

    uv run python -m benchmarks.dagger --replays 20 --minutes 4 --rounds 3

Both arms train for the same minutes on the same first replays. The corrected arm splits them into
`rounds` + 1 parts; between two of them the policy drives, a scripted driver labels the states that
it reaches, and the next part starts from the last weights with both data (arXiv:1011.0686). The
driving comes on top and is reported; `--count-driving` gives its time to the plain arm, too. The
last line is one JSON object.
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.contract.config import load_config
from datasets.reader import ReplayFile
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from pretrain.bc.config import BCConfig
from pretrain.bc.train import run
from rl.envs.registry import find_track
from rl.evaluation.greedy import evaluate
from rl.transfer.load_policy import load_policy

CONFIG = Path("config_files/pretrain/bc/pretrain_config_bc_quick.yaml")
FRESH_STARTS_SEED = 10_000
SECONDS_PER_MINUTE = 60.0


@dataclass(frozen=True)
class Arm:
    """One arm of one seed: where it writes, and what it shares with the other."""

    name: str
    seed: int
    base: Path
    arguments: argparse.Namespace

    @property
    def folder(self) -> Path:
        """Of its runs and datasets."""
        return Path(self.arguments.out) / f"{self.name}_{self.seed}"

    def train(self, name: str, dataset: Path, minutes: float, start: Path | None) -> Path:
        """Train a part; the folder of the run."""
        encoder = self.arguments.encoder
        overrides = [
            f"dataset={dataset}",
            f"output_dir={self.folder}",
            f"run_name={name}",
            f"seed={self.seed}",
            f"max_minutes={minutes}",
            f"encoder_init_path={'null' if encoder is None or start else encoder}",
            f"init_from={'null' if start is None else start}",
            "early_stopping=false",
            "epochs=10000",
            "overwrite=true",
        ]
        if self.arguments.threads:
            overrides.append(f"num_threads={self.arguments.threads}")
        return run(load_config(BCConfig, self.arguments.config, overrides))

    def drive(self, policy: Path, number: int, out: Path) -> dict[str, Any]:
        """Let the policy drive and be labelled; how that went."""
        arguments, started = self.arguments, time.monotonic()
        request = DriveRequest(
            (arguments.track,),
            arguments.round_replays,
            driver=arguments.label_by,
            policy=policy,
            policy_share=arguments.policy_share,
            seed=1000 * self.seed + number,
        )
        summary = drive_dataset(out, request, overwrite=True)
        with ReplayFile(out) as file:
            agreement = float((file.label_actions == file.actions).mean())
        return {
            "seconds": round(time.monotonic() - started, 1),
            "finish_rate": 1 - summary.unfinished / summary.recorded,
            "agreement": round(agreement, 4),
        }

    def judge(self, policy: Path) -> dict[str, Any]:
        """Greedy runs from starts that nothing else has seen."""
        track = find_track(self.arguments.track)
        seed = FRESH_STARTS_SEED + self.seed
        return evaluate(
            load_policy(policy), track, starts=self.arguments.starts, seed=seed
        ).to_json()


def corrected(arm: Arm) -> dict[str, Any]:
    """Cloning, then rounds of driving and cloning; the time of the training is that of `plain`."""
    arguments = arm.arguments
    part = arguments.minutes / (arguments.rounds + 1)
    together = arm.folder / "data"
    together.mkdir(parents=True, exist_ok=True)
    for old in together.glob("*.h5"):
        old.unlink()
    (together / "base.h5").hardlink_to(arm.base)
    policy = arm.train("round0", together, part, None)
    rounds: list[dict[str, Any]] = [{"policy": arm.judge(policy)}]
    for number in range(1, arguments.rounds + 1):
        driving = arm.drive(policy, number, together / f"round{number}.h5")
        policy = arm.train(f"round{number}", together, part, policy)
        rounds.append({"driving": driving, "policy": arm.judge(policy)})
    driven_s = sum(entry["driving"]["seconds"] for entry in rounds[1:])
    return {"seed": arm.seed, **rounds[-1]["policy"], "driving_s": driven_s, "rounds": rounds}


def plain(arm: Arm, extra_s: float) -> dict[str, Any]:
    """Cloning of the first replays alone, `extra_s` longer."""
    minutes = arm.arguments.minutes + extra_s / SECONDS_PER_MINUTE
    return {"seed": arm.seed, **arm.judge(arm.train("whole", arm.base, minutes, None))}


def main() -> None:
    """Train and drive both arms with each seed."""
    arguments = _parse()
    logging.getLogger("pretrain").setLevel(logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {"plain": [], "corrected": []}
    medians = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        base = arguments.out / f"base_{seed}.h5"
        drive_dataset(
            base, DriveRequest((arguments.track,), arguments.replays, seed=seed), overwrite=True
        )
        with ReplayFile(base) as file:
            medians.append(float(np.median(file.replays["race_time_ms"])))
        found = corrected(Arm("corrected", seed, base, arguments))
        results["corrected"].append(found)
        extra_s = found["driving_s"] if arguments.count_driving else 0.0
        results["plain"].append(plain(Arm("plain", seed, base, arguments), extra_s))
    print(json.dumps(_report(results, medians, arguments), allow_nan=False))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks/dagger"))
    parser.add_argument("--config", type=Path, default=CONFIG, help="of cloning")
    parser.add_argument("--encoder", type=Path, help="encoder.pt that both start from")
    parser.add_argument("--track", default="A01")
    parser.add_argument("--replays", type=int, default=20, help="mixed skills, of both arms")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, of each arm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-replays", type=int, default=20, help="driven in each round")
    parser.add_argument("--label-by", default="good", help="skill of the labeller")
    parser.add_argument("--policy-share", type=float, default=1.0)
    parser.add_argument("--count-driving", action="store_true")
    parser.add_argument("--starts", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads; default: the faster number")
    return parser.parse_args()


def _report(
    results: dict[str, list[dict[str, Any]]], medians: list[float], arguments: argparse.Namespace
) -> dict[str, Any]:
    means = {}
    for arm, runs in results.items():
        times = [r["mean_ms"] / m for r, m in zip(runs, medians, strict=True) if r["mean_ms"]]
        means[arm] = {
            "finish_rate": float(np.mean([r["finish_rate"] for r in runs])),
            "mean_over_median_replay": float(np.mean(times)) if times else None,
        }
    settings = {
        name: value.as_posix() if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
    }
    return {"means": means, "median_replay_ms": medians, **results, "settings": settings}


if __name__ == "__main__":
    main()
