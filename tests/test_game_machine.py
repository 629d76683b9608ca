"""The game's windows, processes and files on a machine, Windows' among them."""

import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from rl.envs.tmnf.check import GameCheck
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.machine import supervisor
from rl.envs.tmnf.machine.game_process import end_games, game_process
from rl.envs.tmnf.machine.supervisor import LoadedGame
from rl.envs.tmnf.machine.window import focus_process, listener_in
from tests.game_samples import machine, served, settings
from tests.test_game_process import pid_in

posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts")


def on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let programs of a folder be found before all others; returns the folder."""
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def program(folder: Path, name: str, body: str) -> Path:
    """Write a shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


# -- focus ----------------------------------------------------------------------------------------

NETSTAT = """
Aktive Verbindungen

  Proto  Lokale Adresse         Remoteadresse          Status           PID
  TCP    127.0.0.1:8478         127.0.0.1:50110        WARTEND          0
  TCP    127.0.0.1:50111        127.0.0.1:8479         HERGESTELLT      77
  TCP    127.0.0.1:18479        0.0.0.0:0              ABH\u00d6REN         11
  TCP    127.0.0.1:8478         0.0.0.0:0              ABH\u00d6REN         4711
  TCP    127.0.0.1:8479         0.0.0.0:0              ABH\u00d6REN         4712
"""


def test_the_process_that_listens_on_a_port_is_found() -> None:
    assert [listener_in(NETSTAT, port) for port in (8478, 8479, 8480)] == [4711, 4712, None]
    assert listener_in("", 8478) is None


class User32:
    """Some windows of Windows, with the calls that do not wait for a window's thread."""

    def __init__(self, *windows: tuple[str, int, bool]) -> None:
        self._windows = windows
        self.calls: list[tuple[str, int]] = []

    def EnumWindows(self, visit: Any, extra: int) -> None:
        for window in range(1, len(self._windows) + 1):
            if not visit(window, extra):
                return

    def GetWindowTextW(self, window: int, text: Any, length: int) -> None:
        text.value = self._windows[window - 1][0][: length - 1]

    def GetWindowThreadProcessId(self, window: int, process: Any) -> None:
        process._obj.value = self._windows[window - 1][1]

    def IsWindowVisible(self, window: int) -> bool:
        return self._windows[window - 1][2]

    def ShowWindowAsync(self, window: int, how: int) -> None:
        self.calls.append(("show", window))

    def SetForegroundWindow(self, window: int) -> None:
        self.calls.append(("focus", window))


@pytest.mark.parametrize(("process", "window"), [(4712, 5), (4711, 2), (None, 2), (9, None)])
def test_of_several_games_the_one_with_the_process_gets_the_focus(
    process: int | None, window: int | None
) -> None:
    user32 = User32(
        ("Notes", 4712, True),
        ("TrackMania Modded", 4711, True),
        ("Track list", 4712, False),
        ("TMInterface", 4712, True),
        ("TrackMania Modded", 4712, True),
    )
    focus_process(user32, process)
    assert user32.calls == ([] if window is None else [("show", window), ("focus", window)])


@posix
def test_each_load_of_a_map_asks_once_for_the_focus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program(on_path(tmp_path / "bin", monkeypatch), "xdotool", f'echo "$@" >> {asked}')
    with served(tracks=("short", "A01")) as game:
        cfg = settings(game.port, focus=True, launch=False)
        connection = GameConnection(cfg, 0, None, machine=machine(tmp_path))
        for name in ("short", "short", "A01", "short"):
            connection.race_on(name)
        connection.close()
    lines = asked.read_text(encoding="utf-8").splitlines()
    assert lines == ["search --name ^Track windowactivate"] * 3


