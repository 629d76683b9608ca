"""`rulka-pipeline compare` and `scalars`: what runs logged, as tables, pictures and columns."""

import argparse
import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.commands.options import add_logdir, add_time_axis, output_path
from pipeline.commands.stage_commands import Commands

if TYPE_CHECKING:
    from pipeline.analysis.run_log import RunLog, TimeAxis

logger = logging.getLogger(__name__)

PICTURES: Final = Path("output/reports")
_LONGEST_PREFIX: Final = 80


def add_parsers(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parsers of `compare` and `scalars`."""
    _add_compare(commands)
    _add_scalars(commands)


def _add_compare(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("compare", help="compare runs by time and by step, with pictures")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="name of a run, or its folder")
    add_logdir(parser)
    parser.add_argument(
        "--interval", type=float, metavar="MINUTES", help="between checkpoints by time"
    )
    parser.add_argument(
        "--step_interval",
        "--step-interval",
        type=float,
        metavar="STEPS",
        help="between checkpoints by step",
    )
    add_time_axis(parser)
    parser.add_argument(
        "--target", type=float, nargs="+", default=[], metavar="S", help="race times to reach"
    )
    parser.add_argument("--summary", action="store_true", help="whole runs instead of checkpoints")
    parser.add_argument("--no-tables", action="store_true", help="pictures alone, with --plot")
    parser.add_argument("--plot", action="store_true", help="draw pictures")
    parser.add_argument(
        "--output-dir", type=Path, default=PICTURES, help=f"of pictures, default {PICTURES}"
    )
    parser.add_argument("--prefix", help="first part of the pictures' names")
    parser.add_argument(
        "--experiments",
        nargs="+",
        default=[],
        metavar="NAME",
        help="groups of runs in config_files/experiments/groups.yaml",
    )
    parser.set_defaults(run=run_compare)


def _add_scalars(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("scalars", help="list what runs logged, or write it as CSV")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="name of a run, or its folder; none lists the runs"
    )
    add_logdir(parser)
    parser.add_argument("--tags", nargs="+", metavar="TAG", help="which; default all")
    parser.add_argument(
        "--out", type=output_path, metavar="CSV", help="write every entry to this file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing CSV file")
    parser.set_defaults(run=run_scalars)


# -- compare ------------------------------------------------------------------------------------


def run_compare(arguments: argparse.Namespace) -> int:
    """Print the tables of some runs or groups of runs, and draw them."""
    from datasets.contract.errors import UserError

    if bool(arguments.runs) == bool(arguments.experiments):
        raise UserError("name the runs to compare, or groups of them with --experiments")
    if arguments.no_tables and not arguments.plot:
        raise UserError("--no-tables leaves nothing to do without --plot")
    if arguments.plot:
        from pipeline.analysis.drawing import check_prefix

        if arguments.prefix is not None:
            check_prefix(arguments.prefix)
    if arguments.runs:
        prefix = arguments.prefix or _prefix_of(arguments.runs)
        _compare(arguments, arguments.runs, prefix, arguments.interval, arguments.step_interval)
        return 0
    return _compare_groups(arguments)


def _compare_groups(arguments: argparse.Namespace) -> int:
    """Compare each group, as far as there are logs of its runs."""
    from datasets.contract.errors import UserError
    from pipeline.analysis.groups import load_groups
    from pipeline.analysis.log_folders import find_logdirs, log_folders

    groups = load_groups().named(arguments.experiments)
    if arguments.prefix is not None and len(groups) > 1:
        raise UserError(
            f"--prefix {arguments.prefix}: {len(groups)} groups need names of their own"
        )
    folders = log_folders(find_logdirs(arguments.logdir))
    there = {name: [run for run in group.runs if run in folders] for name, group in groups.items()}
    if not any(there.values()):
        raise UserError(
            f"{', '.join(groups)}: there are logs of none of their runs in {arguments.logdir}"
        )
    for name, group in groups.items():
        missing = [run for run in group.runs if run not in folders]
        if missing:
            logger.warning("%s: no logs of %s", name, ", ".join(missing))
        if there[name]:
            _compare(
                arguments,
                there[name],
                arguments.prefix or group.prefix,
                arguments.interval or group.interval,
                arguments.step_interval or group.step_interval,
            )
    return 0


def _compare(
    arguments: argparse.Namespace,
    names: Sequence[str],
    prefix: str,
    interval: float | None,
    step_interval: float | None,
) -> None:
    """Compare some runs; nothing is printed or written before all of it is computed."""
    from pipeline.analysis.comparison import choose_axis, tables
    from pipeline.analysis.summary import best_table, last_table
    from pipeline.analysis.tables import text_of

    runs = _read(names, arguments.logdir)
    axis = choose_axis(runs, arguments.time_axis)
    if arguments.summary:
        found = [best_table(runs, axis), last_table(runs)]
    else:
        found = tables(
            runs,
            time_axis=axis,
            interval=interval,
            step_interval=step_interval,
            targets=arguments.target,
        )
    lines = [run.describe() for run in runs]
    lines += [f"note: {note}" for run in runs for note in run.notes]
    if not arguments.no_tables:
        lines += [f"\n{text_of(table)}" for table in found]
    print("\n".join(lines))
    if arguments.plot:
        _draw(runs, axis, arguments.output_dir, prefix)


def _draw(runs: "Sequence[RunLog]", axis: "TimeAxis", folder: Path, prefix: str) -> None:
    from pipeline.analysis.curves import pictures_of
    from pipeline.analysis.drawing import draw_pictures
    from rl.reporting.progress import ProgressBar

    with ProgressBar("drawing") as bar:
        paths = draw_pictures(pictures_of(runs, axis), folder, prefix, bar.update)
    print("\n".join(f"picture: {path}" for path in paths))


def _read(names: Sequence[str], logdir: Path, *, every_tag: bool = False) -> "list[RunLog]":
    from pipeline.analysis.metrics import is_wanted
    from pipeline.analysis.run_log import read_runs
    from rl.reporting.progress import ProgressBar

    with ProgressBar("reading logs") as bar:
        wanted = None if every_tag else is_wanted
        return read_runs(names, logdir, wanted=wanted, watch=bar.update)


def _prefix_of(names: Sequence[str]) -> str:
    joined = "_vs_".join(Path(name).name for name in names)
    return "exp_" + re.sub(r"[^A-Za-z0-9._-]+", "_", joined)[:_LONGEST_PREFIX]


# -- scalars ------------------------------------------------------------------------------------


def run_scalars(arguments: argparse.Namespace) -> int:
    """List the runs, list the tags of some runs, or write their entries as CSV."""
    from datasets.contract.files import check_output
    from pipeline.analysis.log_folders import find_logdirs, log_folders
    from pipeline.analysis.summary import tag_table
    from pipeline.analysis.tables import text_of

    if not arguments.runs:
        folders = log_folders(find_logdirs(arguments.logdir))
        print("\n".join(str(path) for path in folders.values()) or "no folders with logs")
        return 0
    if arguments.out is not None:
        check_output(arguments.out, overwrite=arguments.overwrite)
    runs = _read(arguments.runs, arguments.logdir, every_tag=True)
    for run in runs:
        _check_tags(run, arguments.tags or ())
    if arguments.out is not None:
        _write_csv(arguments.out, runs, arguments.tags)
        print(f"written: {arguments.out}")
        return 0
    for run in runs:
        print("\n".join([run.describe(), *(f"note: {note}" for note in run.notes)]))
        print(text_of(tag_table(run, arguments.tags)) + "\n")
    return 0


def _check_tags(run: "RunLog", tags: Sequence[str]) -> None:
    from datasets.contract.errors import UserError

    for tag in tags:
        if tag not in run:
            near = difflib.get_close_matches(tag, run.tags, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {len(run.tags)} tags"
            raise UserError(f"--tags {tag}: {run.name} did not log it ({hint})")


def _write_csv(path: Path, runs: "Sequence[RunLog]", tags: Sequence[str] | None) -> None:
    """Write a row for each entry: run, tag, step, minutes of wall time and training, value."""
    import csv

    from datasets.contract.files import atomic_path

    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["run", "tag", "step", "wall_minutes", "training_minutes", "value"])
        for run in runs:
            for tag in run.tags if tags is None else tags:
                series = run.series(tag)
                columns = (series.steps, series.wall_minutes, series.training_minutes)
                rows = zip(*(c.tolist() for c in (*columns, series.values)), strict=True)
                writer.writerows([run.name, tag, *row] for row in rows)
