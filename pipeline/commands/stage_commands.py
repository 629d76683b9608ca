"""The commands of the three stages: `vis`, `bc`, `rl`."""

import argparse
import json
import logging
from pathlib import Path

from datasets.contract.errors import UserError
from datasets.contract.files import check_output
from pipeline.commands.options import non_negative_int, positive_int, positive_number

logger = logging.getLogger(__name__)

DEFAULT_VIS_CONFIG = Path("config_files/pretrain/vis/pretrain_config.yaml")
DEFAULT_BC_CONFIG = Path("config_files/pretrain/bc/pretrain_config_bc_v3_multi_offset.yaml")
DEFAULT_RL_CONFIG = Path("config_files/rl/config_default.yaml")

Commands = argparse._SubParsersAction  # the only name that argparse has for it


def add_parsers(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parsers of the three stages."""
    vis = commands.add_parser("vis", help="stage 1: train a visual encoder, write encoder.pt")
    _add_common(vis, DEFAULT_VIS_CONFIG)
    vis.set_defaults(run=run_vis)

    bc = commands.add_parser("bc", help="stage 2: behavioural cloning, write the heads' files")
    _add_common(bc, DEFAULT_BC_CONFIG)
    add_legacy_input(bc)
    bc.set_defaults(run=run_bc)

    rl = commands.add_parser("rl", help="stage 3: reinforcement learning from pretrained parts")
    _add_common(rl, DEFAULT_RL_CONFIG)
    rl.set_defaults(config=None)  # a resumed run has its own
    rl.add_argument("--pretrain", type=Path, metavar="DIR", help="folder of a bc or vis run")
    rl.add_argument("--resume", type=Path, metavar="RUN", help="run folder to continue")
    rl.add_argument(
        "--init-from",
        metavar="RUN",
        help="run folder to start a new run with the weights of; RUN@best: of its best evaluation",
    )
    rl.add_argument(
        "--keep-optimizer", action="store_true", help="with --init-from: its moments, too"
    )
    add_legacy_input(rl)
    rl.add_argument(
        "--max-frames", type=positive_int, metavar="N", help="stop after N frames in all"
    )
    rl.add_argument(
        "--max-grad-steps",
        type=non_negative_int,
        metavar="N",
        help="stop after N updates in all",
    )
    rl.add_argument(
        "--show-schedules",
        action="store_true",
        help="train nothing: print the values of the schedules and draw them",
    )
    rl.add_argument(
        "--out", type=Path, metavar="PNG", help="picture; default: output/schedules/<run_name>.png"
    )
    rl.add_argument(
        "--overwrite", action="store_true", help="with --out: replace an existing picture"
    )
    rl.set_defaults(run=run_rl)


def _add_common(parser: argparse.ArgumentParser, config: Path) -> None:
    parser.add_argument(
        "--config", type=Path, default=config, metavar="YAML", help=f"default: {config.as_posix()}"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, for example --set nn.vis.freeze=true; may be repeated",
    )
    parser.add_argument(
        "--max-minutes", type=positive_number, metavar="M", help="stop after M minutes"
    )


def add_legacy_input(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how artifacts without metadata scaled their frames."""
    parser.add_argument(
        "--legacy-input",
        choices=("01", "iqn"),
        help="how frames were scaled for artifacts without metadata: 01 is x / 255, "
        "iqn is (x - 128) / 128",
    )


def _overrides(arguments: argparse.Namespace, legacy_key: str) -> list[str]:
    """Return the overrides of the command line, that of `--legacy-input` included."""
    if arguments.legacy_input is None:
        return list(arguments.overrides)
    return [*arguments.overrides, f"{legacy_key}={arguments.legacy_input}"]


def run_vis(arguments: argparse.Namespace) -> int:
    """Train the visual encoder; the default dataset is driven first when it is missing."""
    from datasets.contract.config import load_config
    from pipeline.recording.drive import ensure_dataset
    from pretrain.vis.config import VisConfig

    config = load_config(VisConfig, arguments.config, arguments.overrides)
    from pretrain.ranks import process_rank
    from pretrain.vis.train import run  # takes seconds: errors above are reported first

    if process_rank(config) == 0:
        ensure_dataset(Path(config.dataset))
    run(config, max_minutes=arguments.max_minutes)
    return 0


def run_bc(arguments: argparse.Namespace) -> int:
    """Clone the drivers' behaviour; the default dataset is driven first when it is missing."""
    from datasets.contract.config import load_config
    from pipeline.recording.drive import ensure_dataset
    from pretrain.bc.config import BCConfig

    overrides = _overrides(arguments, "encoder_legacy_input")
    config = load_config(BCConfig, arguments.config, overrides)
    from pretrain.bc.train import run  # takes seconds: errors above are reported first
    from pretrain.ranks import process_rank

    if process_rank(config) == 0:
        ensure_dataset(Path(config.dataset))
    run(config, max_minutes=arguments.max_minutes)
    return 0


def _check_starts(arguments: argparse.Namespace) -> None:
    """Refuse two places for a run's weights, in one line (argparse would print its usage)."""
    starts = {
        "--resume": arguments.resume,
        "--pretrain": arguments.pretrain,
        "--init-from": arguments.init_from,
    }
    given = [option for option, value in starts.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} exclude each other: give one of them")
    if arguments.keep_optimizer and arguments.resume is not None:
        raise UserError(
            "--resume and --keep-optimizer exclude each other: a resumed run keeps its moments"
        )


def run_rl(arguments: argparse.Namespace) -> int:
    """Train with reinforcement learning, from scratch, from pretrained parts, or go on."""
    from datasets.contract.config import load_config
    from rl.config.experiment import REMOVED_KEYS, RLConfig
    from rl.run.folder import RunFolder

    _check_starts(arguments)
    path = arguments.config or DEFAULT_RL_CONFIG
    if arguments.resume is not None:
        folder = RunFolder(arguments.resume)
        folder.check_exists()
        path = arguments.config or folder.config
    overrides = _overrides(arguments, "transfer.legacy_input")
    if arguments.init_from is not None:
        overrides.append(f"init_from={json.dumps(arguments.init_from)}")  # a name may be a number
    if arguments.keep_optimizer:
        overrides.append("keep_optimizer=true")
    config = load_config(RLConfig, path, overrides, removed=REMOVED_KEYS)
    if arguments.show_schedules:
        from pipeline.commands.show_schedules import show_schedules

        if arguments.out is not None:
            check_output(arguments.out, overwrite=arguments.overwrite)
        show_schedules(config, arguments.out)
        return 0
    for option, is_given in (("--out", arguments.out), ("--overwrite", arguments.overwrite)):
        if is_given:
            raise UserError(
                f"{option}: only for the picture of --show-schedules; run_name names a run"
            )
    config.performance.check_backend_installed()
    from rl.training.train import train  # takes seconds: errors above are reported first

    result = train(
        config,
        pretrain=arguments.pretrain,
        resume=arguments.resume,
        max_minutes=arguments.max_minutes,
        max_frames=arguments.max_frames,
        max_grad_steps=arguments.max_grad_steps,
    )
    for line in result.summary():
        logger.info("%s", line)
    return 0
