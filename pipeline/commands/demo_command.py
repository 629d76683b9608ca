"""`rulka-pipeline demo`: its arguments; the work is in `pipeline.demo.chain`."""

import argparse
from pathlib import Path

from pipeline.commands.stage_commands import Commands


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parser of `demo`."""
    parser = commands.add_parser(
        "demo", help="all stages on a short track, with a summary; about 8 minutes on two cores"
    )
    parser.add_argument("--out", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of drivers, training and starts")
    parser.set_defaults(run=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo and print its summary."""
    from pipeline.demo.chain import demo

    demo(arguments.out, seed=arguments.seed)
    return 0
