"""`rulka-pipeline data`: record, describe and check datasets; make reference lines."""

import argparse
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from datasets.contract.actions import ACTION_NAMES, TICK_MS
from datasets.contract.files import check_output
from pipeline.commands import (
    capture_command,
    drive_command,
    import_command,
    minari_command,
    validate_command,
)
from pipeline.commands.options import output_path, path_argument
from pipeline.commands.stage_commands import Commands
from pipeline.printing import PlainConsole, say

if TYPE_CHECKING:
    from datasets.reader import ReplayFile

logger = logging.getLogger(__name__)


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `data` with its subcommands."""
    data = commands.add_parser(
        "data", help="record, describe and check datasets of replays; make lines"
    )
    subcommands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    drive_command.add_parser(subcommands)
    info = subcommands.add_parser("info", help="print what is in a dataset")
    info.add_argument("file", type=path_argument, help="dataset file, or folder of shards")
    info.add_argument("--json", action="store_true", help="print one JSON object instead")
    info.add_argument("--skip-bad", action="store_true", help="leave out bad shards, and say so")
    info.set_defaults(run=run_info)
    validate_command.add_parser(subcommands)
    _add_line(subcommands)
    import_command.add_parser(subcommands)
    capture_command.add_parsers(subcommands)
    minari_command.add_export_parser(subcommands)
    minari_command.add_import_parser(subcommands)


def _add_line(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    line = subcommands.add_parser(
        "line", help="make a reference line of the best run of a training, for reference_line_path"
    )
    line.add_argument(
        "source",
        type=path_argument,
        metavar="RUN",
        help="run folder; or a folder of its best_runs, or the .inputs in one",
    )
    line.add_argument(
        "--out", type=output_path, required=True, metavar="X.npy", help="file to write"
    )
    line.add_argument("--map", metavar="NAME", help="short name, if there are runs on several maps")
    line.add_argument(
        "--spacing", type=float, default=0.5, metavar="M", help="metres; default: %(default)s"
    )
    line.add_argument("--overwrite", action="store_true", help="replace an existing output")
    line.set_defaults(run=run_line)


def run_line(arguments: argparse.Namespace) -> int:
    """Make a reference line of a driven run."""
    from pipeline.driven_line import write_line

    check_output(arguments.out, overwrite=arguments.overwrite)
    line = write_line(
        arguments.source, arguments.out, map_name=arguments.map, spacing_m=arguments.spacing
    )
    say(
        f"{arguments.out}: {line.map_name} as driven in {line.race_time_ms / 1000:.2f} s, "
        f"{len(line.points):,} points {arguments.spacing:g} m apart"
    )
    return 0


def run_info(arguments: argparse.Namespace) -> int:
    """Print what is in a dataset."""
    from datasets.content import check_content
    from datasets.reader import ReplayFile

    with ReplayFile(arguments.file, skip_bad=arguments.skip_bad) as file:
        check_content(file)
        facts = describe(file)
    if arguments.json:
        print(json.dumps(facts, indent=2, allow_nan=False))
    else:
        _print_info(facts)
    return 0


def describe(file: "ReplayFile") -> dict[str, Any]:
    """Return what is in a dataset, as plain JSON values; times in ms, of finished replays."""
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
        "labels_differ": round(float((file.label_actions != file.actions).mean()), 5)
        if file.has_labels
        else None,
        "actions": {
            name: round(float(count) / max(int(ticks.sum()), 1), 5)
            for name, count in zip(ACTION_NAMES, ticks, strict=True)
        },
        "parameters": dict(file.spec.parameters),
    }


def _times(rows: Any) -> dict[str, Any]:
    times = rows["race_time_ms"][rows["finished"]]
    known = len(times) > 0
    skill = rows["skill"][~np.isnan(rows["skill"])]  # unknown for human drivers
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
    console = PlainConsole()
    height, width = facts["image_size"]
    console.print(
        f"{facts['path']}: {facts['replays']:,} replays, {facts['frames']:,} frames "
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
    if facts["labels_differ"] is not None:
        console.print(f"labelled otherwise than driven: {facts['labels_differ']:.1%} of the time")
    console.print(f"identity {facts['identity']}")
    if facts["skipped_shards"]:
        console.print(Text(f"{len(facts['skipped_shards'])} bad shards skipped", "yellow"))
