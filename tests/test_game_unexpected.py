"""The client in a game that does otherwise than expected: other races, other times, no way back."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.contract.errors import UserError
from datasets.inputs import Inputs
from rl.envs.cars import RunLostError
from rl.envs.registry import find_track
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.drive_inputs import drive_inputs
from rl.envs.tmnf.game_batch import MOST_FAILURES, SOUND_MS, GameBatch
from rl.envs.tmnf.game_race import GameRace
from rl.envs.tmnf.game_session import GameSession
from rl.envs.tmnf.link import LinkError
from rl.envs.tmnf.map_loading import MapLoader, MapNotLoadedError
from rl.envs.tmnf.progress_on_line import MATCH_M, BoundLine, Progress
from rl.envs.tmnf.server.behaviour import Behaviour
from rl.envs.tmnf.server.memory_link import MemoryLink
from rl.envs.tmnf.server.plugin_model import PluginModel
from rl.envs.tmnf.server.simulated_game import SimulatedGame
from tests.game_samples import SIZE, game_batch, machine, settings

FORWARD = np.zeros(1, dtype=np.uint8)


def plugin_on_short(behaviour: Behaviour | None = None) -> PluginModel:
    return PluginModel(SimulatedGame({"short": find_track("short")}), behaviour)


def race_on(plugin: PluginModel) -> GameRace:
    session = GameSession(MemoryLink(plugin), timeout_s=2.0, margin_s=5.0)
    race = GameRace(session, settings(), SIZE)
    race.load("short")
    return race


def test_a_race_that_begins_anew_is_not_taken_for_the_same_one() -> None:
    plugin = plugin_on_short()
    race = race_on(plugin)
    race.start()
    race.act(0)
    plugin.game.give_up()  # as a key in the game's window would
    with pytest.raises(LinkError, match=r"went back from 50 to -\d+ ms"):
        race.act(0)


def test_a_rewind_without_effect_is_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for rewinds, expected in ((True, 0), (False, 3)):
        behaviour = Behaviour(late_pause_ticks=1, rewinds_in_frames=rewinds)
        plugin = plugin_on_short(behaviour)
        connection = GameConnection(
            settings(), 0, SIZE, open_link=partial(MemoryLink, plugin), machine=machine(tmp_path)
        )
        race = connection.race_on("short")
        race.start()
        for _ in range(2):
            race.act(0)
        assert race.counters.rewinds_without_effect == expected
        connection.close()
    assert len(caplog.messages) == 2
    assert "'rewinds_without_effect'" not in caplog.messages[0]
    assert "'rewinds_without_effect': 3" in caplog.messages[1]


def test_camera_and_interface_are_set_before_the_first_picture_of_a_race(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin, done = plugin_on_short(), []
    execute = plugin._command

    def noted(text: str) -> None:
        done.append((text, plugin.game.race_time_ms if plugin.game.in_race else None))
        execute(text)

    monkeypatch.setattr(plugin, "_command", noted)
    race_on(plugin).start()
    (at_ms,) = [time_ms for text, time_ms in done if text.startswith("cam ")]
    assert at_ms is not None
    assert at_ms < 0


# -- games that fail again and again --------------------------------------------------------------


def failing_act(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let each race lose its link after so many actions."""
    act, resume, left = GameRace.act, GameRace.resume, [after]

    def begin(race: GameRace, *arguments: Any) -> Any:
        left[0] = after
        return resume(race, *arguments)

    def fail(race: GameRace, action: int) -> Any:
        if left[0] == 0:
            raise LinkError("gone")
        left[0] -= 1
        return act(race, action)

    monkeypatch.setattr(GameRace, "resume", begin)
    monkeypatch.setattr(GameRace, "act", fail)


def drive_on(cars: GameBatch) -> None:
    """Drive until the link is lost."""
    while True:
        cars.step(FORWARD)


def lose(cars: GameBatch, times: int) -> None:
    """Drive races until so many were lost."""
    for _ in range(times):
        cars.reset([0], [0])
        with pytest.raises(RunLostError):
            drive_on(cars)


def test_a_game_that_fails_again_and_again_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = game_batch(tmp_path, "short")
    failing_act(monkeypatch, after=1)
    lose(cars, MOST_FAILURES - 1)
    cars.reset([0], [0])
    cars.step(FORWARD)
    with pytest.raises(UserError, match=f"failed {MOST_FAILURES} times in a row, at last .*gone"):
        cars.step(FORWARD)


