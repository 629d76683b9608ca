"""`rulka-pipeline data`: record, describe and check datasets; make reference lines."""

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from datasets.contract.actions import ACTION_NAMES, TICK_MS
from datasets.contract.errors import UserError
from pipeline import capture_command, import_command, validate_command
from pipeline.stage_commands import Commands

if TYPE_CHECKING:
    from datasets.reader import ReplayFile

logger = logging.getLogger(__name__)


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `data` with its subcommands."""
    data = commands.add_parser(
        "data", help="record, describe and check datasets of replays; make lines"
    )
    subcommands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    _add_drive(subcommands)
    info = subcommands.add_parser("info", help="print what is in a dataset")
    info.add_argument("file", type=Path, help="dataset file, or folder of shards")
    info.add_argument("--json", action="store_true", help="print one JSON object instead")
    info.add_argument("--skip-bad", action="store_true", help="leave out bad shards, and say so")
    info.set_defaults(run=run_info)
    validate_command.add_parser(subcommands)
    _add_line(subcommands)
    import_command.add_parser(subcommands)
    capture_command.add_parsers(subcommands)


def _add_drive(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    drive = subcommands.add_parser("drive", help="let scripted drivers drive, and record them")
    drive.add_argument(
        "--tracks",
        nargs="+",
        required=True,
        metavar="TRACK",
        help="names, random:N for N generated tracks, or paths of .npy reference lines",
    )
    drive.add_argument(
        "--replays", type=int, default=200, metavar="N", help="per track; default: %(default)s"
    )
    drive.add_argument(
        "--out",
        type=Path,
        required=True,
        help="NAME.h5 for one file, a name without .h5 for a folder of shards",
    )
    drive.add_argument(
        "--driver",
        default="mixed",
        help="novice, amateur, good, expert, or mixed: skills from novice to good (default)",
    )
    drive.add_argument(
        "--skills", metavar="LO:HI", help="range of skill instead of a driver, within 0:1"
    )
    drive.add_argument("--fps", type=int, default=20, help="frames per second; default: 20")
    drive.add_argument(
        "--key-ms",
        type=int,
        default=50,
        help="ms for which a driver holds its keys, 10 or 50. An agent holds its action for 50 ms: "
        "with 50 it can repeat every recorded one, with 10 inputs change within its step as a "
        "person's do. default: 50",
    )
    drive.add_argument(
        "--image-size", type=int, default=64, metavar="PX", help="pixels of a side; default: 64"
    )
    drive.add_argument("--seed", type=int, default=0, help="of drivers and starts; default: 0")
    drive.add_argument(
        "--keep-unfinished",
        action="store_true",
        help="record runs that did not finish too; without it they are counted and driven again",
    )
    drive.add_argument("--overwrite", action="store_true", help="replace an existing output")
    drive.set_defaults(run=run_drive)


def _add_line(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    line = subcommands.add_parser(
        "line", help="make a reference line of the best run of a training, for reference_line_path"
    )
    line.add_argument(
        "source",
        type=Path,
        metavar="RUN",
        help="run folder; or a folder of its best_runs, or the .inputs in one",
    )
    line.add_argument("--out", type=Path, required=True, metavar="X.npy", help="file to write")
    line.add_argument("--map", metavar="NAME", help="short name, if there are runs on several maps")
    line.add_argument(
        "--spacing", type=float, default=0.5, metavar="M", help="metres; default: %(default)s"
    )
    line.set_defaults(run=run_line)


def run_line(arguments: argparse.Namespace) -> int:
    """Make a reference line of a driven run."""
    from pipeline.driven_line import write_line

    line = write_line(
        arguments.source, arguments.out, map_name=arguments.map, spacing_m=arguments.spacing
    )
    Console().print(
        f"{arguments.out}: {line.map_name} as driven in {line.race_time_ms / 1000:.2f} s, "
        f"{len(line.points):,} points {arguments.spacing:g} m apart",
        soft_wrap=True,
    )
    return 0


def run_drive(arguments: argparse.Namespace) -> int:
    """Drive and record; the same command continues after an interruption."""
    from pipeline.capture import drive_dataset
    from pipeline.drive_request import DriveRequest

    request = DriveRequest(
        tracks=tuple(arguments.tracks),
        replays=arguments.replays,
        driver=arguments.driver,
        skills=_parse_skills(arguments.skills),
        fps=arguments.fps,
        key_ms=arguments.key_ms,
        seed=arguments.seed,
        image_size=(arguments.image_size, arguments.image_size),
        keep_unfinished=arguments.keep_unfinished,
    )
    drive_dataset(arguments.out, request, overwrite=arguments.overwrite)
    return 0


def _parse_skills(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(f"--skills {text}: expected two numbers, such as 0.2:0.8") from error
    return low, high


def run_info(arguments: argparse.Namespace) -> int:
    """Print what is in a dataset."""
    from datasets.reader import ReplayFile

    with ReplayFile(arguments.file, skip_bad=arguments.skip_bad) as file:
        facts = describe(file)
    if arguments.json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        _print_info(facts)
    return 0


def describe(file: "ReplayFile") -> dict[str, Any]:
    """What is in a dataset, as plain JSON values; times in ms, of finished replays."""
    rows = file.replays
    ticks = file.action_histogram()
    return {
        "path": str(file.path),
        "identity": file.identity(),
        "skipped_shards": file.skipped,
        "source": file.spec.source,
        "replays": file.n_replays,
        "frames": file.n_frames,
        "image_size": list(file.image_size),
        "frame_interval_ms": file.frame_interval_ms,
        "key_ms": file.spec.key_ms,
        "hours": round(file.n_actions * TICK_MS / 3.6e6, 4),
        "unfinished": int((~rows["finished"]).sum()),
        "tracks": {track: _times(rows[rows["track"] == track]) for track in file.tracks},
        "drivers": {
            driver: _times(rows[rows["driver"] == driver])
            for driver in sorted({str(name) for name in rows["driver"]})
        },
        "actions": {
            name: round(float(count) / max(int(ticks.sum()), 1), 5)
            for name, count in zip(ACTION_NAMES, ticks, strict=True)
        },
        "parameters": dict(file.spec.parameters),
    }


def _times(rows: Any) -> dict[str, Any]:
    times = rows["race_time_ms"][rows["finished"]]
    known = len(times) > 0
    skill = rows["skill"][~np.isnan(rows["skill"])]  # nobody knows a person's
    return {
        "replays": len(rows),
        "frames": int(rows["frame_count"].sum()),
        "finished": len(times),
        "best_ms": int(times.min()) if known else None,
        "median_ms": int(np.median(times)) if known else None,
        "worst_ms": int(times.max()) if known else None,
        "skill": [round(float(f(skill)), 3) for f in (np.min, np.max)] if len(skill) else None,
    }


def _print_info(facts: dict[str, Any]) -> None:
    console = Console()
    height, width = facts["image_size"]
    console.print(
        f"[bold]{facts['path']}[/bold]: {facts['replays']:,} replays, {facts['frames']:,} frames "
        f"of {height}x{width} every {facts['frame_interval_ms']} ms, {facts['hours']:.2f} hours, "
        f"keys held for {facts['key_ms']} ms, from the {facts['source']}"
    )
    for title, key in (("track", "tracks"), ("driver", "drivers")):
        table = Table(title, "replays", "frames", "best", "median", "worst", "skill")
        for name, row in facts[key].items():
            times = (row["best_ms"], row["median_ms"], row["worst_ms"])
            seconds = ("-" if t is None else f"{t / 1000:.2f} s" for t in times)
            skill = "{:.2f} to {:.2f}".format(*row["skill"]) if row["skill"] else "-"
            table.add_row(name, f"{row['replays']:,}", f"{row['frames']:,}", *seconds, skill)
        console.print(table)
    table = Table("action", "share of the time", "")
    for name, share in facts["actions"].items():
        table.add_row(name, f"{share:.1%}", "#" * round(share * 40))
    console.print(table)
    console.print(f"identity {facts['identity']}")
    if facts["skipped_shards"]:
        console.print(f"[yellow]{len(facts['skipped_shards'])} bad shards skipped[/yellow]")