@posix
def test_a_game_in_a_wine_desktop_is_found_by_the_desktop_of_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    programs = on_path(tmp_path / "bin", monkeypatch)
    program(programs, "xdotool", f'echo "$3" >> {asked}')
    program(programs, "wine", "exec sleep 600")
    monkeypatch.setattr("rl.envs.tmnf.machine.game_process._LAUNCHED", {})  # other tests' games
    loader = tmp_path / "TMLoader.exe"
    there = machine(tmp_path, TMLOADER_PATH=str(loader), TMNF_LOGIN="driver_1")
    try:
        for port in (8478, 8479):
            process = game_process(there, port, windowed=True)
            process.launch()
            process.focus()
        process.end()
        process.focus()  # of a game that somebody else has launched
    finally:
        end_games()
    titles = asked.read_text(encoding="utf-8").split()
    assert titles == ["^rulka8478([^0-9]|$)", "^rulka8479([^0-9]|$)", "^Track"]


# -- the game as a child of the loader, as on Windows ---------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Stand-ins for Windows' programs, which note what they are called with."""

    folder: Path

    def set_processes(self, *lines: str) -> None:
        """Say the number and creation time of each game that runs."""
        text = "".join(f"{line}\n" for line in lines)
        (self.folder / "processes").write_text(text, encoding="utf-8")

    def asked(self) -> list[str]:
        """What `powershell` was asked."""
        return (self.folder / "asked").read_text(encoding="utf-8").splitlines()

    def ended(self) -> list[str]:
        """What `taskkill` was told."""
        file = self.folder / "ended"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Windows:
    folder = on_path(tmp_path / "bin", monkeypatch)
    program(folder, "powershell", f'echo "$3" >> {folder}/asked; cat {folder}/processes')
    program(folder, "taskkill", f'echo "$@" >> {folder}/ended')
    monkeypatch.setattr(supervisor, "LOOK_S", 0.0)
    return Windows(folder)


def game_of_a_loader_that_ends() -> LoadedGame:
    game = LoadedGame(["true"])
    while game.exit_code() is None:
        time.sleep(0.005)
    return game


@posix
def test_a_game_of_the_loader_runs_until_its_number_is_another_ones(windows: Windows) -> None:
    windows.set_processes("4711 100")
    game = game_of_a_loader_that_ends()
    assert game.is_running()
    assert game.is_running()
    assert "ParentProcessId=" in windows.asked()[0]
    assert "ProcessId=4711" in windows.asked()[1]
    assert all("Name='TmForever.exe'" in line for line in windows.asked())
    windows.set_processes("4711 200")  # another game, started later, with the same number
    assert not game.is_running()
    windows.set_processes()
    assert not game.is_running()
    assert windows.ended() == []


@posix
def test_only_a_process_with_the_games_name_is_ended(windows: Windows) -> None:
    windows.set_processes("4711 100")
    game = game_of_a_loader_that_ends()
    game.end()  # before anybody has looked for it
    assert windows.ended() == ["/PID 4711 /FI IMAGENAME eq TmForever.exe /T /F"]


