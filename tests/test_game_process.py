"""The game on a machine: paths, installation, launching, checks, input files."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from datasets.contract.errors import UserError
from datasets.inputs import Inputs
from pipeline.cli import main
from pipeline.commands.game import game_command
from rl.envs.registry import find_track
from rl.envs.tmnf import connection as connections
from rl.envs.tmnf.check import GameCheck
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.drive_inputs import drive_inputs
from rl.envs.tmnf.game_cars import link_to_simulator
from rl.envs.tmnf.link import LinkError, SilentGameError
from rl.envs.tmnf.machine.game_process import SUPERVISOR, GameProcess, end_games, game_process
from rl.envs.tmnf.machine.install import PLUGIN, install_plugin, is_installed
from rl.envs.tmnf.machine.machine_paths import GameMachine, check_map_path, check_plain_name
from rl.envs.tmnf.messages import MessageId
from rl.envs.tmnf.server.memory_link import MemoryLink
from rl.envs.tmnf.server.plugin_model import PluginModel
from rl.envs.tmnf.server.simulated_game import SimulatedGame
from tests.game_samples import machine, settings
from tests.test_game_batch import expert_keys

# -- paths and names ------------------------------------------------------------------------------


def test_paths_come_from_the_environment(tmp_path: Path) -> None:
    found = machine(tmp_path, TMLOADER_PATH=str(tmp_path / "TMLoader.exe"), TMNF_LOGIN="driver_1")
    assert found.challenges == tmp_path / "TM" / "Tracks" / "Challenges"
    assert found.plugins == tmp_path / "TMI" / "Plugins"
    command = found.launch_command(8480, windowed=True)
    assert command[-1] == "/configstring=set custom_port 8480"
    assert command[-4:-1] == ["run", "TmForever", "default"]
    assert (command[0] == "wine") == (sys.platform != "win32")
    script = machine(tmp_path, TMNF_LAUNCH_SCRIPT="/opt/game.sh")
    assert script.launch_command(8481, windowed=True) == ["/opt/game.sh", "8481"]
    with pytest.raises(UserError, match="TMLOADER_PATH"):
        machine(tmp_path).launch_command(8478, windowed=True)
    loader_only = machine(tmp_path, TMLOADER_PATH=str(tmp_path / "TMLoader.exe"))
    with pytest.raises(UserError, match="TMNF_LOGIN is not set"):
        loader_only.launch_command(8478, windowed=True)


@pytest.mark.parametrize("name", ["two words", "dri\u00e9", 'quo"te', "it's", ""])
def test_names_that_scripts_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="ASCII"):
        check_plain_name(name, "TMNF_LOGIN")


@pytest.mark.parametrize(
    "path", ["/abs.gbx", "C:\\map.gbx", "a\u00e9.gbx", 'a"b', "", "../x", "a;b"]
)
def test_paths_that_the_command_cannot_have_are_refused(path: str) -> None:
    with pytest.raises(UserError, match="Tracks/Challenges"):
        check_map_path(path)
    check_map_path("My Challenges\\A01-Race.Challenge.Gbx")


# -- installation ---------------------------------------------------------------------------------


def test_the_plugin_is_copied_if_it_differs(tmp_path: Path) -> None:
    there = machine(tmp_path)
    with pytest.raises(UserError, match="TMINTERFACE_FOLDER"):
        install_plugin(there)
    there.interface_folder.mkdir(parents=True)
    assert install_plugin(there)
    assert is_installed(there)
    assert not install_plugin(there)
    installed = there.plugins / PLUGIN.name
    installed.write_text("another version", encoding="utf-8")
    assert not is_installed(there)
    assert install_plugin(there)
    assert installed.read_bytes() == PLUGIN.read_bytes()


def test_the_plugin_has_the_ids_of_the_messages() -> None:
    text = PLUGIN.read_text(encoding="ascii")
    for id_ in MessageId:
        assert f"const int {id_.name} = {id_.value};" in text
        assert text.count(id_.name) > 1  # it is used, too
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")


DATA = Path(__file__).parent / "data"
HAS_COMPILER = shutil.which("c++") is not None and any(
    (Path(root) / "angelscript" / "scriptarray.h").exists()
    for root in ("/usr/include", "/usr/local/include")
)


@pytest.mark.skipif(not HAS_COMPILER, reason="needs c++ and AngelScript (Debian: angelscript-dev)")
def test_the_plugin_compiles_listens_and_waits_with_stubs(tmp_path: Path) -> None:
    compiler = tmp_path / "compile_angelscript"
    libraries = ["-langelscript-addon", "-langelscript"]
    source = str(DATA / "compile_angelscript.cpp")
    subprocess.run(["c++", "-O0", source, *libraries, "-o", str(compiler)], check=True)

    def errors_of(*files: Path) -> list[str]:
        command = [str(compiler), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (not done.stdout)
        return done.stdout.splitlines()

    stubs = DATA / "tminterface_stubs.as"
    assert errors_of(stubs, PLUGIN) == []
    for check in ("plugin_listens.as", "plugin_waits.as"):
        assert errors_of(stubs, PLUGIN, DATA / check) == []
    wrong = tmp_path / "wrong.as"
    text = PLUGIN.read_text(encoding="ascii")
    wrong.write_text(text.replace("client.ReadFloat()", "client.ReadBytes(4)"), encoding="ascii")
    assert any("SetSpeed" in line for line in errors_of(stubs, wrong))


# -- processes ------------------------------------------------------------------------------------


def script(folder: Path, body: str) -> GameMachine:
    """A machine whose game is a shell script that is called with the port."""
    path = folder / "game.sh"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
    path.chmod(0o755)
    return machine(folder, TMNF_LAUNCH_SCRIPT=str(path))


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended while it was read
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Whether a process ends within some time."""
    deadline = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def pid_in(file: Path) -> int:
    """The number that a script writes into a file, once it is there."""
    deadline = time.monotonic() + 60.0
    while not (file.exists() and file.read_text(encoding="ascii").strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(file.read_text(encoding="ascii"))


posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts and process groups")


class SilentLink(MemoryLink):
    """A link to a game that puts its greeting off."""

    def __init__(self, plugin: PluginModel, *, silences: int) -> None:
        super().__init__(plugin)
        self._silences = silences

    def read_exactly(self, count: int, timeout_s: float) -> bytes:
        if self._silences:
            self._silences -= 1
            raise SilentGameError("nothing yet")
        return super().read_exactly(count, timeout_s)


@posix
def test_only_what_was_launched_is_ended(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    file = tmp_path / "pid"
    # The game is a child that the loader leaves behind.
    there = script(tmp_path, f"sleep 600 & echo $! > {file}; exit 0")
    process = GameProcess(there, 8478, windowed=False)
    assert not process.is_running
    process.launch()
    game = pid_in(file)
    assert process.is_running
    assert process.is_new
    process.note_greeting()
    assert not process.is_new
    process.end()
    assert gone(game)
    assert not process.is_running
    assert is_alive(bystander.pid)
    bystander.kill()
    bystander.wait()


@posix
@pytest.mark.parametrize("ending", ["SIGKILL", "SIGINT", "SIGTERM", "SIGHUP"])
def test_a_game_ends_with_the_process_that_launched_it(ending: str, tmp_path: Path) -> None:
    """The other signals reach all of the process's group, as those of a closed terminal do."""
    file, asked = tmp_path / "pid", tmp_path / "asked"
    trap = f"trap 'kill $!; echo 1 > {asked}; exit' TERM"
    there = script(tmp_path, f"{trap}; echo $$ > {file}; sleep 600 & wait")
    command = [sys.executable, str(SUPERVISOR), str(there.launch_script), "8478"]
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time;"
            "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); time.sleep(600)",
            *command,
        ],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    game = pid_in(file)
    number = getattr(signal, ending)
    if number == signal.SIGKILL:
        parent.kill()
    else:
        os.killpg(parent.pid, number)
    parent.wait()
    assert gone(game)
    assert asked.exists()  # it was asked to end before it was killed


@posix
def test_a_launch_program_that_ends_at_once_is_not_started_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "TRY_S", 0.02)
    launches = tmp_path / "launches"
    there = script(tmp_path, f"echo $1 >> {launches}; exit 3")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    connection = GameConnection(settings(port), 0, None, machine=there)
    try:
        with pytest.raises(
            UserError, match=rf"ended 2 times \(exit code 3\).* port {port}"
        ) as ended:
            connection.connect()
    finally:
        end_games()
    assert "\n" not in str(ended.value)
    assert launches.read_text(encoding="ascii").split() == [str(port)] * 2


