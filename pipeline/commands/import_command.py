"""`rulka-pipeline data import`: captured replays of the game become a dataset."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands.options import count, output_path, parse_size, path_argument, positive_int

if TYPE_CHECKING:
    from pipeline.commands.stage_commands import Commands

MAX_WORKERS = 256


def add_parser(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    """Add `data import`."""
    parser = subcommands.add_parser(
        "import", help="make a dataset of captured replays: <track>/<replay>/frame_*_<time>ms.jpeg"
    )
    parser.add_argument("root", type=path_argument, metavar="DIR", help="tree of captured replays")
    parser.add_argument(
        "--out",
        type=output_path,
        required=True,
        help="NAME.h5 for one file, a name without .h5 for a folder of shards",
    )
    parser.add_argument(
        "--image-size",
        metavar="PX",
        help="pixels of a side, or HEIGHTxWIDTH; default: as captured",
    )
    parser.add_argument("--fps", type=positive_int, help="frames per second to keep; default: all")
    parser.add_argument(
        "--line",
        type=path_argument,
        metavar="X.npy",
        help="follow this reference line, or those of a folder, <track>.npy or <track>_*.npy, "
        "instead of the recorded one",
    )
    parser.add_argument(
        "--frames-only",
        action="store_true",
        help="import frames, and actions where there are some, of captures without meta; enough "
        "for vis, and for bc without floats",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave bad replays out instead of stopping"
    )
    parser.add_argument(
        "--workers", type=count(MAX_WORKERS), metavar="N", help="threads; default: one per core"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(run=run_import)


def run_import(arguments: argparse.Namespace) -> int:
    """Import; the same command continues after an interruption."""
    from pipeline.importing.tree import ImportRequest, import_tree

    request = ImportRequest(
        root=arguments.root,
        image_size=None if arguments.image_size is None else parse_size(arguments.image_size),
        fps=arguments.fps,
        line=arguments.line,
        frames_only=arguments.frames_only,
        skip_bad=arguments.skip_bad,
        workers=arguments.workers,
    )
    import_tree(arguments.out, request, overwrite=arguments.overwrite)
    return 0
