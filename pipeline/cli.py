"""`rulka-pipeline`: the command line of every stage.

A mistake of the user ends in one line and exit code 2, an interrupt in 130, anything else in a
traceback. Commands import what they need when they run, so that `--help` answers at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

import rich
from rich.logging import RichHandler

from datasets.contract.errors import UserError
from pipeline.commands import (
    compare_command,
    data_commands,
    demo_command,
    evaluate_command,
    export_command,
    probe_command,
    stage_commands,
)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run` to a function of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="rulka-pipeline",
        description="Three-stage pretraining (visual, behavioural cloning, reinforcement learning) "
        "for racing agents.",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and debug messages")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo_command.add_parser(commands)
    data_commands.add_parser(commands)
    stage_commands.add_parsers(commands)
    evaluate_command.add_parser(commands)
    compare_command.add_parsers(commands)
    probe_command.add_parser(commands)
    export_command.add_parser(commands)
    return parser


def _set_up_logging(debug: bool) -> None:
    # One console for log lines and progress bars: two would write over each other.
    rich.reconfigure(stderr=True)
    handler = RichHandler(
        console=rich.get_console(), show_path=debug, show_level=debug, rich_tracebacks=False
    )
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(message)s",
        datefmt="%H:%M:%S",
        handlers=[handler],
        force=True,
    )
    for chatty in ("numba", "matplotlib", "PIL", "h5py", "fsspec", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code: 0 done, 1 a check that failed, 2 a user's mistake, 130 interrupted.
    """
    parsed = build_parser().parse_args(arguments)
    _set_up_logging(parsed.debug)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except UserError as error:
        if parsed.debug:
            raise
        sys.stderr.write(f"rulka-pipeline: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("rulka-pipeline: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this the interpreter complains while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
