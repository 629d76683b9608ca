"""The link to the game when something goes wrong: faults, silence, other clients, killed ones."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from rl.envs.cars import RunLostError
from rl.envs.registry import find_track
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_batch import GameBatch
from rl.envs.tmnf.game_race import GameRace
from rl.envs.tmnf.game_session import GameSession
from rl.envs.tmnf.link import LinkError, TcpLink
from rl.envs.tmnf.map_loading import MapNotLoadedError
from rl.envs.tmnf.messages import NUMBER, MessageId, encode
from rl.envs.tmnf.server.behaviour import Behaviour
from rl.envs.tmnf.server.memory_link import MemoryLink
from rl.envs.tmnf.server.plugin_model import Pause, PluginModel
from rl.envs.tmnf.server.simulated_game import COUNTDOWN_MS, SimulatedGame
from tests.game_samples import SIZE, game_batch, machine, served, settings

FORWARD = np.zeros(1, dtype=np.uint8)
TIMEOUT_S = 1.5
"""Deadline of the client in the tests of faults."""


def menus(clock: Callable[[], float] = time.monotonic, *, own_plugin: bool = True) -> PluginModel:
    """A plugin in the menus of a game without maps."""
    return PluginModel(SimulatedGame({}), Behaviour(own_plugin=own_plugin), clock)


# -- the plugin's patience ------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_silent_client_is_dropped_after_the_timeout_of_its_own() -> None:
    clock = Clock()
    model = menus(clock=clock)
    game = model.run()
    model.connect()
    assert next(game) == Pause.INPUT
    assert model.outbox == [encode(MessageId.CONNECTED)]
    clock.now = 1.9
    model.receive(encode(MessageId.RESPONSE_TIMEOUT, 5000))  # takes effect at once
    next(game)
    clock.now = 4.9  # since the wait began; a command does not begin it anew
    next(game)
    assert model.client is not None
    clock.now = 5.1
    next(game)
    assert model.client is None


def test_an_unknown_id_shifts_what_follows_or_loses_the_client() -> None:
    for own_plugin in (False, True):
        model = menus(own_plugin=own_plugin)
        game = model.run()
        model.connect()
        next(game)
        model.receive(struct.pack("<i", 99) + encode(MessageId.IS_IN_MENUS))
        model.outbox.clear()
        next(game)
        assert model.outbox == ([] if own_plugin else [NUMBER.pack(1)])
        assert (model.client is None) == own_plugin


def test_a_client_that_lives_is_waited_for_and_a_silent_one_not_without_end() -> None:
    clock = Clock()
    for own_plugin in (False, True):
        model = menus(clock, own_plugin=own_plugin)
        game = model.run()
        model.connect()
        clock.now = 0.0
        next(game)
        for _ in range(3):
            model.receive(encode(MessageId.RESPONSE_TIMEOUT, 600_000_000))
            next(game)
            clock.now += 599.0
            next(game)
            assert model.client is not None
        clock.now += 2.0
        next(game)
        assert (model.client is None) == own_plugin


def test_commands_without_a_race_change_nothing() -> None:
    model = menus()
    game = model.run()
    model.connect()
    next(game)
    model.outbox.clear()
    for id_, values in (
        (MessageId.REWIND_TO_CURRENT, ()),
        (MessageId.GIVE_UP, ()),
        (MessageId.SET_KEYS, (1, 0, 0, 0)),
        (MessageId.GET_STATE, ()),
        (MessageId.IS_FINISHED, ()),
        (MessageId.GET_INPUTS, ()),
    ):
        model.receive(encode(id_, *values))
    next(game)
    assert model.outbox == [NUMBER.pack(0)] * 3  # an empty state, not finished, no inputs


# -- the client's side ----------------------------------------------------------------------------


def test_nothing_is_asked_outside_a_message_of_the_game() -> None:
    session = GameSession(MemoryLink(menus()), timeout_s=1.0, margin_s=5.0)
    with pytest.raises(LinkError, match="while the game waits"):
        session.ask_number(MessageId.IS_IN_MENUS)
    assert session.next().id == MessageId.CONNECTED
    assert session.ask_number(MessageId.IS_IN_MENUS) == 1
    session.acknowledge()
    with pytest.raises(LinkError, match="nothing to acknowledge"):
        session.acknowledge()


class Peer:
    """The other end of a link: a listening socket of this process."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.link = TcpLink(self.port, timeout_s=2.0)
        self.socket, _ = self.listener.accept()

    def close(self) -> None:
        self.link.close()
        self.socket.close()
        self.listener.close()


