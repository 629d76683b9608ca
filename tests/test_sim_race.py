"""Zones, finish, cut-offs, starts and floats of a race."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from datasets.contract import floats as layout
from datasets.contract.line import START_ZONE, ReferenceLine
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.car import ROAD_D, VX, VZ, YAW, X, Y, Z
from rl.envs.sim.drivers import DriverPool
from rl.envs.sim.line_road import road_for_line
from rl.envs.sim.pieces import Straight
from rl.envs.sim.road import Track
from tests.sim_helpers import COAST, GAS, GAS_LEFT, clean_track, figure_eight, hold, one_car


def _straight_ahead(batch: RaceBatch, speed: float = 0.0) -> None:
    batch.state[0, X] = 0.0
    batch.state[0, YAW] = 0.0
    batch.state[0, VZ] = speed


def test_the_finish_is_timed_to_ten_milliseconds() -> None:
    track = clean_track([Straight(150)])
    by_tick, by_step = one_car(track), one_car(track)
    finish_z = track.line.finish_point[2]
    for batch in (by_tick, by_step):
        _straight_ahead(batch, 40.0)
    while not by_tick.finished[0]:
        before = by_tick.state[0, Z]
        hold(by_tick, GAS, 10)
    assert before < finish_z <= by_tick.state[0, Z]
    assert by_tick.race_time_ms[0] % 50 != 0
    while not by_step.finished[0]:
        by_step.step(np.array([GAS], np.uint8))
    assert by_step.race_time_ms[0] == by_tick.race_time_ms[0]


def test_the_finish_lies_across_the_road_although_points_are_rounded() -> None:
    track = clean_track([Straight(150)])
    points = track.line.points.copy()
    points[:, 0] = 0.0
    points[-1, 0] = 0.2  # as rounding and the last metres of a drift leave it
    track = dataclasses.replace(track, line=ReferenceLine.from_points(points))
    batch = RaceBatch([track], [0, 0], render=False)
    batch.state[:, X] = (-4.0, 4.0)
    batch.state[:, YAW] = 0.0
    batch.state[:, VZ] = 40.0
    hold(batch, GAS, 8000)
    assert batch.finished.all()
    assert abs(batch.race_time_ms[0] - batch.race_time_ms[1]) <= 10


def test_a_finished_car_stands_at_the_line_end_and_stays() -> None:
    track = clean_track([Straight(150)])
    batch = one_car(track)
    _straight_ahead(batch, 40.0)
    hold(batch, GAS, 8000)
    assert batch.finished[0]
    assert not batch.truncated[0]
    assert batch.zone[0] == track.line.finish_zone
    assert batch.meters[0] == track.line.cumulative[track.line.finish_zone]
    assert batch.floats[0, layout.MARGIN] == 0.0
    state, floats = batch.state.copy(), batch.floats.copy()
    hold(batch, GAS_LEFT, 500)
    np.testing.assert_array_equal(batch.state, state)
    np.testing.assert_array_equal(batch.floats, floats)
    batch.reset([0], [1])
    assert not batch.finished[0]
    assert batch.race_time_ms[0] == 0


def test_standing_still_is_cut_off_after_two_seconds() -> None:
    batch = one_car(clean_track())
    for _ in range(40):
        batch.step(np.array([COAST], np.uint8))
        assert not batch.truncated[0]
    batch.step(np.array([COAST], np.uint8))
    assert batch.truncated[0]
    assert batch.race_time_ms[0] == 2050


def test_going_back_and_forth_is_no_progress() -> None:
    batch = one_car(clean_track())
    _straight_ahead(batch, 20.0)
    hold(batch, GAS, 1000)
    furthest = int(batch.furthest_zone[0])
    batch.state[0, VZ] = -20.0
    hold(batch, COAST, 300)
    assert batch.zone[0] < furthest
    batch.state[0, VZ] = 0.0
    hold(batch, COAST, 1800)
    assert batch.truncated[0]
    assert batch.furthest_zone[0] == furthest


def test_a_race_ends_at_its_longest_time() -> None:
    batch = one_car(clean_track(), max_race_ms=1500)
    hold(batch, GAS, 2500)
    assert batch.truncated[0]
    assert batch.race_time_ms[0] == 1500


def test_progress_counts_metres_along_the_line() -> None:
    batch = one_car(clean_track())
    _straight_ahead(batch, 30.0)
    begin, z = float(batch.meters[0]), float(batch.state[0, Z])
    hold(batch, GAS, 2000)
    driven = batch.state[0, Z] - z
    assert batch.meters[0] - begin == pytest.approx(driven, rel=0.02)


def test_starts_vary_with_the_seed_of_the_car_alone() -> None:
    track = find_track("short")
    batch = RaceBatch([track], [0] * 7, render=False)
    batch.reset(np.arange(7), np.arange(7) + 50)
    alone = RaceBatch([track], [0], render=False)
    alone.reset([0], [53])
    np.testing.assert_array_equal(alone.state[0], batch.state[3])
    np.testing.assert_array_equal(alone.floats[0], batch.floats[3])
    begin = np.array([track.line.points[0, 0], track.line.points[0, 2]])
    moved = np.linalg.norm(batch.state[:, [X, Z]] - begin, axis=1)
    speed = np.hypot(batch.state[:, VX], batch.state[:, VZ])
    assert 0.1 < moved.max() <= np.hypot(2.0, 1.0)
    assert 0.3 < speed.max() <= 10 / 3.6 + 1e-9
    assert len(np.unique(batch.state[:, YAW])) == 7


def test_without_noise_every_start_is_the_same_standstill() -> None:
    track = find_track("short")
    batch = RaceBatch([track], [0, 0], render=False, start_noise=0.0)
    batch.reset([0, 1], [3, 4])
    np.testing.assert_array_equal(batch.state[0], batch.state[1])
    np.testing.assert_allclose(batch.state[0, [X, Z]], track.line.points[0, [0, 2]])
    assert batch.state[0, VX] == batch.state[0, VZ] == 0.0
    assert abs(int(batch.zone[0]) - START_ZONE) <= 1


def test_previous_actions_are_those_of_the_timeline() -> None:
    batch = one_car(clean_track())
    rng = np.random.default_rng(0)
    timeline = rng.integers(0, 12, 60).astype(np.uint8)
    for tick, action in enumerate(timeline):
        batch.tick(np.array([action]))
        batch.observe()
        time_ms = np.array([10 * (tick + 1)])
        np.testing.assert_array_equal(
            batch.floats[0, layout.PREVIOUS_ACTIONS],
            layout.previous_actions(timeline, time_ms)[0],
        )


def test_floats_describe_the_car() -> None:
    batch = one_car(clean_track())
    _straight_ahead(batch, 40.0)
    hold(batch, GAS, 500)
    row = batch.floats[0].copy()
    np.testing.assert_allclose(row[layout.UP], [0.0, 1.0, 0.0], atol=1e-6)
    assert row[layout.VELOCITY][2] == pytest.approx(batch.state[0, VZ], abs=0.01)
    waypoints = row[layout.WAYPOINTS].reshape(40, 3)
    assert np.linalg.norm(waypoints[0]) < 5.0
    np.testing.assert_allclose(np.diff(waypoints[:15, 2]), 10.0, atol=0.6)
    np.testing.assert_array_equal(row[layout.CONTACT_GROUPS].reshape(4, 4)[:, 0], 1.0)
    assert row[layout.CLOCK] == 0.0
    hold(batch, GAS_LEFT, 400)
    assert batch.floats[0, layout.ANGULAR_VELOCITY][1] > 0.1
    assert batch.floats[0, layout.WAYPOINTS].reshape(40, 3)[10, 0] < waypoints[10, 0]


def test_up_and_axes_stay_a_rotation_on_hills() -> None:
    track = clean_track([Straight(120, climb=20), Straight(200, climb=-20)])
    batch = one_car(track)
    hold(batch, GAS, 3000)
    up = batch.floats[0, layout.UP]
    assert np.linalg.norm(up) == pytest.approx(1.0, abs=1e-6)
    assert up[2] > 0.03  # nose up: the world's up leans forward in the car's frame


def test_the_gearbox_counts_observations_of_a_shift() -> None:
    batch = one_car(clean_track())
    _straight_ahead(batch)
    counts, shifting = [], []
    for _ in range(60):
        batch.step(np.array([GAS], np.uint8))
        counts.append(int(batch.floats[0, layout.GEARBOX_COUNTER]))
        shifting.append(batch.floats[0, layout.GEARBOX_STATE] == 1.0)
    assert max(counts) >= 2
    assert all((count > 0) == flag for count, flag in zip(counts, shifting, strict=True))


def test_cars_of_two_tracks_race_together() -> None:
    tracks = [find_track("short"), find_track("random:4"), find_track("A01")]
    batch = RaceBatch(tracks, [0, 2, 1], render=False)
    drivers = DriverPool(batch, np.ones(3), np.arange(3))
    drivers.reset([0, 1, 2], [1, 2, 3], np.ones(3))
    for _ in range(6000):
        batch.tick(drivers.act())
        if batch.finished.all():
            break
    assert batch.finished.all()
    assert len(set(batch.race_time_ms.tolist())) == 3


def test_a_car_moves_to_another_track() -> None:
    tracks = [find_track("short"), find_track("A01")]
    batch = RaceBatch(tracks, [0, 0], render=False)
    batch.move_to_track(1, 1)
    batch.reset([1], [9])
    direct = RaceBatch(tracks, [1], render=False)
    direct.reset([0], [9])
    np.testing.assert_array_equal(batch.state[1], direct.state[0])
    np.testing.assert_array_equal(batch.floats[1], direct.floats[0])
    assert batch.state[0, ROAD_D] == pytest.approx(0.0, abs=0.6)


def test_frames_need_no_observation_of_others() -> None:
    track = find_track("short")
    batch = RaceBatch([track], [0, 0, 0], image_size=(24, 40))
    batch.step(np.array([GAS, GAS, GAS_LEFT], np.uint8))
    frame = batch.frames[1].copy()
    batch.reset([0], [4])
    np.testing.assert_array_equal(batch.frames[1], frame)
    assert batch.frames.shape == (3, 24, 40)


@pytest.mark.parametrize("wrong", [[], [2], [[0]]])
def test_a_batch_needs_cars_on_its_tracks(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="track_of_car"):
        RaceBatch([find_track("short")], wrong, render=False)


def test_as_many_actions_as_cars() -> None:
    batch = RaceBatch([find_track("short")], [0, 0], render=False)
    with pytest.raises(ValueError, match="2 actions"):
        batch.step(np.zeros(3, np.uint8))


@pytest.mark.parametrize("wrong", [12, -1, 256])
def test_an_action_that_does_not_exist_is_refused(wrong: int) -> None:
    batch = RaceBatch([find_track("short")], [0, 0], render=False)
    with pytest.raises(ValueError, match="actions 0 to 11"):
        batch.step(np.array([0, wrong]))  # int64, as argmax gives
    assert not batch.race_time_ms.any()


def test_full_throttle_alone_does_not_finish_the_short_track() -> None:
    batch = RaceBatch([find_track("short")], np.zeros(16, np.int64), render=False)
    batch.reset(np.arange(16), np.arange(16))
    while not (batch.finished | batch.truncated).all():
        batch.step(np.full(16, GAS, np.uint8))
    assert not batch.finished.any()


def test_an_expert_drives_over_its_own_bridge() -> None:
    line = ReferenceLine.from_points(figure_eight(8.0))
    track = Track("eight", road_for_line(line, 3), line)
    batch = RaceBatch([track], [0, 0, 0], render=False)
    drivers = DriverPool(batch, np.ones(3), np.arange(3))
    highest = 0.0
    for _ in range(4000):
        batch.tick(drivers.act())
        highest = max(highest, float(batch.state[:, Y].max()))
        if batch.finished.all():
            break
    assert batch.finished.all()
    assert highest == pytest.approx(18.0, abs=1.0)