@posix
def test_a_launched_game_may_start_slowly_and_is_new_until_it_greets(tmp_path: Path) -> None:
    """Its console is open, so that the first client it greets has to close it."""
    plugins = [PluginModel(SimulatedGame({"short": find_track("short")})) for _ in range(2)]
    links = iter([SilentLink(plugins[0], silences=3), SilentLink(plugins[1], silences=0)])
    there, signs = script(tmp_path, "exec sleep 600"), list[int]()
    connection = GameConnection(
        settings(9, timeout_s=0.01),
        0,
        None,
        alive=lambda: signs.append(0),
        open_link=lambda: next(links),
        machine=there,
    )
    process = game_process(there, 9, windowed=True)
    process.launch()
    try:
        connection.race_on("short")
        assert "toggle_console" in plugins[0].commands
        assert len(signs) > 3
        connection.fail(LinkError("gone"))
        connection.race_on("short")
        assert "toggle_console" not in plugins[1].commands
    finally:
        end_games()


@posix
def test_a_missing_program_is_named(tmp_path: Path) -> None:
    process = GameProcess(
        machine(tmp_path, TMNF_LAUNCH_SCRIPT=str(tmp_path / "none.sh")), 8478, windowed=False
    )
    with pytest.raises(UserError, match=r"none\.sh"):
        process.launch()


