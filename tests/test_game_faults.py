"""Driving over a link on which messages go wrong, and in games that die."""

import logging
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.contract.errors import UserError
from datasets.contract.line import START_ZONE
from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.config.experiment import RLConfig
from rl.envs.cars import CarBatch, RunLostError
from rl.envs.factory import do_nothing
from rl.envs.registry import find_track
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_batch import GameBatch
from rl.envs.tmnf.machine.game_process import end_games
from rl.envs.tmnf.server.faults import Fault, FaultPlan
from rl.network.iqn import IQN
from rl.replay.rollout import Rollout
from tests.game_samples import SIZE, game_batch, machine, served, settings, simulated_map
from tests.test_game_run import game_config, over

FORWARD = np.zeros(1, dtype=np.uint8)
TIMEOUT_S = 1.5
"""Deadline of the client for an answer."""
HANG_S = TIMEOUT_S + 0.5
"""How long a hanging game is silent."""
BROKEN = [f.value for f in Fault if f not in (Fault.SLOW, Fault.COALESCED, Fault.DEATH)]
"""Faults after which the link is of no use, of a game that stays."""
WHOLE_WAY_BACK = 120
"""More messages than a game sends from the greeting to the first observation of a race."""


def drive_with_faults(cars: GameBatch, faults: int) -> int:
    """Drive until so many runs were lost, and come back each time; returns the actions."""
    actions = lost = 0
    cars.reset([0], [0])
    start = cars.floats.copy()
    while lost < faults:
        try:
            cars.step(FORWARD)
        except RunLostError:
            lost += 1
            cars.reset([0], [0])
            np.testing.assert_array_equal(cars.floats, start)  # a whole start, of this map
            continue
        actions += 1
        if cars.finished[0] or cars.truncated[0]:
            cars.reset([0], [0])
    cars.close()
    return actions


def test_after_each_kind_of_fault_the_car_is_back_at_its_start(tmp_path: Path) -> None:
    """Faults may hit the way back, too."""
    options = ("--fault-rate", "0.004", "--hang-s", str(HANG_S))
    with served("--faults", *BROKEN, *options) as game:
        cars = game_batch(
            tmp_path,
            "short",
            port=game.port,
            launch=False,
            timeout_s=TIMEOUT_S,
            map_timeout_s=15.0,
        )
        assert drive_with_faults(cars, 4) > 0


def test_slow_and_coalesced_messages_lose_no_run(tmp_path: Path) -> None:
    rate = ("--fault-rate", "0.2", "--faults", "slow", "coalesced")
    with served(*rate) as game:
        cars = game_batch(tmp_path, "short", port=game.port, launch=False)
        cars.reset([0], [0])
        for _ in range(10):
            cars.step(FORWARD)
        assert cars.race_time_ms[0] == 500
        cars.close()


def test_faults_are_drawn_from_their_seed() -> None:
    plans = [FaultPlan(0.5, list(Fault), seed) for seed in (3, 3, 4)]
    drawn = [[plan.next() for _ in range(40)] for plan in plans]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) > {None}


def test_faults_keep_their_distance() -> None:
    plan = FaultPlan(1.0, gap=3)
    found = [plan.next() is not None for _ in range(9)]
    assert found == [True, False, False, False, True, False, False, False, True]
    with pytest.raises(UserError, match="--fault-gap"):
        FaultPlan(1.0, gap=-1)


# -- what is learnt from --------------------------------------------------------------------------


