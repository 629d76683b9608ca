"""`rulka-pipeline data validate`: check a dataset, and write a cleaned copy."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from pipeline.commands.options import output_path, path_argument
from pipeline.commands.stage_commands import Commands
from pipeline.printing import PlainConsole, say

if TYPE_CHECKING:
    from datasets.doctor.checks import Diagnosis, Training
    from datasets.doctor.findings import Check
    from datasets.doctor.repair import Changes
    from datasets.reader import ReplayFile

_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "red"}
SHOWN_REPLAYS: Final = 10
"""Replays that are named one by one when they are left out of a copy."""


def add_parser(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `validate`."""
    parser = subcommands.add_parser(
        "validate",
        help="check a dataset, write a cleaned copy; exit code 1 on errors, 0 on warnings",
    )
    parser.add_argument(
        "file", type=path_argument, metavar="PATH", help="dataset file or folder of shards"
    )
    parser.add_argument(
        "--fix",
        type=output_path,
        metavar="OUT",
        help="write a cleaned copy: NAME.h5 for one file, a name without .h5 for a folder of "
        "shards. The exit code is then that of the copy; PATH is never changed",
    )
    parser.add_argument(
        "--config",
        type=path_argument,
        metavar="YAML",
        help="configuration of bc: check its split and its offsets instead of the defaults",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out bad shards of a folder, and count them"
    )
    parser.set_defaults(run=run_validate)


def run_validate(arguments: argparse.Namespace) -> int:
    """Check a dataset, and its cleaned copy where one is asked for; 1 when there are errors."""
    from datasets.doctor.repair import check_target, clean
    from datasets.reader import ReplayFile

    training = _training_of(arguments.config)
    if arguments.fix is not None:
        check_target(arguments.file, arguments.fix)
    with ReplayFile(arguments.file, skip_bad=arguments.skip_bad) as file:
        diagnosis = _diagnose(file, training)
        _print_checks(arguments.file, diagnosis.checks)
        if arguments.fix is None:
            return int(diagnosis.has_errors)
        with _progress("cleaning", file.n_replays) as advance:
            changes = clean(file, diagnosis, arguments.fix, advance)
    _print_changes(arguments.fix, changes)
    with ReplayFile(arguments.fix) as copy:
        again = _diagnose(copy, training)
    _print_checks(arguments.fix, [check for check in again.checks if check.level != "ok"])
    return int(again.has_errors)


def _training_of(config: Path | None) -> "Training":
    from datasets.contract.config import load_config
    from datasets.doctor.checks import Training

    if config is None:
        return Training()
    from pretrain.bc.config import BCConfig

    stage = load_config(BCConfig, config)
    return Training(stage.val_fraction, stage.seed, stage.split_by, stage.label_offsets_ms)


def _diagnose(file: "ReplayFile", training: "Training") -> "Diagnosis":
    from datasets.doctor.checks import diagnose

    with _progress("checking", file.n_replays) as advance:
        return diagnose(file, training, advance)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _print_checks(path: Path, checks: "list[Check]") -> None:
    if checks:
        table = Table("check", "result", "count", "detail", title=str(path))
        for check in checks:
            result = Text(check.level, _STYLES[check.level])
            table.add_row(check.name, result, f"{check.count:,}", check.detail)
        PlainConsole().print(table)
    errors = sum(check.level == "error" for check in checks)
    warnings = sum(check.level == "warning" for check in checks)
    say(f"{path}: {errors} errors, {warnings} warnings")


def _print_changes(path: Path, changes: "Changes") -> None:
    done = {what: count for what, count in changes.counts.items() if count}
    table = Table("change", "count", title=f"{path}: cleaned copy")
    for what, count in done.items():
        table.add_row(what, f"{count:,}")
    PlainConsole().print(table if done else f"{path}: a copy without changes")
    for line in changes.dropped[:SHOWN_REPLAYS]:
        say(f"left out: {line}")
    more = len(changes.dropped) - SHOWN_REPLAYS
    if more > 0:
        say(f"left out: {more} more replays")
