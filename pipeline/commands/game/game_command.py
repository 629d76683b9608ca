"""`rulka-pipeline game`: the link to the real game, and the simulator behind the same protocol."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.options import count, number_up_to, positive_number, seed
from pipeline.commands.stage_commands import Commands

if TYPE_CHECKING:
    from rl.config.game import GameConfig
    from rl.envs.sim.road import Track

DEFAULT_PORT = 8478
LAST_PORT = 65_000
LONGEST_ANSWER_S = 100.0
"""Limits of `GameConfig`, which is imported only when a command runs."""


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parsers of `game` and its subcommands."""
    game = commands.add_parser("game", help="TrackMania Nations Forever through TMInterface")
    subcommands = game.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    install = subcommands.add_parser(
        "install", help="copy the plugin into TMInterface's folder, and maps into the game's"
    )
    install.add_argument(
        "maps",
        nargs="*",
        type=Path,
        metavar="MAP.Challenge.Gbx",
        help="files to copy into Tracks/Challenges",
    )
    install.add_argument(
        "--overwrite", action="store_true", help="replace other maps of the same names"
    )
    install.set_defaults(run=run_install)
    _add_check(subcommands)
    _add_drive(subcommands)
    _add_serve(subcommands)


def _add_game(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        type=count(LAST_PORT),
        default=DEFAULT_PORT,
        metavar="P",
        help=f"of the game's plugin; default: {DEFAULT_PORT}",
    )
    parser.add_argument(
        "--no-launch", action="store_true", help="wait for a game that somebody else launches"
    )
    parser.add_argument(
        "--timeout-s",
        type=number_up_to(LONGEST_ANSWER_S),
        default=30.0,
        metavar="S",
        help="seconds to wait for each answer of the game; default: 30",
    )