def test_reading_ends_at_its_deadline_with_what_is_missing() -> None:
    peer = Peer()
    peer.socket.sendall(b"\x01\x02\x03")  # three bytes of four
    began = time.monotonic()
    with pytest.raises(LinkError, match="sent nothing"):
        peer.link.read_exactly(4, 0.2)
    assert 0.15 < time.monotonic() - began < 5.0
    peer.socket.sendall(b"\x04\x05")
    assert peer.link.read_exactly(4, 1.0) == b"\x01\x02\x03\x04"  # none was lost
    peer.socket.close()
    assert peer.link.read_exactly(1, 1.0) == b"\x05"
    with pytest.raises(LinkError, match="closed"):
        peer.link.read_exactly(1, 1.0)
    peer.close()


def test_the_heartbeat_stays_ahead_of_the_wait_and_falls_back() -> None:
    peer = Peer()
    session = GameSession(peer.link, timeout_s=2.0, margin_s=5.0)
    peer.socket.sendall(encode(MessageId.CONNECTED))
    assert session.next().id == MessageId.CONNECTED
    peer.socket.settimeout(5.0)
    beat = peer.socket.recv(8)
    assert beat[:4] == NUMBER.pack(MessageId.RESPONSE_TIMEOUT)
    (patience_ms,) = struct.unpack("<I", beat[4:])
    assert 5000 <= patience_ms < 12000
    session.acknowledge()
    assert peer.socket.recv(12) == encode(MessageId.RESPONSE_TIMEOUT, 5000) + NUMBER.pack(5)
    peer.socket.settimeout(1.5)
    with pytest.raises(TimeoutError):  # no game waits now
        peer.socket.recv(1)
    session.close()
    peer.close()


def test_a_port_where_nobody_listens_is_a_link_error_in_time() -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    began = time.monotonic()
    with pytest.raises(LinkError, match=f"port {port}"):
        TcpLink(port, timeout_s=0.3)
    assert time.monotonic() - began < 5.0


def test_a_game_that_begins_otherwise_is_refused() -> None:
    peer = Peer()
    peer.socket.sendall(encode(MessageId.RUN_STEP, 50))
    session = GameSession(peer.link, timeout_s=2.0, margin_s=5.0)
    with pytest.raises(LinkError, match="RUN_STEP"):
        GameRace(session, settings(), None)
    session.close()
    peer.close()


def test_all_the_way_to_a_start_each_message_is_followed_by_a_sign_of_life(tmp_path: Path) -> None:
    """A collector without one for two minutes counts as hanging."""
    tracks = {name: find_track(name) for name in ("short", "A01")}
    events: list[str] = []

    class WatchedLink(MemoryLink):
        def read_exactly(self, count: int, timeout_s: float) -> bytes:
            events.append("read")
            return super().read_exactly(count, timeout_s)

    connection = GameConnection(
        settings(),
        0,
        None,
        alive=lambda: events.append("sign"),
        open_link=lambda: WatchedLink(PluginModel(SimulatedGame(tracks))),
        machine=machine(tmp_path),
    )
    for path in ("short", "A01"):
        connection.race_on(path)
    connection.close()
    between = [len(list(group)) for kind, group in groupby(events) if kind == "read"]
    assert max(between) <= 3  # id and payload of a message, or a query and its answer


def test_settings_and_login_reach_the_game(tmp_path: Path) -> None:
    plugin = PluginModel(SimulatedGame({"short": find_track("short")}))
    connection = GameConnection(
        settings(camera=3, unfocused_fps_limit=True, focus=True, countdown_speed=40.0),
        0,
        None,
        open_link=lambda: MemoryLink(plugin),
        machine=machine(tmp_path, TMNF_LOGIN="driver_1"),
    )
    race = connection.race_on("short")
    race.start()
    for _ in range(10):  # commands run with the next picture
        race.act(0)
    assert set(plugin.commands) == {
        "set countdown_speed 40",
        "set autologin driver_1",
        "set unfocused_fps_limit true",
        "set skip_map_load_screens true",
        "set disable_forced_camera true",
        "set autorewind false",
        "set auto_reload_plugins false",
        "set use_valseed false",
        'map "short"',
        "cam 3",
        "rulka_focus",
    }
    connection.close()


