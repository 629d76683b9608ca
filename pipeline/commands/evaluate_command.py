"""`rulka-pipeline eval`: how well a policy drives, beside the scripted drivers."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.options import path_argument, positive_int, seed
from pipeline.commands.stage_commands import Commands, add_legacy_input
from pipeline.saved_policies import cut_offs, policy_folder, trained_track

if TYPE_CHECKING:
    from rl.evaluation.best_known import BestKnown
    from rl.evaluation.greedy import EvaluationResult

DEFAULT_TRACK = "A01"
COMPARED_DRIVERS = ("novice", "amateur", "good", "expert")


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parser of `eval`."""
    parser = commands.add_parser("eval", help="drive a policy greedily and compare with drivers")
    parser.add_argument("policy", type=path_argument, metavar="ARTIFACT_OR_RUN")
    parser.add_argument(
        "--track",
        help="name, random:SEED or a .npy line; default: the map that a run of rl was trained on, "
        f"else {DEFAULT_TRACK}, as with several maps or one that the simulator lacks",
    )
    parser.add_argument(
        "--episodes", type=positive_int, default=32, metavar="N", help="runs, default 32"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the starts' variation")
    add_legacy_input(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run_eval)


def run_eval(arguments: argparse.Namespace) -> int:
    """Evaluate the policy and the scripted drivers on the same starts."""
    from datasets.contract.memory import MemoryNeed, check_memory, machine_memory
    from rl.config.network import NetworkConfig
    from rl.config.network_size import observation_bytes
    from rl.envs.registry import find_track
    from rl.evaluation.best_known import best_known
    from rl.evaluation.greedy import evaluate, evaluate_drivers
    from rl.reporting.progress import ProgressBar
    from rl.transfer.load_policy import load_policy

    trained = trained_track(arguments.policy) if arguments.track is None else None
    track = trained or find_track(arguments.track or DEFAULT_TRACK)
    folder = policy_folder(arguments.policy)
    legacy = arguments.legacy_input
    # Files without metadata do not say which network they belong to: it can only be the usual one.
    usual = None if legacy is None else NetworkConfig()
    network = load_policy(folder, legacy_input=legacy, network=usual)
    starts = arguments.episodes
    observed = starts * observation_bytes(network.config)
    check_memory([MemoryNeed("what the cars see", observed, "--episodes")], machine_memory())
    with ProgressBar(f"driving {arguments.episodes} runs on {track.name}") as bar:
        policy = evaluate(
            network,
            track,
            starts=starts,
            seed=arguments.seed,
            **cut_offs(arguments.policy),
            watch=bar.update,
        )
    drivers = {
        name: evaluate_drivers(track, name, starts=starts, seed=arguments.seed)
        for name in COMPARED_DRIVERS
    }
    limit = best_known(track)
    if arguments.json:
        report = _report(track.name, policy, drivers, folder, limit)
        print(json.dumps(report, allow_nan=False))
    else:
        _print_table(track.name, policy, drivers, folder, limit)
    return 0


def _report(
    track: str,
    policy: "EvaluationResult",
    drivers: "dict[str, EvaluationResult]",
    path: Path,
    limit: "BestKnown",
) -> dict[str, Any]:
    def of(result: "EvaluationResult") -> dict[str, Any]:
        above = limit.above_percent(result.exact_ms)
        return {**result.to_json(), "above_best_known_percent": above}

    return {
        "track": track,
        "policy_file": path.as_posix(),
        "policy": of(policy),
        "drivers": {name: of(result) for name, result in drivers.items()},
        "best_known": limit.to_json(),
    }


def _print_table(
    track: str,
    policy: "EvaluationResult",
    drivers: "dict[str, EvaluationResult]",
    path: Path,
    limit: "BestKnown",
) -> None:
    from rich.table import Table

    from pipeline.printing import PlainConsole

    caption = "\n".join(line for line in (limit.describe(policy.exact_ms), path.as_posix()) if line)
    table = Table(title=f"{track}, {policy.starts} varied starts", caption=caption)
    table.add_column("driver")
    fastest = f"fastest of {policy.starts}"
    for title in ("finished", "mean", "median", "spread (std)", fastest, "exact start"):
        table.add_column(title, justify="right")
    for name, result in {"policy": policy, **drivers}.items():
        times = (result.mean_ms, result.median_ms, result.std_ms, result.best_ms, result.exact_ms)
        table.add_row(name, f"{result.finish_rate:.0%}", *(seconds(time) for time in times))
    if limit.race_time_ms is not None:
        table.add_row("best known lap", *[""] * 5, seconds(limit.race_time_ms))
    PlainConsole().print(table)


def seconds(milliseconds: float | None) -> str:
    """Show a time as seconds with two decimals, `-` if there is none."""
    return "-" if milliseconds is None else f"{milliseconds / 1000:.2f} s"
