"""The scripted drivers and the paths that they follow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from datasets.contract.actions import ACTION_NAMES
from datasets.contract.line import ReferenceLine
from datasets.contract.surfaces import DIRT, GRASS
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.car import CAR, STEER, VX, VZ, YAW
from rl.envs.sim.drivers import SKILLS, DriverPool
from rl.envs.sim.line_road import road_for_line
from rl.envs.sim.path_solver import path_geometry, path_points, smoothest_path
from rl.envs.sim.planner import EDGE_MARGIN_M, plan, sections_of
from rl.envs.sim.road import Track
from rl.envs.sim.speed_profile import Shares, empty_course, fill_course, profile_time
from tests.sim_helpers import figure_eight

REAL_LINE = Path(__file__).parents[2] / "shared" / "maps" / "ESL-Hockolicious_0.5m_cl2.npy"
RUNS = 16
LEFT = ACTION_NAMES.index("left")
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drive:
    """What B drivers did: (T, B) actions of each 10 ms, (B,) finished and (B,) seconds."""

    actions: npt.NDArray[np.uint8]
    finished: npt.NDArray[np.bool_]
    seconds: F64


def drive(track: Track, skill: F64, seeds: npt.NDArray[np.int64], key_ms: int = 10) -> Drive:
    """One run on `track` for each skill (B,) and seed (B,)."""
    batch = RaceBatch([track], np.zeros(len(seeds), np.int64), render=False)
    batch.reset(np.arange(len(seeds)), seeds)
    pool = DriverPool(batch, skill, seeds, key_ms=key_ms)
    actions = []
    while not (batch.finished | batch.truncated).all():
        actions.append(pool.act())
        batch.tick(actions[-1])
    return Drive(np.array(actions), batch.finished.copy(), batch.race_time_ms / 1000.0)


@functools.cache
def all_skills(key_ms: int) -> Drive:
    """`RUNS` runs of each skill on `short`, novices first."""
    skill = np.repeat(list(SKILLS.values()), RUNS)
    return drive(find_track("short"), skill, np.arange(len(skill)), key_ms)


@pytest.mark.parametrize("key_ms", [10, 50])
def test_drivers_of_every_skill_finish(key_ms: int) -> None:
    # Measured: 64 of 64 runs of each skill, on short, A01, hock and ten generated tracks.
    assert all_skills(key_ms).finished.reshape(len(SKILLS), RUNS).sum(axis=1).min() >= RUNS - 1


@pytest.mark.parametrize("key_ms", [10, 50])
def test_better_drivers_are_faster_and_runs_differ(key_ms: int) -> None:
    seconds = all_skills(key_ms).seconds.reshape(len(SKILLS), RUNS)
    novice, amateur, good, expert = seconds.mean(axis=1)
    # Measured over 64 runs: 12.5, 11.5, 10.7 and 10.3 s.
    assert 1.02 * expert < good < 1.07 * expert
    assert 1.03 * good < amateur < 0.96 * novice
    assert novice < 1.3 * expert
    assert (seconds.std(axis=1) / seconds.mean(axis=1)).min() > 0.004


def test_keys_pressed_every_50_ms_cost_little_time() -> None:
    fine, coarse = (all_skills(key_ms).seconds.reshape(len(SKILLS), RUNS) for key_ms in (10, 50))
    np.testing.assert_allclose(coarse.mean(axis=1), fine.mean(axis=1), rtol=0.02)


def test_keys_change_only_every_key_ms() -> None:
    actions = all_skills(50).actions
    held = actions[: len(actions) // 5 * 5].reshape(-1, 5, actions.shape[1])
    assert (held == held[:, :1]).all()
    assert (held[1:, 0] != held[:-1, 0]).any(axis=0).all()


def test_keys_are_held_long_enough_to_be_learnt() -> None:
    # Measured: an action is that of 50 ms ago for 0.67 to 0.73 of the ticks.
    drives = all_skills(10)
    expert = drives.actions[: int(100 * drives.seconds[-1]), -RUNS:]
    assert 0.6 < (expert[5:] == expert[:-5]).mean() < 0.85


def test_a_run_is_the_same_in_every_batch() -> None:
    track = find_track("short")
    seeds, skill = np.array([3, 14, 15, 92, 65, 35, 89]), np.linspace(0.0, 1.0, 7)
    together = drive(track, skill, seeds)
    for chosen in ([4], [6, 1]):
        apart = drive(track, skill[chosen], seeds[chosen])
        np.testing.assert_array_equal(apart.seconds, together.seconds[chosen])
        ticks = round(100 * apart.seconds.min())
        np.testing.assert_array_equal(apart.actions[:ticks], together.actions[:ticks, chosen])


def test_a_driver_is_drawn_from_its_seed_alone() -> None:
    batch = RaceBatch([find_track("short")], [0, 0, 0], render=False, start_noise=0.0)
    pool = DriverPool(batch, np.full(3, 0.2), np.array([5, 6, 7]))
    for _ in range(300):
        batch.tick(pool.act())
    first = batch.state.copy()
    batch.reset([2, 0], [0, 0])
    pool.reset([2, 0], [5, 6], 0.2)
    for _ in range(300):
        batch.tick(pool.act())
    np.testing.assert_array_equal(batch.state[2], first[0])
    np.testing.assert_array_equal(batch.state[0], first[1])
    assert not np.array_equal(batch.state[2], batch.state[0])


@pytest.mark.parametrize("turned", [np.pi, 1.6, -1.2])
def test_a_driver_recovers_when_it_stands_the_wrong_way(turned: float) -> None:
    batch = RaceBatch([find_track("short")], [0, 0], render=False, no_progress_ms=20_000)
    pool = DriverPool(batch, np.array([0.0, 1.0]), np.array([1, 2]))
    for _ in range(400):
        batch.tick(pool.act())
    batch.state[:, YAW] += turned
    batch.state[:, [VX, VZ, STEER]] = 0.0
    for _ in range(3000):
        batch.tick(pool.act())
    assert batch.finished.all()


def test_an_expert_drives_a_line_that_crosses_itself() -> None:
    line = ReferenceLine.from_points(figure_eight(8.0))
    track = Track("eight", road_for_line(line, 4), line)
    assert drive(track, np.array([1.0, 0.7]), np.array([0, 1])).finished.all()


def test_an_expert_drives_the_recorded_line() -> None:
    if not REAL_LINE.exists():
        pytest.skip(f"{REAL_LINE.name} lies outside the repository, in ../shared/maps")
    run = drive(find_track(str(REAL_LINE)), np.array([1.0, 1.0]), np.array([0, 1]), 50)
    assert run.finished.all()
    assert run.seconds.max() < 110.0  # measured: 100 to 106 s


def test_the_racing_path_goes_round_what_slows_a_car() -> None:
    track = find_track("random:0")
    made = plan(track)
    careless = empty_course(len(made.offset))
    fill_course(sections_of(track.road), made.careless_offset, made.start, Shares(), careless)

    def slow_metres(offset: F64) -> int:
        kind, span = track.road.patch_kind, track.road.patch_span
        over = (offset + CAR.wheel_track > span[:, 0]) & (offset - CAR.wheel_track < span[:, 1])
        return int((over & ((kind == DIRT) | (kind == GRASS)))[made.start : made.finish].sum())

    # Measured: 169 m against 286 m (what lies on a straight is often worth driving over).
    assert slow_metres(made.offset) < 0.75 * slow_metres(made.careless_offset)
    assert made.time_s < 0.97 * profile_time(careless, made.start, made.finish)
    race = slice(made.start, made.finish)
    edges = track.road.edges[race]
    assert (made.offset[race] <= np.maximum(edges[:, 0] - EDGE_MARGIN_M, 0.31)).all()
    assert (made.offset[race] >= np.minimum(EDGE_MARGIN_M - edges[:, 1], -0.31)).all()


def test_a_plan_is_made_once_for_a_track() -> None:
    track = find_track("short")
    assert plan(track) is plan(track)
    assert plan(replace(track, name="twin")) is not plan(track)


def _hairpin() -> tuple[F64, F64]:
    """Centre (M, 3) and left vectors (M, 2): 60 m, half a turn of 30 m radius, 60 m."""
    yaw = np.concatenate([np.zeros(60), np.linspace(0.0, np.pi, 95), np.full(60, np.pi)])
    x, z = np.cumsum(np.sin(yaw)), np.cumsum(np.cos(yaw))
    return np.stack([x, 0 * x, z], axis=1), np.stack([np.cos(yaw), -np.sin(yaw)], axis=1)


def _bend(center: F64, left: F64, offset: F64) -> float:
    """Sum of squared curvature of a path, 1/m."""
    n = len(offset)
    points, heading, curvature, spacing = np.zeros((n, 3)), np.zeros(n), np.zeros(n), np.zeros(n)
    path_points(center, left, offset, points)
    path_geometry(points, heading, curvature, spacing)
    return float((curvature**2 * spacing).sum())


def test_the_smoothest_path_cuts_the_corner_and_nothing_near_is_smoother() -> None:
    center, left = _hairpin()
    n = len(center)
    low, high, offset = np.full(n, -4.0), np.full(n, 4.0), np.zeros(n)
    straight = _bend(center, left, offset)
    smoothest_path(center, left, low, high, np.ones(n), 0.0, offset, 4, 25)
    best = _bend(center, left, offset)
    assert best < 0.9 * straight
    assert (np.abs(offset) <= 4.0).all()
    at = np.arange(n)
    for middle in range(20, n - 20, 25):
        for height in (-0.3, 0.3):
            bump = height * np.exp(-(((at - middle) / 9.0) ** 2))
            other = _bend(center, left, np.clip(offset + bump, low, high))
            assert other > best * (1.0 - 1e-3)


def test_a_profile_keeps_within_grip_brake_and_engine() -> None:
    track = find_track("random:3")
    made = plan(track)
    course = made.course
    speed, spacing = course.speed[made.start :], course.spacing[made.start :]
    cornering = speed**2 * np.abs(course.curvature[made.start :])
    on_asphalt = (course.grip[made.start :] == 1.0) & (course.flight[made.start :] == 0.0)
    assert np.percentile(cornering[on_asphalt], 99) < 1.02 * CAR.grip
    gain = np.diff(speed**2) / (2.0 * spacing[:-1])
    level = np.abs(np.diff(course.points[made.start :, 1])) < 1e-9
    assert gain[level].min() > -CAR.brake * 1.3  # drag helps
    no_boost = course.boost[made.start : -1] == 0.0
    assert gain[level & no_boost].max() < CAR.engine_accel + CAR.turbo_accel
    assert (course.speed <= course.limit + 1e-9).all()


def _advice(
    key_ms: int, held: Callable[[int, npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """(T, B) actions of attentive drivers, and what others like them advise who see `held`."""
    seeds, skill = np.array([3, 14, 15, 92, 65]), np.linspace(0.0, 1.0, 5)
    batch = RaceBatch([find_track("short")], np.zeros(5, np.int64), render=False)
    batch.reset(np.arange(5), seeds)
    drivers, advisers = (
        DriverPool(batch, skill, seeds, key_ms=key_ms, attentive=True) for _ in range(2)
    )
    driven, advised = [], []
    before = np.zeros(5, np.uint8)
    for tick in range(600):
        advised.append(advisers.advise(held(tick, before)))
        driven.append(drivers.act())
        before = driven[-1]
        batch.tick(before)
    return np.array(driven), np.array(advised)


@pytest.mark.parametrize("key_ms", [10, 50])
def test_an_adviser_who_sees_its_own_actions_agrees_with_the_driver(key_ms: int) -> None:
    driven, advised = _advice(key_ms, lambda _, before: before)
    np.testing.assert_array_equal(advised, driven)


@pytest.mark.parametrize("key_ms", [10, 50])
def test_an_adviser_takes_over_the_keys_that_are_held(key_ms: int) -> None:
    """Misled about the held keys now and then, it agrees again as soon as it sees them."""
    misled = range(200, 240)

    def held(tick: int, before: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.full(5, LEFT, np.uint8) if tick in misled else before

    driven, advised = _advice(key_ms, held)
    different = (advised != driven).any(axis=1)
    assert different[misled.start : misled.stop].any()
    # What is held is seen again at once; how long it has been held, after the next change.
    assert not different[: misled.start].any()
    assert not different[misled.stop + 30 :].any()
