"""`rulka-pipeline`: the command line of every stage.

A mistake of the user ends in one line and exit code 2, an interrupt in 130, an exception that no
one foresaw in one line and 70; `--debug` shows the traceback behind the line. Commands import what
they need when they run, so that `--help` answers at once.
"""

import argparse
import copy
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import rich
from rich.logging import RichHandler

from pipeline.commands import (
    compare_command,
    data_commands,
    demo_command,
    evaluate_command,
    export_command,
    probe_command,
    report_command,
    stage_commands,
)
from pipeline.commands.game import game_command
from pipeline.failures import EXIT_INTERRUPTED, EXIT_USER_ERROR, escape, failure_of, one_line
from rl.run.threads import let_threads_wait_passively

logger = logging.getLogger(__name__)

PROGRAM = "rulka-pipeline"


class CommandParser(argparse.ArgumentParser):
    """A parser that knows `--debug`, and whose refusals are one line. Subcommands inherit it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,  # so that a subcommand does not reset what stood before it
            help="show tracebacks and debug messages",
        )

    def error(self, message: str) -> NoReturn:
        """End with one line that names the command."""
        command = self.prog.removeprefix(PROGRAM).strip()
        where = f"{command}: " if command else ""
        _refuse(f"{where}{message}; see {self.prog} --help")
        sys.exit(EXIT_USER_ERROR)


class _Escaped(logging.Formatter):
    """Log lines without the control characters that a file's name may hold.

    Args:
        debug: show the traceback of an exception that is logged, not its text alone.
    """

    def __init__(self, *, debug: bool) -> None:
        super().__init__("%(message)s", "%H:%M:%S")
        self._debug = debug

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and not self._debug:
            record = copy.copy(record)  # the run's log file shows the traceback
            error = record.exc_info[1] if record.exc_info is not None else None
            record.exc_text = one_line(f"{type(error).__name__}: {error}")
        return escape(super().format(record))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run` to a function of the parsed arguments."""
    parser: argparse.ArgumentParser = CommandParser(
        prog=PROGRAM,
        description="Three-stage pretraining (visual, behavioural cloning, reinforcement learning) "
        "for racing agents.",
    )
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo_command.add_parser(commands)
    data_commands.add_parser(commands)
    stage_commands.add_parsers(commands)
    evaluate_command.add_parser(commands)
    compare_command.add_parsers(commands)
    report_command.add_parsers(commands)
    probe_command.add_parser(commands)
    export_command.add_parser(commands)
    game_command.add_parser(commands)
    return parser


def _note_failed_thread(failed: threading.ExceptHookArgs) -> None:
    """Log the end of a thread in one line; whoever needs its work ends the command."""
    logger.warning("a thread ended: %s: %s", failed.exc_type.__name__, failed.exc_value)


def _note_failed_cleanup(failed: "sys.UnraisableHookArgs") -> None:
    """Log what went wrong while an object was thrown away, as with a file on a full disk."""
    logger.debug("cleaning up: %s: %s", failed.exc_type.__name__, failed.exc_value)


def _set_up_logging(debug: bool) -> None:
    # One console for log lines and progress bars: two would write over each other.
    rich.reconfigure(stderr=True, markup=False)
    handler = RichHandler(
        console=rich.get_console(), show_path=debug, show_level=debug, rich_tracebacks=False
    )
    handler.setFormatter(_Escaped(debug=debug))
    logging.raiseExceptions = debug  # a log file that a full disk refuses is no news of its own
    if not debug:
        threading.excepthook = _note_failed_thread
        sys.unraisablehook = _note_failed_cleanup
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("numba", "matplotlib", "PIL", "h5py", "fsspec", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _refuse(line: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {one_line(line)}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit code: 0 done, 1 a check that failed, 2 a mistake of the user or a refusal of the
        system (no space, no permission), 70 an unforeseen exception, 130 interrupted.
    """
    let_threads_wait_passively()
    parsed = build_parser().parse_args(arguments)
    _set_up_logging(parsed.debug)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except KeyboardInterrupt:
        _refuse("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this the interpreter complains while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERRUPTED
    except Exception as error:
        if parsed.debug:
            traceback.print_exc()
        failure = failure_of(error)
        _refuse(failure.line)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
