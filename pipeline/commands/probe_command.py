"""`rulka-pipeline probe`: rank encoders by what a linear map finds in their features."""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.options import path_argument, seed
from pipeline.commands.stage_commands import Commands, add_legacy_input
from pipeline.saved_policies import policy_folder

if TYPE_CHECKING:
    from pretrain.vis.probe import Scores
    from rl.config.network import LegacyInput, NetworkConfig
    from rl.network.encoders import ImageHead

TITLES = {
    "speed": "speed",
    "curvature_40m": "curvature, 40 m",
    "curvature_80m": "curvature, 80 m",
}


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parser of `probe`."""
    parser = commands.add_parser("probe", help="rank encoders by a linear probe of their features")
    parser.add_argument(
        "encoders",
        type=path_argument,
        nargs="+",
        metavar="ENCODER",
        help="run folder, or encoder.pt",
    )
    parser.add_argument(
        "--dataset",
        type=path_argument,
        required=True,
        metavar="H5",
        help="file or folder of shards",
    )
    parser.add_argument("--val-fraction", type=float, default=0.1, help="held out, default 0.1")
    parser.add_argument(
        "--split-by",
        choices=("auto", "track", "replay"),
        default="auto",
        help="what is held out as a whole; auto (default): tracks, if some are generated or one of "
        "them is little enough, else replays",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="of the split, default 0; with that of a training it holds out the same",
    )
    add_legacy_input(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run_probe)


def run_probe(arguments: argparse.Namespace) -> int:
    """Probe the encoders, untrained ones and pixels on the same held-out replays."""
    from datasets.content import check_content
    from datasets.contract.errors import UserError
    from datasets.reader import ReplayFile
    from datasets.split import split_replays

    if not 0 < arguments.val_fraction < 1:
        raise UserError(f"--val-fraction {arguments.val_fraction}: expected between 0 and 1")
    file = ReplayFile(arguments.dataset)
    check_content(file)
    split = split_replays(file, arguments.val_fraction, arguments.seed, arguments.split_by)
    from pretrain.vis.probe import ProbeFrames, probe_encoders
    from rl.network.devices import resolve_device

    encoders = {
        str(path): _load(path, arguments.legacy_input, file.image_size)
        for path in arguments.encoders
    }
    frames = ProbeFrames.of(file, split)
    scores = probe_encoders(encoders, frames, resolve_device("auto"))
    if arguments.json:
        plain = {name: _plain(found) for name, found in scores.items()}
        print(json.dumps({"split_by": split.by, "r2": plain}, allow_nan=False))
    else:
        held = f"{len(frames.parts['val'])} frames of {len(split.val)} held-out replays"
        _print_table(scores, f"R2 on {held}, split by {split.by}")
    return 0


def _load(
    path: Path, legacy_input: "LegacyInput | None", image_hw: tuple[int, int]
) -> "tuple[NetworkConfig, ImageHead]":
    """Return the encoder of a run or a file.

    Raises:
        UserError: there is none, or it does not fit its network.
    """
    from datasets.contract.errors import UserError
    from pretrain.vis.probe import encoder_of
    from rl.config.network import NetworkConfig
    from rl.transfer.artifacts import load_artifact
    from rl.transfer.metadata import ENCODER_FILE, IQN_FILE
    from rl.transfer.sources import artifacts_in

    file = policy_folder(path)
    if file.is_dir():
        found = artifacts_in(file)
        file = found.get(IQN_FILE) or found.get(ENCODER_FILE) or file / ENCODER_FILE
    artifact = load_artifact(file, legacy_input=legacy_input)
    # Files without metadata do not say which network they belong to: it can only be the usual one.
    network = artifact.network or NetworkConfig(image_size=image_hw)
    try:
        return network, encoder_of(network, artifact.tensors)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _plain(scores: "Scores") -> dict[str, float | None]:
    return {name: r2 if math.isfinite(r2) else None for name, r2 in scores.items()}


def _print_table(scores: "Mapping[str, Scores]", title: str) -> None:
    from rich.table import Table

    from pipeline.printing import PlainConsole

    table = Table(title=title, caption="1 is perfect, 0 as good as the mean")
    table.add_column("features", overflow="fold")
    for name in TITLES.values():
        table.add_column(name, justify="right")
    for name, found in scores.items():
        row = (found[target] for target in TITLES)
        table.add_row(name, *(f"{r2:.3f}" if math.isfinite(r2) else "-" for r2 in row))
    PlainConsole().print(table)
