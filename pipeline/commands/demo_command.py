"""`rulka-pipeline demo`: its arguments; the work is in `pipeline.demo.chain`."""

import argparse
from pathlib import Path
from typing import Final

from pipeline.commands.options import output_path, seed
from pipeline.commands.stage_commands import Commands

OUT: Final = Path("output/demo")


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parser of `demo`."""
    parser = commands.add_parser(
        "demo", help="all stages on a short track, with a summary; about 8 minutes on two cores"
    )
    parser.add_argument(
        "--out", type=output_path, default=OUT, metavar="DIR", help=f"default {OUT}"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="of drivers, training and starts; default 0"
    )
    parser.set_defaults(run=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo and print its summary."""
    from pipeline.demo.chain import demo

    demo(arguments.out, seed=arguments.seed)
    return 0