@pytest.mark.parametrize("own_plugin", [True, False])
def test_a_game_that_is_left_in_a_race_goes_on_at_its_usual_speed(own_plugin: bool) -> None:
    game = SimulatedGame({"short": find_track("short")})
    plugin = PluginModel(game, Behaviour(own_plugin=own_plugin))
    session = GameSession(MemoryLink(plugin), timeout_s=2.0, margin_s=5.0)
    race = GameRace(session, settings(), SIZE)
    race.load("short")
    stopped_ms = race.start().state.race_time_ms
    session.close()
    pictures = plugin.run()
    for _ in range(2):
        next(pictures)
    assert game.race_time_ms > stopped_ms


# -- other clients -------------------------------------------------------------------------------


def test_a_second_client_takes_the_game_and_the_first_one_notices(tmp_path: Path) -> None:
    with served() as game:
        first = game_batch(tmp_path, "short", port=game.port, launch=False, timeout_s=TIMEOUT_S)
        first.reset([0], [0])
        second = game_batch(tmp_path, "short", port=game.port, launch=False)
        second.reset([0], [0])
        with pytest.raises(RunLostError):
            drive_on(first)
        second.step(FORWARD)
        assert second.race_time_ms[0] == 50
        second.close()
        first.close()


def drive_on(cars: GameBatch) -> None:
    """Drive some more actions."""
    for _ in range(3):
        cars.step(FORWARD)


# -- clients that are killed ----------------------------------------------------------------------

CLIENT = """
import sys, time
import numpy as np
from pathlib import Path
from tests.game_samples import game_batch
cars = game_batch(Path(sys.argv[1]), "short", port=int(sys.argv[2]), launch=False)
cars.reset([0], [0])
for _ in range(5):
    cars.step(np.zeros(1, dtype=np.uint8))
print("driving", flush=True)
time.sleep(600)
"""


def kill_a_client(folder: Path, port: int) -> None:
    """Start a client, let it drive, leave the game waiting for it, and kill it."""
    command = [sys.executable, "-c", CLIENT, str(folder), str(port)]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline().strip() == "driving"
    time.sleep(1.5)  # the heartbeat has raised the plugin's patience
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    client.stdout.close()


@pytest.mark.parametrize("plugin", ["own", pytest.param("community", marks=pytest.mark.slow)])
def test_a_killed_client_frees_the_game(plugin: str, tmp_path: Path) -> None:
    options = ("--community-plugin",) if plugin == "community" else ()
    with served(*options) as game:
        kill_a_client(tmp_path, game.port)
        began = time.monotonic()
        cars = game_batch(tmp_path, "short", port=game.port, launch=False)
        cars.reset([0], [0])
        waited = time.monotonic() - began
        cars.step(FORWARD)
        assert cars.race_time_ms[0] == 50
        cars.close()
    assert waited < 10.0


@pytest.mark.slow
def test_20_killed_clients_free_the_game_within_ten_seconds(tmp_path: Path) -> None:
    with served("--community-plugin") as game:
        for _ in range(20):
            kill_a_client(tmp_path, game.port)
            began = time.monotonic()
            cars = game_batch(tmp_path, "short", port=game.port, launch=False)
            cars.reset([0], [0])
            assert time.monotonic() - began < 10.0
            cars.close()


def test_a_game_that_was_warmed_up_is_in_the_menus_and_starts_as_a_fresh_one() -> None:
    games = [SimulatedGame({"short": find_track("short")}) for _ in range(2)]
    games[0].warm_up()
    assert not games[0].in_race
    for game in games:
        game.load("short")
    for ticks in (COUNTDOWN_MS // TICK_MS, 5):
        states = [(game.drive(ticks), game.save(), game.picture(64, 64)) for game in games]
        assert states[0] == states[1]


@pytest.mark.parametrize(
    ("failures", "refused"),
    [
        ((LinkError("gone"), MapNotLoadedError("slow")), False),
        ((MapNotLoadedError("slow"), LinkError("gone")), False),
        ((MapNotLoadedError("missing"), MapNotLoadedError("missing")), True),
    ],
)
def test_only_a_map_that_fails_to_load_twice_is_refused(
    failures: tuple[Exception, ...],
    refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = list(failures)
    load = GameConnection.race_on

    def race_on(connection: GameConnection, path: str) -> GameRace:
        if left:
            raise left.pop(0)
        return load(connection, path)

    monkeypatch.setattr(GameConnection, "race_on", race_on)
    cars = game_batch(tmp_path, "short")
    with pytest.raises(UserError, match="does not load") if refused else nullcontext():
        cars.reset([0], [0])
    assert (cars.frames.max() == 0) == refused
    cars.close()
