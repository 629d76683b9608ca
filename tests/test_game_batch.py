"""A car in the served game, over TCP and inside this process, beside the simulator itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from datasets.contract.floats import PREVIOUS_ACTIONS
from rl.envs.cars import CarBatch
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.tmnf.game_race import GameRace
from rl.envs.tmnf.server.behaviour import Behaviour
from tests.game_samples import SIZE, ServedGame, game_batch, served, some_actions

LONGEST = 3000
"""Actions of the longest run."""
WIRE = 2e-4
"""Largest difference of a float: the wire has float32."""


@dataclass
class Driven:
    """All that a car has shown in one run, by observation."""

    columns: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)

    def note(self, cars: CarBatch) -> None:
        """Add the present observation."""
        for name in (
            *("frames", "floats", "race_time_ms", "finished", "truncated"),
            *("zone", "furthest_zone", "meters"),
        ):
            self.columns.setdefault(name, []).append(getattr(cars, name)[0].copy())

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return np.stack(self.columns[name])


def drive(cars: CarBatch, actions: npt.NDArray[np.uint8]) -> Driven:
    """Drive one run from the start until it ends or the actions do."""
    cars.reset([0], [0])
    driven = Driven()
    driven.note(cars)
    for action in actions:
        cars.step(np.array([action], dtype=np.uint8))
        driven.note(cars)
        if cars.finished[0] or cars.truncated[0]:
            break
    return driven


def straight_on(count: int) -> npt.NDArray[np.uint8]:
    """Full throttle: finishes or hits a wall."""
    return np.zeros(count, dtype=np.uint8)


def keys_of(seed: int, track: str) -> npt.NDArray[np.uint8]:
    """Keys of run number `seed`: every second one is the scripted expert's, which finishes."""
    if seed % 2:
        return some_actions(seed, 400)
    return expert_keys(track, seed)


def expert_keys(name: str, seed: int) -> npt.NDArray[np.uint8]:
    """Actions of 50 ms that a scripted driver drives from the exact start."""
    from rl.envs.sim.drivers import DriverPool

    track = find_track(name)
    batch = RaceBatch([track], [0], start_noise=0.0, render=False)
    batch.reset([0], [0])
    pool = DriverPool(batch, np.array([0.9]), np.array([seed]), key_ms=50)
    actions = []
    while not (batch.finished[0] or batch.truncated[0]):
        actions.append(int(pool.act()[0]))
        batch.step(np.array([actions[-1]], dtype=np.uint8))
        for _ in range(4):
            pool.act()
    return np.array(actions, dtype=np.uint8)


def assert_equal(one: Driven, other: Driven) -> None:
    for name in one.columns:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def assert_as_simulated(game: Driven, simulated: Driven) -> tuple[int, int]:
    """Compare with the simulator itself; returns the zones that are equal, and all."""
    for name in ("frames", "race_time_ms", "finished", "truncated"):
        np.testing.assert_array_equal(game[name], simulated[name], err_msg=name)
    same = game["zone"] == simulated["zone"]
    floats, expected = game["floats"][same], simulated["floats"][same]
    np.testing.assert_array_equal(floats[:, PREVIOUS_ACTIONS], expected[:, PREVIOUS_ACTIONS])
    np.testing.assert_allclose(floats, expected, atol=WIRE, rtol=0)
    np.testing.assert_allclose(game["meters"][same], simulated["meters"][same], atol=WIRE)
    return int(same.sum()), len(same)


@pytest.fixture(scope="module")
def server() -> Iterator[ServedGame]:
    with served(tracks=("short", "A01")) as game:
        yield game


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def runs() -> list[npt.NDArray[np.uint8]]:
    """Keys of a run that finishes, and of two that need not."""
    return [keys_of(seed, "short") for seed in range(3)]


@pytest.fixture(scope="module")
def in_process(folder: Path, runs: list[npt.NDArray[np.uint8]]) -> list[Driven]:
    """The runs in the simulated game of this process."""
    cars = game_batch(folder, "short")
    driven = [drive(cars, keys) for keys in runs]
    cars.close()
    return driven


def test_the_socket_changes_nothing(
    server: ServedGame,
    folder: Path,
    runs: list[npt.NDArray[np.uint8]],
    in_process: list[Driven],
) -> None:
    cars = game_batch(folder, "short", port=server.port)
    for keys, expected in zip(runs, in_process, strict=True):
        assert_equal(drive(cars, keys), expected)
    cars.close()


def test_the_game_shows_what_the_simulator_does(
    runs: list[npt.NDArray[np.uint8]], in_process: list[Driven]
) -> None:
    cars = RaceBatch([find_track("short")], [0], image_size=SIZE, start_noise=0.0)
    equal = zones = 0
    for keys, game in zip(runs, in_process, strict=True):
        found = assert_as_simulated(game, drive(cars, keys))
        equal, zones = equal + found[0], zones + found[1]
    assert equal >= 0.999 * zones
    assert in_process[0]["finished"][-1]
    assert in_process[0]["race_time_ms"][-1] % 50  # the finish lies between two observations
    assert not all(game["finished"][-1] for game in in_process)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(run_step="before"),
        Behaviour(late_pause_ticks=2),
        Behaviour(late_pause_ticks=7),
        Behaviour(late_pause_ticks=1, state_offset_ms=10),
        Behaviour(state_offset_ms=-10),
        Behaviour(step_after_rewind=True),
        Behaviour(checkpoint_first=True),
        Behaviour(counts_laps=True, reversed_commands=True),
    ],
    ids=[
        "before",
        "late",
        "very-late",
        "late-states",
        "early-states",
        "again",
        "checkpoint-first",
        "laps",
    ],
)
def test_whatever_the_game_does_keys_act_when_they_should(
    behaviour: Behaviour,
    folder: Path,
    runs: list[npt.NDArray[np.uint8]],
    in_process: list[Driven],
) -> None:
    """A late picture shows another moment, but times, states and the finish stay the same."""
    cars = game_batch(folder, "short", behaviour=behaviour)
    found = drive(cars, runs[0])
    for name in ("floats", "race_time_ms", "finished", "zone", "meters"):
        np.testing.assert_array_equal(found[name], in_process[0][name], err_msg=name)
    again = drive(cars, runs[0])  # the finish was called off, so the race can begin anew
    assert_equal(again, found)


