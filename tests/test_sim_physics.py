"""The car behaves as a driver expects."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.contract.surfaces import ASPHALT, DIRT, GRASS, TURBO
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.car import (
    AIRBORNE,
    AT_WALL,
    CAR,
    FIRST_SURFACE,
    GEAR,
    GROUND_Y,
    PITCH,
    ROAD_D,
    ROLL,
    SLIDING,
    VX,
    VZ,
    YAW,
    X,
    Y,
    Z,
)
from rl.envs.sim.pieces import Crest, Jump, Straight, Turn
from tests.sim_helpers import (
    BRAKE,
    COAST,
    GAS,
    GAS_BRAKE_LEFT,
    GAS_LEFT,
    GAS_RIGHT,
    clean_track,
    covered_track,
    hold,
    one_car,
)

LONG = clean_track([Straight(2600)])
WHEEL_SURFACES = slice(FIRST_SURFACE, FIRST_SURFACE + 4)


def _speed(batch: RaceBatch) -> float:
    return float(np.hypot(batch.state[0, VX], batch.state[0, VZ]))


def _aim(batch: RaceBatch, speed: float, yaw: float = 0.0) -> None:
    """Lets the car roll along z at a speed; with a `yaw` it drives off at an angle."""
    state = batch.state[0]
    state[YAW] = yaw
    state[VX], state[VZ] = speed * np.sin(yaw), speed * np.cos(yaw)


def _ahead(batch: RaceBatch) -> None:
    """Turns the car exactly along the road."""
    _aim(batch, 0.0)
    batch.state[0, X] = 0.0


def test_it_reaches_a_hundred_in_two_seconds_and_tops_out_beyond_three_hundred() -> None:
    batch = one_car(LONG)
    _ahead(batch)
    hold(batch, GAS, 2200)
    assert 25.0 < _speed(batch) < 32.0
    hold(batch, GAS, 25_000)
    assert 300 / 3.6 < _speed(batch) < 345 / 3.6
    assert batch.state[0, GEAR] == 5


def test_brakes_stop_it_and_then_it_reverses_slowly() -> None:
    batch = one_car(LONG)
    _aim(batch, 50.0)
    begin = batch.state[0, Z]
    hold(batch, BRAKE, 2000)
    assert 35.0 < batch.state[0, Z] - begin < 60.0
    assert batch.state[0, VZ] <= 0.0
    hold(batch, BRAKE, 1500)
    assert -CAR.reverse_speed - 0.5 < batch.state[0, VZ] < -3.0
    assert batch.state[0, GEAR] == 0


def test_it_stands_still_without_gas() -> None:
    batch = one_car(LONG)
    begin = batch.state[0, [X, Y, Z]].copy()
    hold(batch, COAST, 1000)
    np.testing.assert_array_equal(batch.state[0, [X, Y, Z]], begin)


def test_left_is_left() -> None:
    batch = one_car(LONG)
    _aim(batch, 20.0)
    hold(batch, GAS_LEFT, 400)
    assert batch.state[0, YAW] > 0.1
    assert batch.state[0, X] > 0.0
    assert batch.state[0, ROAD_D] > 0.0


def test_brake_and_steer_drift() -> None:
    gripping, drifting = one_car(LONG), one_car(LONG)
    for batch, action in ((gripping, GAS_LEFT), (drifting, GAS_BRAKE_LEFT)):
        _aim(batch, 50.0)
        hold(batch, action, 500)
    assert gripping.state[0, SLIDING] == 0.0
    assert drifting.state[0, SLIDING] == 1.0
    assert (drifting.floats[0, 21:25] == 1.0).all()
    assert drifting.state[0, YAW] > gripping.state[0, YAW] + 0.05
    assert _speed(drifting) < _speed(gripping) - 3.0


def test_taps_turn_less_than_holding() -> None:
    held, tapped = one_car(LONG), one_car(LONG)
    for batch in (held, tapped):
        _aim(batch, 60.0)
    hold(held, GAS_LEFT, 300)
    for _ in range(5):
        hold(tapped, GAS_LEFT, 20)
        hold(tapped, GAS, 40)
    assert 0.003 < tapped.state[0, YAW] < 0.8 * held.state[0, YAW]


def test_turning_is_slower_at_speed() -> None:
    turned = []
    for speed in (20.0, 40.0, 80.0):
        batch = one_car(LONG)
        _aim(batch, speed)
        hold(batch, GAS_LEFT, 400)
        turned.append(batch.state[0, YAW])
    assert turned[0] > turned[1] > turned[2] > 0.0


@pytest.mark.parametrize("kind", [GRASS, DIRT])
def test_loose_ground_slows_and_grips_less(kind: int) -> None:
    loose, firm = one_car(covered_track(kind)), one_car(clean_track())
    for batch in (loose, firm):
        _aim(batch, 40.0)
        hold(batch, GAS, 100)
        assert _speed(batch) > 30.0
    assert _speed(loose) < _speed(firm) - 0.3
    for batch in (loose, firm):
        hold(batch, GAS_LEFT, 500)
    assert loose.state[0, SLIDING] == 1.0
    assert (loose.state[0, WHEEL_SURFACES] == kind).all()
    assert (firm.state[0, WHEEL_SURFACES] == ASPHALT).all()
    drift = [np.arctan2(b.state[0, VX], b.state[0, VZ]) for b in (loose, firm)]
    assert drift[0] < drift[1]


def test_turbo_pushes() -> None:
    boosted, plain = one_car(covered_track(TURBO)), one_car(clean_track())
    for batch in (boosted, plain):
        _aim(batch, 30.0)
        hold(batch, GAS, 500)
    assert _speed(boosted) > _speed(plain) + 7.0


def test_a_wall_costs_time_and_never_ends_the_run() -> None:
    free, hitting = one_car(LONG, 60_000), one_car(LONG, 60_000)
    for batch, yaw in ((free, 0.0), (hitting, 0.5)):
        _aim(batch, 50.0, yaw)
    touched = False
    for _ in range(40):
        hold(free, GAS, 50)
        hold(hitting, GAS, 50)
        touched |= hitting.state[0, AT_WALL] == 1.0
    assert touched
    assert _speed(hitting) < _speed(free) - 5.0
    assert not hitting.truncated[0]
    before = float(hitting.meters[0])
    hold(hitting, GAS_RIGHT, 1000)  # off the wall again
    hold(hitting, GAS, 2000)
    assert hitting.meters[0] > before + 40.0


@pytest.mark.parametrize("yaw", [np.pi / 2, -np.pi / 2, np.pi, 2.5])
@pytest.mark.parametrize("action", [GAS_LEFT, GAS_RIGHT])
def test_steering_leads_away_from_a_wall(yaw: float, action: int) -> None:
    batch = one_car(LONG, 60_000)
    _aim(batch, 30.0, yaw)
    hold(batch, GAS, 2500)
    begin = batch.state[0, [X, Z]].copy()
    hold(batch, action, 2500)
    hold(batch, GAS, 1000)
    assert np.hypot(*(batch.state[0, [X, Z]] - begin)) > 5.0


@pytest.mark.parametrize("speed", [0.5, 5.0, 14.0, 30.0, 60.0])
def test_full_lock_at_a_wall_turns_as_the_documentation_says(speed: float) -> None:
    batch = one_car(LONG, 60_000)
    _aim(batch, 30.0, 0.4)
    hold(batch, GAS, 2400)
    assert batch.state[0, AT_WALL] == 1.0
    _aim(batch, speed)
    rates = []
    for _ in range(40):  # the wheel needs 0.1 s, the car 0.07 s more
        before = batch.state[0, YAW]
        hold(batch, GAS_LEFT, 10)
        rates.append((batch.state[0, YAW] - before) / 0.01)
    assert batch.state[0, AT_WALL] == 1.0
    assert rates[-1] == pytest.approx(min(1.8, 0.97 * 26.0 / max(_speed(batch), 1.0)), rel=0.02)


def test_a_wall_does_not_steer() -> None:
    batch = one_car(LONG)
    _aim(batch, 30.0, 0.4)
    hold(batch, GAS, 2400)
    assert batch.state[0, AT_WALL] == 1.0
    assert batch.state[0, YAW] == pytest.approx(0.4)


def test_cars_stay_between_the_walls_whatever_they_do() -> None:
    track = clean_track([Straight(60), Turn(24, 150), Turn(24, -150), Straight(60)])
    batch = RaceBatch([track], [0] * 32, render=False, no_progress_ms=60_000)
    rng = np.random.default_rng(0)
    for _ in range(300):
        batch.step(rng.choice([GAS, GAS_LEFT, GAS_RIGHT, GAS], 32).astype(np.uint8))
        walls = track.road.walls[batch.road_index]
        d = batch.state[:, ROAD_D]
        assert (d <= walls[:, 0] - 0.5).all()
        assert (d >= -walls[:, 1] + 0.5).all()
    assert np.isfinite(batch.state).all()
    assert np.isfinite(batch.floats).all()


def test_a_jump_leaves_the_ground_and_lands() -> None:
    batch = one_car(clean_track([Straight(60), Jump(25, 2.5), Straight(200)]))
    _aim(batch, 45.0)
    flown, highest = 0, 0.0
    for _ in range(400):
        hold(batch, COAST, 10)
        flown += int(batch.state[0, AIRBORNE])
        highest = max(highest, float(batch.state[0, Y] - batch.state[0, GROUND_Y]))
        if batch.floats[0, 25] == 0.0:
            assert (batch.floats[0, 25:29] == 0.0).all()
    assert 30 < flown < 200
    assert highest > 2.0
    assert batch.state[0, AIRBORNE] == 0.0


def test_no_tyre_works_in_the_air() -> None:
    batch = one_car(clean_track([Straight(60), Jump(25, 2.5), Straight(200)]))
    _aim(batch, 45.0)
    while not batch.state[0, AIRBORNE]:
        hold(batch, COAST, 10)
    velocity = batch.state[0, [VX, VZ]].copy()
    for action in (GAS_LEFT, BRAKE, GAS):
        hold(batch, action, 50)
        np.testing.assert_array_equal(batch.state[0, [VX, VZ]], velocity)


def test_hills_tilt_and_slow() -> None:
    climb = clean_track([Straight(200, climb=30)])
    batch = one_car(climb)
    _aim(batch, 40.0)
    hold(batch, COAST, 2000)
    assert batch.state[0, PITCH] > 0.1
    assert batch.state[0, Y] > 5.0
    level = one_car(LONG)
    _aim(level, 40.0)
    hold(level, COAST, 2000)
    assert _speed(batch) < _speed(level) - 3.0


def test_a_car_across_a_slope_rolls_to_its_side() -> None:
    batch = one_car(clean_track([Straight(200, climb=40)]))
    _aim(batch, 30.0)
    hold(batch, GAS, 2000)
    batch.state[0, YAW] += np.pi / 2  # now uphill is on its right
    hold(batch, BRAKE, 150)
    assert batch.state[0, ROLL] < -0.05


def test_a_gentle_crest_keeps_the_wheels_on_the_ground() -> None:
    batch = one_car(clean_track([Straight(60), Crest(80, 1.0), Straight(200)]))
    _aim(batch, 15.0)
    for _ in range(600):
        hold(batch, COAST, 10)
        assert batch.state[0, AIRBORNE] == 0.0