@posix
def test_a_loader_that_runs_may_still_start_a_game_and_is_ended_with_it(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CHILD_S", 0.0)
    windows.set_processes()
    assert not game_of_a_loader_that_ends().is_running()
    file = windows.folder / "pid"
    game = LoadedGame(["sh", "-c", f"echo $$ > {file}; exec sleep 600"])
    loader = pid_in(file)
    try:
        monkeypatch.setattr(supervisor, "CHILD_S", 60.0)
        assert game.is_running()
        monkeypatch.setattr(supervisor, "CHILD_S", 0.0)
        game.end()
        assert windows.ended() == [f"/PID {loader} /T /F"]
    finally:
        os.kill(loader, signal.SIGKILL)


@posix
def test_a_look_that_takes_too_long_says_nothing_about_the_game(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows.set_processes("4711 100")
    game = game_of_a_loader_that_ends()
    assert game.is_running()
    monkeypatch.setattr(supervisor, "ASK_S", 0.1)
    program(windows.folder, "powershell", "exec sleep 600")
    assert game.is_running()
    game.end()
    assert windows.ended() == ["/PID 4711 /FI IMAGENAME eq TmForever.exe /T /F"]


# -- login ----------------------------------------------------------------------------------------


@posix
def test_a_game_that_would_wait_in_its_login_screen_is_not_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched = tmp_path / "launched"
    program(on_path(tmp_path / "bin", monkeypatch), "wine", f"echo 1 > {launched}")
    for name in ("TMNF_LAUNCH_SCRIPT", "TMNF_LOGIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMLOADER_PATH", str(tmp_path / "TMLoader.exe"))
    monkeypatch.setenv("WINEPREFIX", str(tmp_path))
    inputs = tmp_path / "run.inputs"
    inputs.write_text("0.00 press up\n", encoding="ascii")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    assert main(["game", "drive", str(inputs), "--map", "short", "--port", port]) == 2
    error = capsys.readouterr().err.strip()
    assert "TMNF_LOGIN is not set" in error
    assert "\n" not in error
    assert main(["game", "check", "--port", port]) == 1
    steps = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert steps[-1].startswith("FAIL port and process: TMNF_LOGIN is not set")
    assert not launched.exists()


def test_only_a_game_that_the_loader_launches_needs_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = {"TMLOADER_PATH": str(tmp_path / "TMLoader.exe")}
    for variables, launch, needs_login in (
        (loader, True, True),
        (loader, False, False),
        ({**loader, "TMNF_LOGIN": "driver_1"}, True, False),
        ({**loader, "TMNF_LAUNCH_SCRIPT": str(tmp_path / "game.sh")}, True, False),
    ):
        monkeypatch.setattr("rl.envs.tmnf.machine.game_process._LAUNCHED", {})
        short = settings(9, launch=launch, timeout_s=0.1)
        finding = list(GameCheck(machine(tmp_path, **variables), short).findings())[-1]
        assert finding.name == "port and process"
        assert ("TMNF_LOGIN" in finding.text) == needs_login


# -- maps -----------------------------------------------------------------------------------------


@pytest.fixture
def challenges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the maps of a machine that environment variables tell of."""
    monkeypatch.setenv("TMINTERFACE_FOLDER", str(tmp_path / "TMI"))
    monkeypatch.setenv("TRACKMANIA_FOLDER", str(tmp_path / "TM"))
    folder = tmp_path / "TM" / "Tracks" / "Challenges"
    folder.mkdir(parents=True)
    (tmp_path / "TMI").mkdir()
    return folder


def map_file(path: Path, content: str) -> Path:
    path.write_text(content, encoding="ascii")
    return path


def test_maps_are_copied_and_none_is_replaced_unasked(
    challenges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = [map_file(tmp_path / f"{name}.Challenge.Gbx", name) for name in ("A", "B")]
    arguments = ["game", "install", *map(str, maps)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count(": copied") == 3
    assert "restart the game" in out
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count(": is up to date") == 3
    assert "restart" not in out
    map_file(maps[0], "A anew")
    map_file(maps[1], "B anew")
    map_file(challenges / "A.Challenge.Gbx", "A anew")
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "--overwrite" in error
    assert "\n" not in error
    assert (challenges / "B.Challenge.Gbx").read_text(encoding="ascii") == "B"
    assert main([*arguments, "--overwrite"]) == 0
    assert (challenges / "B.Challenge.Gbx").read_text(encoding="ascii") == "B anew"
    assert sorted(path.name for path in challenges.iterdir()) == [path.name for path in maps]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.Challenge.Gbx", "no such file"),
        ("folder.Challenge.Gbx", "not a file"),
        ("good.Replay.Gbx", "expected a map"),
        ('quo"te.Challenge.Gbx', "in ASCII"),
        ("below/good.Challenge.Gbx", "the same name"),
    ],
)
def test_of_maps_that_cannot_be_installed_none_is(
    name: str, text: str, challenges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = map_file(tmp_path / "good.Challenge.Gbx", "good")
    (tmp_path / "folder.Challenge.Gbx").mkdir()
    (tmp_path / "below").mkdir()
    if "good" in name:
        map_file(tmp_path / name, "another")
    assert main(["game", "install", str(good), str(tmp_path / name)]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "\n" not in error
    assert not any(challenges.iterdir())
    assert not any((tmp_path / "TMI").iterdir())


def test_without_the_folder_of_tminterface_no_map_is_copied(
    challenges: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "TMI").rmdir()
    good = map_file(tmp_path / "good.Challenge.Gbx", "good")
    assert main(["game", "install", str(good)]) == 2
    assert "TMINTERFACE_FOLDER" in capsys.readouterr().err
    assert not any(challenges.iterdir())
