"""`rulka-pipeline data drive`: record scripted drivers, or a policy that they correct."""

import argparse

from datasets.contract.errors import UserError
from pipeline.commands.options import (
    count,
    output_path,
    parse_size,
    path_argument,
    positive_int,
    seed,
)
from pipeline.commands.stage_commands import Commands
from pipeline.recording.request import MIXED

MAX_REPLAYS = 1_000_000


def add_parser(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parser of `data drive`."""
    drive = subcommands.add_parser(
        "drive", help="let scripted drivers, or a policy that they correct, drive; record it"
    )
    drive.add_argument(
        "--tracks",
        nargs="+",
        required=True,
        metavar="TRACK",
        help="names, random:N for N generated tracks, or paths of .npy reference lines",
    )
    drive.add_argument(
        "--replays",
        type=count(MAX_REPLAYS),
        default=200,
        metavar="N",
        help="per track; default: %(default)s",
    )
    drive.add_argument(
        "--out",
        type=output_path,
        required=True,
        help="NAME.h5 for one file, a name without .h5 for a folder of shards",
    )
    drive.add_argument(
        "--driver",
        help="novice, amateur, good, expert, or mixed: skills from novice to good (default)",
    )
    drive.add_argument(
        "--skills", metavar="LO:HI", help="range of skill instead of a driver, within 0:1"
    )
    drive.add_argument(
        "--fps", type=positive_int, default=20, help="frames per second; default: 20"
    )
    drive.add_argument(
        "--key-ms",
        type=positive_int,
        default=50,
        help="ms for which a driver holds its keys, 10 or 50. An agent holds its action for 50 ms: "
        "with 50 it can repeat every recorded one, with 10 inputs change within its step as a "
        "person's do. default: 50",
    )
    drive.add_argument(
        "--image-size",
        default="64",
        metavar="PX",
        help="pixels of a side, or HEIGHTxWIDTH; default: 64",
    )
    drive.add_argument("--seed", type=seed, default=0, help="of drivers and starts; default: 0")
    drive.add_argument(
        "--keep-unfinished",
        action="store_true",
        help="record runs that did not finish too; without it they are counted and driven again",
    )
    drive.add_argument("--overwrite", action="store_true", help="replace an existing output")
    _add_policy(drive)
    drive.set_defaults(run=run_drive)


def _add_policy(drive: argparse.ArgumentParser) -> None:
    group = drive.add_argument_group(
        "a policy drives, and a scripted driver says what it should have pressed"
    )
    group.add_argument(
        "--policy",
        type=path_argument,
        metavar="ARTIFACT_OR_RUN",
        help="folder of a bc run, an iqn_bc.pt, or a run of rl; unfinished runs are recorded too",
    )
    group.add_argument(
        "--label-by",
        metavar="DRIVER",
        help="novice, amateur, good, expert, mixed, or a skill such as 0.7; default: expert",
    )
    group.add_argument(
        "--policy-share",
        type=float,
        metavar="P",
        help="share of the 50 ms steps that the policy drives, the labeller the others; default: 1",
    )


def run_drive(arguments: argparse.Namespace) -> int:
    """Drive and record; the same command continues after an interruption."""
    from pipeline.recording.drive import drive_dataset
    from pipeline.recording.request import DriveRequest

    driver, skills = _labeller(arguments) if arguments.policy else _driver(arguments)
    request = DriveRequest(
        tracks=tuple(arguments.tracks),
        replays=arguments.replays,
        driver=driver,
        skills=skills,
        fps=arguments.fps,
        key_ms=arguments.key_ms,
        seed=arguments.seed,
        image_size=parse_size(arguments.image_size),
        keep_unfinished=arguments.keep_unfinished,
        policy=arguments.policy,
        policy_share=1.0 if arguments.policy_share is None else arguments.policy_share,
    )
    drive_dataset(arguments.out, request, overwrite=arguments.overwrite)
    return 0


def _driver(arguments: argparse.Namespace) -> tuple[str, tuple[float, float] | None]:
    for option, value in _given(arguments, "--label-by", "--policy-share").items():
        raise UserError(f"{option} {value}: only with --policy; --driver says who drives")
    return arguments.driver or MIXED, _parse_skills(arguments.skills)


def _labeller(arguments: argparse.Namespace) -> tuple[str, tuple[float, float] | None]:
    """Who labels, as a driver or a range of skill."""
    for option, value in _given(arguments, "--driver", "--skills").items():
        raise UserError(f"{option} {value}: with --policy, use --label-by to say who labels")
    who = arguments.label_by or "expert"
    try:
        skill = float(who)
    except ValueError:
        return who, None
    return MIXED, (skill, skill)


def _given(arguments: argparse.Namespace, *options: str) -> dict[str, object]:
    values = {o: getattr(arguments, o.removeprefix("--").replace("-", "_")) for o in options}
    return {option: value for option, value in values.items() if value is not None}


def _parse_skills(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise UserError(f"--skills {text}: expected two numbers, such as 0.2:0.8") from error
    return low, high
