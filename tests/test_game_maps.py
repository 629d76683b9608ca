"""Loading maps: what the game lacks, and races that go on when another map is asked for."""

from pathlib import Path

import numpy as np
import pytest

from datasets.contract.errors import UserError
from datasets.inputs import Inputs
from rl.envs.tmnf import map_loading
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.drive_inputs import drive_inputs
from rl.envs.tmnf.game_cars import link_to_simulator
from rl.envs.tmnf.server.behaviour import Behaviour
from tests.game_samples import machine, settings
from tests.test_game_batch import expert_keys


def test_a_map_that_the_game_does_not_have_is_named(tmp_path: Path) -> None:
    there = settings(map_timeout_s=0.5)
    connection = GameConnection(
        there, 0, None, open_link=link_to_simulator(["short"]), machine=machine(tmp_path)
    )
    with pytest.raises(UserError, match="hock"):
        drive_inputs(connection, "hock", Inputs(expert_keys("short", 0)[:3]))


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(run_step="before"),
        Behaviour(own_plugin=False),
        Behaviour(knows_exit_map=False),
    ],
    ids=["own plugin", "run step before its tick", "community plugin", "no exit_map"],
)
def test_a_missing_map_is_not_mistaken_for_the_map_of_before(
    tmp_path: Path, behaviour: Behaviour
) -> None:
    there, link = settings(map_timeout_s=0.5), link_to_simulator(["short"], behaviour)
    connection = GameConnection(there, 0, None, open_link=link, machine=machine(tmp_path))
    keys = Inputs(expert_keys("short", 0)[:3])
    assert not drive_inputs(connection, "short", keys).finished
    with pytest.raises(UserError, match="hock"):
        drive_inputs(connection, "hock", keys)


def test_a_map_is_loaded_over_a_race_that_cannot_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_loading, "LEAVE_S", 0.2)
    link = link_to_simulator(["short", "hock"], Behaviour(knows_exit_map=False))
    connection = GameConnection(settings(), 0, None, open_link=link, machine=machine(tmp_path))
    places = []
    for name in ("short", "hock", "short"):
        race = connection.race_on(name)
        places.append(race.start().state.position)
        race.act(0)
    assert connection.race.counters.races_not_left == 2
    assert np.array_equal(places[0], places[2])
    assert not np.allclose(places[0], places[1], atol=0.01)  # both begin near the origin
