"""`rulka-pipeline report` and `video`: runs as a page, and one run as a film."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.commands.options import add_logdir, add_time_axis
from pipeline.commands.stage_commands import Commands

RUNS: Final = Path("output/rl")
REPORT: Final = Path("output/reports/report.html")
VIDEO: Final = Path("output/reports/best.mp4")


def add_parsers(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parsers of `report` and `video`."""
    _add_report(commands)
    _add_video(commands)


def _add_report(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report", help="write one HTML file: curves, tables, and a viewer of driven runs"
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="name of a run, or its folder")
    parser.add_argument(
        "-o", "--out", type=Path, default=REPORT, metavar="HTML", help=f"default {REPORT}"
    )
    add_logdir(parser)
    parser.add_argument(
        "--runs-dir", type=Path, default=RUNS, metavar="DIR", help=f"of run folders, default {RUNS}"
    )
    add_time_axis(parser)
    parser.add_argument("--map", help="short name of the map to watch; default: that of most runs")
    parser.add_argument(
        "--replay",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="watch these too: runs of best_runs or good_runs, such a folder, or input files",
    )
    parser.add_argument(
        "--driver",
        nargs="+",
        metavar="SKILL",
        help="scripted drivers to watch: novice, amateur, good, expert, or none; default expert",
    )
    parser.add_argument("--track", help="of input files and drivers; default: that of the runs")
    parser.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace) -> int:
    """Write the report of some runs."""
    from datasets.contract.errors import UserError

    if not (arguments.runs or arguments.replay or arguments.driver):
        raise UserError("name runs to report, or driven runs with --replay or --driver")
    _check_extra("report", ("bokeh", "jinja2"))
    from pipeline.report.page import write_report
    from pipeline.report.replays import ReplayRequest
    from pipeline.report.run_sources import find_runs
    from rl.reporting.progress import ProgressBar

    with ProgressBar("reading logs") as bar:
        runs = find_runs(
            arguments.runs, arguments.logdir, runs=arguments.runs_dir, watch=bar.update
        )
    request = ReplayRequest(
        paths=tuple(arguments.replay),
        drivers=_drivers(arguments.driver),
        map_name=arguments.map,
        track=arguments.track,
        drivers_are_optional=arguments.driver is None,
    )
    with ProgressBar("driving runs again") as bar:
        shown = write_report(
            arguments.out, runs, request, time_axis=arguments.time_axis, watch=bar.update
        )
    size = arguments.out.stat().st_size / 1e6
    print(f"written: {arguments.out} ({size:.1f} MB, {len(shown.found)} driven runs)")
    return 0


def _add_video(commands: "Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("video", help="write one driven run as a film, MP4 or GIF")
    parser.add_argument(
        "source",
        metavar="RUN",
        help="run, whose best race is taken; or a race that it kept, or an input file",
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=VIDEO, metavar="MP4", help=f"or .gif; default {VIDEO}"
    )
    parser.add_argument(
        "--ghost",
        default="expert",
        metavar="RUN",
        help="what the delta is against: as RUN, a scripted driver's skill, or none; "
        "default expert",
    )
    parser.add_argument("--map", help="short name of the map, if RUN kept races on several")
    parser.add_argument("--track", help="that an input file is driven on")
    parser.add_argument(
        "--runs-dir", type=Path, default=RUNS, metavar="DIR", help=f"of run folders, default {RUNS}"
    )
    parser.set_defaults(run=run_video)


def run_video(arguments: argparse.Namespace) -> int:
    """Write one driven run as a film."""
    from pipeline.report.replay_data import RoadScale, drive_replay
    from pipeline.report.replays import check_same_road, find_contender
    from pipeline.video import film_path, write_film
    from rl.reporting.progress import ProgressBar

    out = film_path(arguments.out)
    runs, map_name = arguments.runs_dir, arguments.map
    contender = find_contender(arguments.source, runs, map_name, arguments.track)
    ghost = None
    if arguments.ghost != "none":
        other = find_contender(arguments.ghost, runs, map_name, contender.track)
        check_same_road(other, contender.track)
        ghost = drive_replay(other, RoadScale.of(contender.track), has_frames=False)
    if out != arguments.out:
        print(f"imageio-ffmpeg (extra `video`) is not installed: a GIF instead of {arguments.out}")
    with ProgressBar("filming") as bar:
        count = write_film(out, contender, ghost, watch=bar.update)
    seconds = contender.run.race_time_ms / 1000
    print(f"written: {out} ({contender.name}, {seconds:.3f} s, {count} pictures)")
    return 0


def _drivers(given: list[str] | None) -> tuple[str, ...]:
    if given is None:
        return ("expert",)
    return () if given == ["none"] else tuple(given)


def _check_extra(extra: str, packages: tuple[str, ...]) -> None:
    """Refuse to go on without the packages of an extra.

    Raises:
        UserError: one is missing.
    """
    from datasets.contract.errors import UserError

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{extra} needs {' and '.join(missing)}: install the extra, "
            f"`uv sync --extra {extra}` or `pip install 'rulka[{extra}]'`"
        )
