"""`rulka-pipeline data capture` and `data inputs`: input files driven, recorded, converted."""

import argparse
import sys
from typing import TYPE_CHECKING

from datasets.contract.files import check_output, write_text
from pipeline.commands.options import output_path, parse_size, path_argument, positive_int

if TYPE_CHECKING:
    from pipeline.commands.stage_commands import Commands


def add_parsers(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `data capture` and `data inputs`."""
    capture = subcommands.add_parser(
        "capture", help="drive input files in the simulator and record them, such as best runs"
    )
    capture.add_argument(
        "--replays",
        type=path_argument,
        required=True,
        metavar="DIR",
        help="folder of .inputs files or scripts (.txt), with its subfolders, or one file",
    )
    capture.add_argument(
        "--track", required=True, help="name, random:SEED, or path of a .npy reference line"
    )
    capture.add_argument(
        "--out",
        type=output_path,
        required=True,
        help="NAME.h5 for one file, a name without .h5 for a folder of shards",
    )
    capture.add_argument(
        "--fps", type=positive_int, default=20, help="frames per second; default: 20"
    )
    capture.add_argument(
        "--image-size",
        default="64",
        metavar="PX",
        help="pixels of a side, or HEIGHTxWIDTH; default: 64",
    )
    capture.add_argument(
        "--keep-unfinished", action="store_true", help="record runs that did not finish too"
    )
    capture.add_argument("--overwrite", action="store_true", help="replace an existing output")
    capture.set_defaults(run=run_capture)
    inputs = subcommands.add_parser("inputs", help="convert an input file between its two forms")
    inputs.add_argument("file", type=path_argument, help="input file, in either form")
    inputs.add_argument(
        "--to",
        choices=("script", "inputs"),
        default="script",
        help="script: times in milliseconds (default); inputs: in seconds",
    )
    inputs.add_argument("--out", type=output_path, help="file to write; default: print it")
    inputs.add_argument("--overwrite", action="store_true", help="replace an existing output")
    inputs.set_defaults(run=run_inputs)


def run_capture(arguments: argparse.Namespace) -> int:
    """Drive and record; the same command continues after an interruption."""
    from pipeline.recording.capture import CaptureRequest, capture_inputs

    request = CaptureRequest(
        replays=arguments.replays,
        track=arguments.track,
        fps=arguments.fps,
        image_size=parse_size(arguments.image_size),
        keep_unfinished=arguments.keep_unfinished,
    )
    capture_inputs(arguments.out, request, overwrite=arguments.overwrite)
    return 0


def run_inputs(arguments: argparse.Namespace) -> int:
    """Convert an input file."""
    from datasets.inputs import format_inputs, read_inputs

    text = format_inputs(read_inputs(arguments.file), arguments.to)
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        check_output(arguments.out, overwrite=arguments.overwrite)
        write_text(arguments.out, text)
    return 0