def test_a_race_goes_on_from_a_saved_state(
    folder: Path, runs: list[npt.NDArray[np.uint8]], in_process: list[Driven]
) -> None:
    keys, half = runs[0], 60
    first = game_batch(folder, "short")
    drive(first, keys[:half])
    saved = first.get_state()
    first.close()
    other = game_batch(folder, "short")
    other.set_state(saved)
    driven = Driven()
    driven.note(other)
    for action in keys[half:]:
        other.step(np.array([action], dtype=np.uint8))
        driven.note(other)
    for name in driven.columns:
        np.testing.assert_array_equal(driven[name], in_process[0][name][half:], err_msg=name)


def test_a_state_in_which_no_race_was_left_is_refused(folder: Path) -> None:
    """The line is indexed with the zones without a check."""
    cars = game_batch(folder, "short")
    drive(cars, straight_on(4))
    saved = cars.get_state()
    last = cars.tracks[0].line.finish_zone
    wrong: list[tuple[str, Any]] = [
        ("track", np.array([1])),
        ("track", np.array([0, 0])),
        ("ticks", np.array([3, 12], np.uint8)),
        ("blob", np.zeros((2, 2), np.uint8)),
        ("blob", None),
        *(("counts", np.array(counts)) for counts in ([0, 0, 0, 5, 0], [0, 0, 6, 5, 0])),
        *(("counts", np.array([0, 0, 5, zone, 0])) for zone in (last + 1, 10**12)),
        ("counts", np.array([-1, 0, 5, 5, 0])),
        ("counts", np.zeros(5)),
    ]
    for name, value in wrong:
        with pytest.raises(ValueError, match=name):
            cars.set_state({**saved, name: value})
    cars.set_state(saved)
    np.testing.assert_array_equal(cars.get_state()["counts"], saved["counts"])
    cars.close()


def test_ticks_drive_what_an_action_drives(
    folder: Path, runs: list[npt.NDArray[np.uint8]], in_process: list[Driven]
) -> None:
    cars = game_batch(folder, "short")
    cars.reset([0], [0])
    expected = in_process[0]
    for step, action in enumerate(runs[0][:30], start=1):
        for _ in range(5):
            cars.tick(np.array([action], dtype=np.uint8))
        cars.observe()
        for name in ("frames", "floats", "race_time_ms", "zone", "meters"):
            np.testing.assert_array_equal(getattr(cars, name)[0], expected[name][step], name)


def test_a_finish_that_is_told_after_its_tick_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = GameRace.look
    monkeypatch.setattr(GameRace, "look", lambda race: replace(look(race), finished=True))
    cars = game_batch(folder, "short")
    cars.reset([0], [0])
    cars.tick(straight_on(1))
    assert not cars.finished[0]
    cars.observe()
    assert cars.finished[0]
    assert cars.race_time_ms[0] == 10
    assert cars.zone[0] == cars.tracks[0].line.finish_zone
    cars.close()


def test_a_start_belongs_to_its_own_map(server: ServedGame, folder: Path) -> None:
    cars = game_batch(folder, "A01", "short", port=server.port)
    starts: dict[int, list[npt.NDArray[np.uint8]]] = {}
    for track in (0, 1, 0):
        cars.move_to_track(0, track)
        cars.reset([0], [0])
        starts.setdefault(track, []).append(cars.frames[0].copy())
        np.testing.assert_allclose(cars.meters[0], starts_at(cars.tracks[track].name), atol=WIRE)
        cars.step(np.array([0], dtype=np.uint8))
    cars.close()
    np.testing.assert_array_equal(starts[0][0], starts[0][1])
    assert (starts[0][0] != starts[1][0]).any()


def starts_at(name: str) -> float:
    """Metres of the exact start."""
    cars = RaceBatch([find_track(name)], [0], start_noise=0.0, render=False)
    return float(cars.meters[0])


@pytest.mark.slow
@pytest.mark.parametrize("track", ["short", "A01"])
def test_64_runs_are_equal_on_both_links_and_as_simulated(
    track: str, server: ServedGame, folder: Path
) -> None:
    tcp = game_batch(folder, track, port=server.port, size=(64, 64))
    memory = game_batch(folder, track, size=(64, 64))
    simulator = RaceBatch([find_track(track)], [0], start_noise=0.0)
    equal = zones = finishes = 0
    for seed in range(64):
        keys = keys_of(seed, track)
        one, other = drive(tcp, keys), drive(memory, keys)
        assert_equal(one, other)
        found = assert_as_simulated(one, drive(simulator, keys))
        equal, zones = equal + found[0], zones + found[1]
        finishes += int(one["finished"][-1])
    tcp.close()
    assert equal >= 0.999 * zones
    assert finishes > 20
