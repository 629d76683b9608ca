"""`rulka-pipeline data export --format minari` and `data import-minari`."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands.options import output_name, output_path, path_argument
from pipeline.printing import say

if TYPE_CHECKING:
    from pipeline.commands.stage_commands import Commands
    from pipeline.exporting.minari_files import MinariSummary


def add_export_parser(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `data export`."""
    parser = subcommands.add_parser("export", help="write a dataset in another program's format")
    parser.add_argument("file", type=path_argument, help="dataset file, or folder of shards")
    parser.add_argument("--format", choices=("minari",), required=True)
    parser.add_argument(
        "--out",
        type=output_name,
        required=True,
        metavar="NAME_OR_DIR",
        help="NAMESPACE/NAME-v0 for Minari's own folder, or a folder",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse steps of 50 ms with several actions; without it they get the most frequent",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out bad shards, and say so")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """Export, and say what became of the replays."""
    from datasets.reader import ReplayFile
    from pipeline.exporting.minari_files import export_minari

    with ReplayFile(arguments.file, skip_bad=arguments.skip_bad) as file:
        summary = export_minari(
            file, arguments.out, strict=arguments.strict, overwrite=arguments.overwrite
        )
    _tell(summary)
    return 0


def _tell(summary: "MinariSummary") -> None:
    say(
        f"{summary.path}: {summary.episodes:,} episodes, {summary.steps:,} steps, as {summary.name}"
    )
    if summary.mixed_steps:
        say(
            f"{summary.mixed_steps:,} steps ({summary.mixed_steps / summary.steps:.1%}) held "
            "several actions and got the most frequent one; all five are in infos/tick_actions"
        )
    if summary.frames_left_out:
        say(f"{summary.frames_left_out:,} frames between two steps left out")
    for reason, count in summary.left_out.items():
        say(f"{count:,} replays left out: {reason}; data validate --fix cleans", "yellow")


def add_import_parser(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `data import-minari`."""
    parser = subcommands.add_parser("import-minari", help="make a dataset of one of Minari")
    parser.add_argument(
        "source", type=output_name, metavar="NAME_OR_DIR", help="NAMESPACE/NAME-v0, or a folder"
    )
    parser.add_argument(
        "--out",
        type=output_path,
        required=True,
        help="NAME.h5 for one file, a name without .h5 for a folder of shards",
    )
    parser.add_argument("--track", metavar="NAME", help="of episodes that do not say theirs")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(run=run_import)


def run_import(arguments: argparse.Namespace) -> int:
    """Import; the same command continues after an interruption."""
    from pipeline.exporting.minari_files import import_minari

    count = import_minari(
        arguments.source, arguments.out, track=arguments.track, overwrite=arguments.overwrite
    )
    say(f"{arguments.out}: {count:,} replays")
    return 0