def bind_checkpoints(folder: Path) -> None:
    """Say where the served game has its three checkpoints, so that each run has equal zones."""
    line = find_track("short").line
    way = line.finish_zone - START_ZONE
    zones = [START_ZONE + way * k // 4 for k in (1, 2, 3)]
    np.save(folder / "short.checkpoints.npy", line.zone_centers[zones])


def cars_in_memory(cfg: RLConfig) -> CarBatch:
    """Build a car of the same run on the link that has no faults."""
    plan = CollectorPlan.from_config(cfg)
    cars = plan.cars_on(plan.tracks().values(), cfg.network, do_nothing)
    cars.start_noise[:] = 0.0
    return cars


def assert_driven_whole(run: Rollout, cars: CarBatch) -> None:
    """Drive the keys of a run again from the start: each observation must be the same."""
    cars.reset([0], [0])
    for frame, floats, action in zip(run.frames, run.floats, run.actions, strict=True):
        np.testing.assert_array_equal(cars.frames[0], frame)
        np.testing.assert_array_equal(cars.floats[0], floats)
        cars.step(np.array([action], dtype=np.uint8))
    assert cars.finished[0] or cars.truncated[0]
    assert cars.finished[0] == run.finished
    np.testing.assert_array_equal(cars.frames[0], run.next_frame)
    np.testing.assert_array_equal(cars.floats[0], run.next_floats)


def collect_with_faults(
    folder: Path, faults: int, caplog: pytest.LogCaptureFixture
) -> tuple[int, float]:
    """Collect runs over a faulty link until so many were lost.

    Returns:
        Number of whole runs, and the longest way back in s: from the action before which all was
        well to the next start.
    """
    caplog.set_level(logging.WARNING)
    bind_checkpoints(folder)
    options = ("--fault-rate", "0.01", "--fault-gap", str(WHOLE_WAY_BACK), "--hang-s", str(HANG_S))
    lost = runs = 0
    longest = 0.0
    with served("--faults", *BROKEN, *options) as game:
        deadlines = {"timeout_s": TIMEOUT_S, "map_timeout_s": 15.0}
        cfg = game_config(folder, {**over(game.port), **deadlines})
        plain = cars_in_memory(game_config(folder, {"link": "simulated"}))
        collector = Collector(CollectorPlan.from_config(cfg), IQN(cfg.network))
        while lost < faults:
            caplog.clear()
            began = time.monotonic()
            ended = collector.step(0)
            if any("driven again" in message for message in caplog.messages):
                lost += 1
                longest = max(longest, time.monotonic() - began)
            for run in ended:
                assert_driven_whole(run, plain)
                runs += 1
        assert game.process.poll() is None
        collector.close()
    return runs, longest


def test_no_part_of_a_lost_run_is_learnt_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs, _ = collect_with_faults(tmp_path, 6, caplog)
    assert runs > 0


@pytest.mark.slow
def test_after_1000_faults_the_car_is_back_within_the_deadline_and_five_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, longest = collect_with_faults(tmp_path, 1000, caplog)
    assert runs > 50
    assert longest <= TIMEOUT_S + 5.0
    assert "Traceback" not in capfd.readouterr().err


# -- games that die -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="launches by a shell script")
def test_a_game_that_dies_is_launched_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root = Path(__file__).parent.parent
    launches = tmp_path / "launches"
    faults = f"--faults death --fault-rate 0.01 --fault-gap {WHOLE_WAY_BACK} --fault-seed $$"
    script = tmp_path / "game.sh"
    script.write_text(
        f"#!/bin/sh\necho $1 >> {launches}\ncd {root}\n"
        f"exec {sys.executable} -m pipeline game serve-sim --track short --port $1 {faults}\n",
        encoding="ascii",
    )
    script.chmod(0o755)
    connection = GameConnection(
        settings(port, timeout_s=60.0, launch_timeout_s=300.0),
        0,
        SIZE,
        machine=machine(tmp_path, TMNF_LAUNCH_SCRIPT=str(script)),
    )
    cars = GameBatch([simulated_map("short")], connection, image_size=SIZE)
    try:
        assert drive_with_faults(cars, 3) > 0
    finally:
        end_games()
    ports = launches.read_text(encoding="ascii").split()
    assert len(ports) >= 4  # a new game may die on the way back, too
    assert set(ports) == {str(port)}