def _add_check(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    check = subcommands.add_parser(
        "check", help="check step by step what driving in the game needs, and say what to do"
    )
    check.add_argument("--map", metavar="M", help="also drive; path below Tracks/Challenges")
    check.add_argument(
        "--live",
        type=Path,
        metavar="JSON",
        help="measure what is unknown of the game, and write it to this file; needs --map",
    )
    check.add_argument("--overwrite", action="store_true", help="replace an existing JSON file")
    _add_game(check)
    check.set_defaults(run=run_check)


def _add_drive(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    drive = subcommands.add_parser("drive", help="drive an input file and print its time")
    drive.add_argument("inputs", type=Path, metavar="FILE", help=".inputs file or input script")
    drive.add_argument("--map", required=True, metavar="M", help="path below Tracks/Challenges")
    _add_game(drive)
    drive.set_defaults(run=run_drive)


def _add_serve(subcommands: "Commands[argparse.ArgumentParser]") -> None:
    serve = subcommands.add_parser(
        "serve-sim", help="serve the simulator behind the game's protocol, to try without a game"
    )
    serve.add_argument(
        "--track",
        dest="tracks",
        nargs="+",
        required=True,
        metavar="TRACK",
        help="names, random:SEED or .npy lines; the map of random:5 is called random-5, that of a "
        "line as its file, others as their track",
    )
    serve.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="P",
        help=f"that clients connect to; 0: any free one; default: {DEFAULT_PORT}",
    )
    serve.add_argument(
        "--checkpoints", type=int, default=3, metavar="N", help="before the finish; default: 3"
    )
    _add_unknowns(serve)
    _add_faults(serve)
    serve.set_defaults(run=run_serve)


def _add_unknowns(serve: argparse.ArgumentParser) -> None:
    unknown = serve.add_argument_group("what is unknown of the real game")
    unknown.add_argument(
        "--run-step",
        choices=("after", "before"),
        default="after",
        help="whether the run step of a time comes after the tick that leads to it (default), or "
        "before the next tick",
    )
    unknown.add_argument(
        "--late-pause",
        type=int,
        default=0,
        metavar="TICKS",
        help="number of ticks that are still driven after speed 0; default: 0",
    )
    unknown.add_argument(
        "--state-offset",
        type=int,
        default=0,
        metavar="MS",
        help="race time inside a state, less that of its message; default: 0",
    )
    for name, text in (
        ("--no-rewind-in-frame", "a rewind has no effect while a frame is sent"),
        ("--step-after-rewind", "the run step of the time that was rewound to comes again"),
        ("--checkpoint-first", "a tick's checkpoint comes before its run step"),
        ("--counts-laps", "the finish comes as a lap, too"),
        ("--reversed-commands", "console commands of one picture run in reverse"),
        ("--no-exit-map", "the console command exit_map does nothing"),
        ("--community-plugin", "no client is taken while another is waited for"),
    ):
        unknown.add_argument(name, action="store_true", help=text)


def _add_faults(serve: argparse.ArgumentParser) -> None:
    faults = serve.add_argument_group("faults on purpose")
    faults.add_argument(
        "--fault-rate", type=float, default=0.0, metavar="R", help="share of the messages, 0 to 1"
    )
    faults.add_argument("--faults", nargs="+", metavar="KIND", help="default: all kinds")
    faults.add_argument("--fault-seed", type=seed, default=0, metavar="S", help="default: 0")
    faults.add_argument(
        "--fault-gap",
        type=int,
        default=0,
        metavar="N",
        help="messages after a fault in which no other one follows; default: 0",
    )
    faults.add_argument(
        "--hang-s", type=positive_number, default=3.0, metavar="S", help="default: 3"
    )


def _settings(arguments: argparse.Namespace) -> "GameConfig":
    from datasets.contract.config import load_config
    from rl.config.game import GameConfig

    values = {
        "base_port": arguments.port,
        "launch": str(not arguments.no_launch).lower(),
        "timeout_s": arguments.timeout_s,
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    return load_config(GameConfig, None, overrides, environment={})


def run_install(arguments: argparse.Namespace) -> int:
    """Copy the plugin and maps that are missing or differ."""
    from rl.envs.tmnf.machine.install import (
        PLUGIN,
        check_interface_folder,
        install_maps,
        install_plugin,
        other_plugin,
    )
    from rl.envs.tmnf.machine.machine_paths import GameMachine

    machine = GameMachine.from_environment()
    check_interface_folder(machine)  # before the first copy
    maps = install_maps(machine, arguments.maps, overwrite=arguments.overwrite)
    copies = {**maps, machine.plugins / PLUGIN.name: install_plugin(machine)}
    for path, is_copied in copies.items():
        print(f"{path}: {'copied' if is_copied else 'is up to date'}")
    if any(copies.values()):
        print("restart the game if it runs: it looks for plugins and maps when it starts")
    other = other_plugin(machine)
    if other is not None:
        print(f"{other}: wants the same port; use one of the two")
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Check step by step; exit code 1 if a check failed."""
    from datasets.contract.errors import UserError
    from datasets.contract.files import check_output, write_json
    from rl.envs.tmnf.check import Finding, GameCheck, run_checks
    from rl.envs.tmnf.machine.game_process import end_games
    from rl.envs.tmnf.machine.machine_paths import GameMachine, check_map_path

    if arguments.map is not None:
        check_map_path(arguments.map)
    if arguments.live is not None:
        if arguments.map is None:
            raise UserError("--live needs --map: it measures in a race")
        check_output(arguments.live, overwrite=arguments.overwrite)
    check = GameCheck(GameMachine.from_environment(), _settings(arguments), arguments.map)

    def report(finding: Finding) -> None:
        print(f"{'ok  ' if finding.is_good else 'FAIL'} {finding.name}: {finding.text}")
        if finding.hint and not finding.is_good:
            print(f"     {finding.hint}")

    try:
        if not run_checks(check, report):
            return 1
        if arguments.live is not None:
            write_json(arguments.live, check.measure())
            print(f"measured: {arguments.live}")
    finally:
        end_games()
    return 0


def run_drive(arguments: argparse.Namespace) -> int:
    """Drive an input file; exit code 1 if it does not finish."""
    from datasets.inputs import read_inputs
    from rl.envs.tmnf.connection import GameConnection
    from rl.envs.tmnf.drive_inputs import drive_inputs
    from rl.envs.tmnf.machine.game_process import end_games
    from rl.envs.tmnf.machine.machine_paths import check_map_path
    from rl.reporting.progress import ProgressBar

    check_map_path(arguments.map)
    inputs = read_inputs(arguments.inputs)
    connection = GameConnection(_settings(arguments), 0, None)
    try:
        with ProgressBar(f"driving {arguments.inputs.name}") as bar:
            driven = drive_inputs(connection, arguments.map, inputs, bar.update)
    finally:
        end_games()
    splits = ", ".join(f"{time_ms / 1000:.2f}" for time_ms in driven.checkpoint_times_ms)
    seconds = driven.race_time_ms / 1000.0
    if driven.finished:
        print(f"{arguments.inputs.name} on {arguments.map}: {seconds:.2f} s (splits: {splits})")
        return 0
    where = f"{driven.way_m:.0f} m from the start"
    print(f"{arguments.inputs.name} on {arguments.map}: no finish in {seconds:.2f} s, {where}")
    return 1


def tracks_by_map(specs: Sequence[str]) -> "dict[str, Track]":
    """Return the tracks to serve, by names of maps that the game can be told to load.

    Raises:
        UserError: no such track, a name that cannot be loaded, or two tracks of one name.
    """
    from datasets.contract.errors import UserError
    from rl.envs.registry import find_track
    from rl.envs.tmnf.machine.machine_paths import check_map_path

    tracks: dict[str, Track] = {}
    for spec in specs:
        name = Path(spec.replace(":", "-")).name
        if name in tracks:
            raise UserError(f"--track {spec}: there is a map {name!r} already")
        tracks[name] = find_track(spec)
        check_map_path(name)
    return tracks


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from datasets.contract.actions import TICK_MS
    from datasets.contract.errors import UserError
    from rl.envs.tmnf.server.behaviour import Behaviour
    from rl.envs.tmnf.server.faults import Fault, FaultPlan
    from rl.envs.tmnf.server.plugin_model import PluginModel
    from rl.envs.tmnf.server.simulated_game import SimulatedGame
    from rl.envs.tmnf.server.tcp_server import TcpServer

    if not 0 <= arguments.checkpoints <= 100:
        raise UserError(f"--checkpoints {arguments.checkpoints}: expected 0 to 100")
    if arguments.late_pause < 0:
        raise UserError(f"--late-pause {arguments.late_pause}: expected 0 or more ticks")
    if arguments.state_offset % TICK_MS:
        raise UserError(f"--state-offset {arguments.state_offset}: expected a multiple of 10 ms")
    known = {fault.value: fault for fault in Fault}
    for kind in arguments.faults or ():
        if kind not in known:
            raise UserError(f"--faults {kind}: unknown; known: {', '.join(known)}")
    plan = None
    if arguments.fault_rate:
        kinds = [known[kind] for kind in arguments.faults or known]
        rate, seed = arguments.fault_rate, arguments.fault_seed
        plan = FaultPlan(rate, kinds, seed, arguments.fault_gap, hang_s=arguments.hang_s)
    behaviour = Behaviour(
        run_step=arguments.run_step,
        late_pause_ticks=arguments.late_pause,
        state_offset_ms=arguments.state_offset,
        rewinds_in_frames=not arguments.no_rewind_in_frame,
        step_after_rewind=arguments.step_after_rewind,
        checkpoint_first=arguments.checkpoint_first,
        counts_laps=arguments.counts_laps,
        reversed_commands=arguments.reversed_commands,
        knows_exit_map=not arguments.no_exit_map,
        own_plugin=not arguments.community_plugin,
    )
    tracks = tracks_by_map(arguments.tracks)
    game = SimulatedGame(tracks, arguments.checkpoints)
    game.warm_up()
    server = TcpServer(PluginModel(game, behaviour), arguments.port, plan)
    print(f"serving {', '.join(tracks)} on port {server.port} (Ctrl-C ends it)", flush=True)
    try:
        server.serve()
    finally:
        server.close()
    return 0