def test_failures_between_which_the_game_drives_well_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = game_batch(tmp_path, "short")
    failing_act(monkeypatch, after=SOUND_MS // 50)
    lose(cars, MOST_FAILURES + 1)
    assert cars._connection.failures_in_a_row == 1
    cars.close()


def test_a_step_after_a_lost_link_is_a_lost_run(tmp_path: Path) -> None:
    cars = game_batch(tmp_path, "short")
    cars.reset([0], [0])
    cars._connection.fail(LinkError("gone"))
    with pytest.raises(RunLostError, match="not connected"):
        cars.step(FORWARD)


class Process:
    """Stands for a game that was launched here, runs, and never listens."""

    is_running, is_new, exit_code = True, False, None

    def __init__(self) -> None:
        self.ended = 0

    def age_s(self) -> float:
        return 0.0

    def launch(self) -> None:
        raise AssertionError("it runs")

    def end(self) -> None:
        self.ended += 1


def test_a_game_of_ours_that_fails_at_each_first_action_is_launched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars, process = game_batch(tmp_path, "short"), Process()
    monkeypatch.setattr(cars._connection, "_process", process)
    monkeypatch.setattr(Process, "note_greeting", lambda self: None, raising=False)
    failing_act(monkeypatch, after=1)
    lose(cars, 4)
    assert process.ended == 2
    cars.close()


def launched_as(process: Process, folder: Path, **changes: object) -> GameConnection:
    """A connection to a game that a script launches, with another process in its place."""
    script = folder / "game.sh"
    script.touch()
    there = machine(folder, TMNF_LAUNCH_SCRIPT=str(script))
    connection = GameConnection(settings(1, **changes), 0, SIZE, machine=there)
    connection._process = process  # type: ignore[assignment]
    return connection


@pytest.mark.parametrize(("was_connected", "ended"), [(False, 0), (True, 1)])
def test_a_game_that_was_there_and_does_not_come_up_is_launched_once_more(
    was_connected: bool, ended: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process()
    launched = launched_as(process, tmp_path, launch_timeout_s=0.01)
    monkeypatch.setattr(launched, "_was_connected", was_connected)
    with pytest.raises(UserError, match="custom_port 1`"):
        launched.connect()
    assert process.ended == ended


class SlowProcess(Process):
    """Ends when it is launched first, then runs without listening, until it is ended."""

    is_running = False

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0

    def launch(self) -> None:
        self.launches += 1
        self.is_running = self.launches > 1

    def end(self) -> None:
        super().end()
        self.is_running = False


def test_launches_are_counted_anew_once_a_game_that_hung_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SlowProcess()
    launched = launched_as(process, tmp_path, launch_timeout_s=0.1)
    monkeypatch.setattr("rl.envs.tmnf.connection.TRY_S", 0.01)
    monkeypatch.setattr(launched, "_was_connected", True)
    with pytest.raises(UserError, match="custom_port 1`"):
        launched.connect()
    assert (process.launches, process.ended) == (3, 1)


@pytest.mark.parametrize(("failures", "is_refused"), [(2, False), (3, True)])
def test_a_map_that_was_loaded_before_may_fail_twice(
    failures: int, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = game_batch(tmp_path, "short")
    cars.reset([0], [0])
    cars._connection.fail(LinkError("gone"))
    left, load = [failures], MapLoader.load

    def slow(loader: MapLoader, path: str) -> bytes:
        if left[0]:
            left[0] -= 1
            raise MapNotLoadedError(path)
        return load(loader, path)

    monkeypatch.setattr(MapLoader, "load", slow)
    if is_refused:
        with pytest.raises(UserError, match="does not load the map 'short'"):
            cars.reset([0], [0])
    else:
        cars.reset([0], [0])
        cars.step(FORWARD)
    cars.close()


def test_a_link_is_closed_whatever_ends_the_greeting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = plugin_on_short()
    connection = GameConnection(
        settings(), 0, SIZE, open_link=lambda: MemoryLink(plugin), machine=machine(tmp_path)
    )

    def broken(loader: MapLoader, timeout_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MapLoader, "wait_for_greeting", broken)
    closed: list[GameSession] = []
    monkeypatch.setattr(GameSession, "close", lambda session: closed.append(session))
    with pytest.raises(KeyboardInterrupt):
        connection.connect()
    assert len(closed) == 1


# -- what a game cannot tell ----------------------------------------------------------------------


def test_a_checkpoint_is_bound_only_to_a_zone_near_the_car() -> None:
    line = find_track("short").line
    for away_m, is_bound in ((MATCH_M - 1.0, True), (MATCH_M + 1.0, False)):
        bound = BoundLine(line)
        start = line.zone_centers[40]
        progress = Progress(bound, start)
        progress.zone = 40
        progress._position = start + np.array([0.0, away_m, 0.0])
        before = bound.radius(0).copy()
        progress.note_passes(0, 1)
        assert (bound.radius(0)[40] == 0.0) == is_bound
        assert (bound.radius(0) != before).sum() == int(is_bound)


def test_what_an_input_file_has_and_the_game_does_not_get_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = GameConnection(
        settings(),
        0,
        None,
        open_link=lambda: MemoryLink(plugin_on_short()),
        machine=machine(tmp_path),
    )
    plain = Inputs(np.zeros(3, np.uint8))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rl.envs.tmnf.drive_inputs.REST_MS", 20)
        drive_inputs(connection, "short", plain)
        assert caplog.messages == []
        drive_inputs(connection, "short", replace(plain, respawns_ms=(20,), has_analog=True))
    assert [message.split()[0] for message in caplog.messages] == ["respawns", "analog"]