# -- checks and input files -----------------------------------------------------------------------


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[GameConnection]:
    connection = GameConnection(
        settings(), 0, None, open_link=link_to_simulator(["short"]), machine=machine(tmp_path)
    )
    yield connection
    connection.close()


def test_checks_stop_at_what_is_missing_and_say_what_to_do(tmp_path: Path) -> None:
    check = GameCheck(machine(tmp_path), settings(9, launch=False, timeout_s=0.2), "short")
    found = {finding.name: finding for finding in check.findings()}
    assert list(found) == ["folders", "loader profile", "plugin", "port and process"]
    assert not found["folders"].is_good
    assert "TMINTERFACE_FOLDER" in found["folders"].text
    assert found["plugin"].hint == "rulka-pipeline game install"
    assert not found["port and process"].is_good


def test_a_program_on_the_port_that_is_no_game_is_told_with_the_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        check = GameCheck(machine(tmp_path), settings(port, launch=False, timeout_s=0.2))
        *_, found = check.findings()
    assert (found.name, found.is_good) == ("port and process", False)
    assert found.text.startswith(f"port {port}: ")
    assert "another program" in found.hint


def test_an_input_file_is_driven_to_its_time(connection: GameConnection) -> None:
    keys = expert_keys("short", 0)
    driven = drive_inputs(connection, "short", Inputs(keys.repeat(5), rest=int(keys[-1])))
    assert driven.finished
    assert len(driven.checkpoint_times_ms) == 4
    assert driven.checkpoint_times_ms[-1] == driven.race_time_ms
    assert 5 * 10 * (len(keys) - 1) < driven.race_time_ms <= 50 * len(keys)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--port", "0"), ("--port", "65001"), ("--timeout-s", "0"), ("--timeout-s", "100.5")],
)
def test_a_number_out_of_range_is_refused_by_the_name_of_its_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["game", "check", option, value])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"{option}: expected" in error.replace("argument ", "")
    assert "--set" not in error


def test_options_have_the_limits_of_the_configuration() -> None:
    settings(game_command.LAST_PORT, timeout_s=game_command.LONGEST_ANSWER_S)
    for wrong in ({"port": game_command.LAST_PORT + 1}, {"timeout_s": 100.5}):
        with pytest.raises(ValidationError):
            settings(**wrong)


def test_served_tracks_have_names_that_can_be_loaded(tmp_path: Path) -> None:
    line = tmp_path / "mine.npy"
    np.save(line, find_track("short").line.points)
    found = game_command.tracks_by_map(["short", "random:5", str(line)])
    assert list(found) == ["short", "random-5", "mine.npy"]
    for name in found:
        check_map_path(name)
    with pytest.raises(UserError, match=r"mine\.npy"):
        game_command.tracks_by_map([str(line), str(tmp_path / ".." / tmp_path.name / "mine.npy")])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["game", "serve-sim", "--track", "nowhere"], "unknown track"),
        (["game", "serve-sim", "--track", "short", "--port", "99999"], "port 99999"),
        (["game", "serve-sim", "--track", "short", "--faults", "rain"], "rain"),
        (["game", "drive", "none.inputs", "--map", "A01"], "none.inputs"),
        (["game", "drive", "none.inputs", "--map", "/A01"], "Tracks/Challenges"),
        (["game", "serve-sim", "--track", "short", "short"], "short"),
        (["game", "check", "--live", "found.json"], "--live needs --map"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "\n" not in error
