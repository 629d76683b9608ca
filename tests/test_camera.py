"""The rendered picture: what a driver could tell from it, and that it never depends on a batch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from datasets.contract.line import ReferenceLine
from datasets.contract.surfaces import DIRT, GRASS, TURBO
from rl.envs.sim import car
from rl.envs.sim.camera import CAMERA, render, render_all
from rl.envs.sim.road import PackedTracks, Road, Track, pack_tracks

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

ROWS = 600
HERE = 203
HALF_ROAD_M = 6.0
HORIZON = round(64 * CAMERA.horizon)


def make_track(
    curvature: F64 | None = None,
    slope: F64 | None = None,
    patch: tuple[int, int, int, float, float] | None = None,
) -> Track:
    """A road from curvature (1/m, left > 0) and slope per row; patch: kind, rows, lateral span."""
    heading = np.cumsum(np.zeros(ROWS) if curvature is None else curvature)
    climb = np.cumsum(np.zeros(ROWS) if slope is None else slope)
    center = np.stack([np.cumsum(np.sin(heading)), climb, np.cumsum(np.cos(heading))], axis=1)
    kind, span = np.zeros(ROWS, np.uint8), np.zeros((ROWS, 2))
    if patch is not None:
        kind[patch[1] : patch[2]] = patch[0]
        span[patch[1] : patch[2]] = patch[3:]
    road = Road(
        center=center,
        left=np.stack([np.cos(heading), -np.sin(heading)], axis=1),
        edges=np.full((ROWS, 2), HALF_ROAD_M),
        walls=np.full((ROWS, 2), HALF_ROAD_M + 9.0),
        patch_kind=kind,
        patch_span=span,
    )
    return Track("test", road, ReferenceLine.from_points(center[40:-180]))


def car_at(track: Track, row: int = HERE, turned: float = 0.0, aside: float = 0.0) -> F64:
    """State of a car on a road's row, turned to the left and moved to the left."""
    road, state = track.road, np.zeros(car.STATE_SIZE)
    forward = road.center[row + 1] - road.center[row]
    state[car.X] = road.center[row, 0] + aside * road.left[row, 0]
    state[car.Z] = road.center[row, 2] + aside * road.left[row, 1]
    state[car.Y] = state[car.GROUND_Y] = road.center[row, 1]
    state[car.YAW] = math.atan2(forward[0], forward[2]) + turned
    state[car.PITCH] = math.atan(forward[1]) * math.cos(turned)
    return state


def picture(track: Track, state: F64, row: int = HERE, size: tuple[int, int] = (64, 64)) -> U8:
    frame = np.zeros(size, np.uint8)
    render(frame, packed(track), 0, row, state)
    return frame


def packed(*tracks: Track) -> PackedTracks:
    return pack_tracks(list(tracks))


def line_columns(frame: U8, row: int) -> npt.NDArray[np.int64]:
    """Columns of the white edge lines on one row of a frame."""
    return np.flatnonzero(frame[row] > 150)


@pytest.fixture(scope="module")
def straight() -> Track:
    return make_track()


def test_frames_do_not_depend_on_the_batch(straight: Track) -> None:
    bend = make_track(np.full(ROWS, 1 / 70), patch=(TURBO, 211, 231, -3.0, 1.0))
    tracks = packed(straight, bend)
    rng = np.random.default_rng(3)
    n = 64
    track_of_car = rng.integers(0, 2, n)
    rows = rng.integers(0, ROWS - 1, n)
    states = np.stack(
        [
            car_at((straight, bend)[t], row, rng.normal(), rng.normal(scale=5.0))
            for t, row in zip(track_of_car, np.minimum(rows, ROWS - 2), strict=True)
        ]
    )
    alone = np.zeros((n, 64, 64), np.uint8)
    for i in range(n):
        render(alone[i], tracks, track_of_car[i], rows[i], states[i])
    for size in (1, 2, 7, 64):
        frames = np.zeros((size, 64, 64), np.uint8)
        chosen = rng.permutation(n)[:size]
        render_all(frames, tracks, track_of_car[chosen], rows[chosen], states[chosen])
        np.testing.assert_array_equal(frames, alone[chosen])


def test_a_track_looks_the_same_whatever_it_is_packed_with(straight: Track) -> None:
    bend = make_track(np.full(ROWS, 1 / 70), patch=(TURBO, 211, 231, -3.0, 1.0))
    shorter = Track(
        "shorter",
        Road(*(getattr(straight.road, name)[:-13] for name in Road.__dataclass_fields__)),
        straight.line,
    )
    frame, state = np.zeros((64, 64), np.uint8), car_at(bend)
    render(frame, packed(shorter, bend), 1, HERE, state)
    np.testing.assert_array_equal(frame, picture(bend, state))


def test_sky_is_above_the_horizon_and_ground_below(straight: Track) -> None:
    frame = picture(straight, car_at(straight))
    assert (frame[: HORIZON - 1] == CAMERA.sky).all()
    assert (frame[HORIZON + 1] != CAMERA.sky).all()


def test_the_road_lies_between_two_white_lines(straight: Track) -> None:
    frame = picture(straight, car_at(straight))
    row = HORIZON + 12
    columns = line_columns(frame, row)
    assert abs(columns.min() - (63 - columns.max())) <= 1  # symmetric for a car in the middle
    between = frame[row, columns.min() + 2 : columns.max() - 1]
    assert min(CAMERA.asphalt) <= between.min() <= between.max() <= max(CAMERA.asphalt)
    assert frame[row, columns.max() + 3 : 62].max() <= max(CAMERA.grass)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_bend_leads_to_its_side(side: float) -> None:
    curvature = np.zeros(ROWS)
    curvature[HERE + 10 :] = side / 60
    track = make_track(curvature)
    frame = picture(track, car_at(track))
    far = np.concatenate([line_columns(frame, row) for row in range(HORIZON + 3, HORIZON + 6)])
    assert side * (31.5 - far.mean()) > 4.0


def test_turning_left_moves_the_picture_to_the_right(straight: Track) -> None:
    ahead = line_columns(picture(straight, car_at(straight)), HORIZON + 8).mean()
    turned = line_columns(picture(straight, car_at(straight, turned=0.2)), HORIZON + 8).mean()
    assert turned - ahead == pytest.approx(32 / CAMERA.half_fov_x * math.tan(0.2), abs=2.0)


def test_moving_left_moves_the_near_road_to_the_right(straight: Track) -> None:
    ahead = line_columns(picture(straight, car_at(straight)), 36).mean()
    aside = line_columns(picture(straight, car_at(straight, aside=2.0)), 36).mean()
    assert aside > ahead + 2.0


@pytest.mark.parametrize(
    ("kind", "levels"),
    [(DIRT, CAMERA.dirt), (GRASS, CAMERA.grass_patch), (TURBO, CAMERA.turbo)],
)
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_patch_appears_on_the_side_it_lies_on(
    kind: int, levels: tuple[int, int], side: float, straight: Track
) -> None:
    span = (1.0, 5.0) if side > 0 else (-5.0, -1.0)
    track = make_track(patch=(kind, HERE + 22, HERE + 38, *span))
    state = car_at(track)
    changed = picture(track, state) != picture(straight, state)
    rows, columns = np.nonzero(changed)
    assert len(rows) >= 12  # seen from 22 m away
    assert (side * (31.5 - columns) > 0).all()
    seen = picture(track, state)[changed]
    assert ((seen >= min(levels)) & (seen <= max(levels))).sum() >= 4


def test_a_crest_hides_what_is_behind_it() -> None:
    slope = np.zeros(ROWS)
    slope[HERE + 10 : HERE + 30] = 0.25
    slope[HERE + 30 : HERE + 60] = -0.25
    hidden = make_track(slope=slope, patch=(TURBO, HERE + 36, HERE + 46, -5.0, 5.0))
    bare = make_track(slope=slope)
    state = car_at(bare)
    np.testing.assert_array_equal(picture(hidden, state), picture(bare, state))
    # From the crest's top it is seen.
    state = car_at(bare, HERE + 29)
    assert (picture(hidden, state, HERE + 29) != picture(bare, state, HERE + 29)).sum() > 20


def test_a_climb_stands_above_the_horizon() -> None:
    slope = np.zeros(ROWS)
    slope[HERE + 15 : HERE + 60] = 0.2
    track = make_track(slope=slope)
    frame = picture(track, car_at(track))
    assert (frame[HORIZON - 4, 24:40] != CAMERA.sky).any()


def test_facing_backwards_shows_only_the_road_behind() -> None:
    ahead = make_track(patch=(TURBO, HERE + 12, HERE + 60, -5.0, 5.0))
    behind = make_track(patch=(TURBO, HERE - 60, HERE - 20, -5.0, 5.0))
    bare = make_track()
    state = car_at(bare, turned=math.pi)
    np.testing.assert_array_equal(picture(ahead, state), picture(bare, state))
    assert (picture(behind, state) != picture(bare, state)).sum() > 30
    assert (picture(bare, state)[: HORIZON - 1] == CAMERA.sky).all()


@pytest.mark.parametrize("turned", [-2.5, -math.pi / 2, -0.8, 0.8, math.pi / 2, 2.5])
def test_the_ground_stays_below_the_horizon_however_the_car_is_turned(
    turned: float, straight: Track
) -> None:
    frame = picture(straight, car_at(straight, turned=turned))
    assert (frame[: HORIZON - 2] == CAMERA.sky).all()
    near = frame[50, :10]  # beside the car: road or grass, without holes down to the plain
    assert CAMERA.plain not in near


def test_across_the_road_its_far_edge_is_level(straight: Track) -> None:
    frame = picture(straight, car_at(straight, turned=math.pi / 2))
    depth = CAMERA.behind + HALF_ROAD_M
    expected = HORIZON + 32 / CAMERA.half_fov_y * CAMERA.above / depth
    columns = [3, 20, 44, 60]
    below = frame[HORIZON + 4 :, columns].argmax(axis=0) + HORIZON + 4
    assert np.abs(below - expected).max() <= 1.5


def test_a_bridge_over_the_road_is_not_drawn() -> None:
    curvature = np.zeros(ROWS)
    curvature[250:500] = 2 * math.pi / 250 * 0.75
    track = make_track(curvature)
    lifted = track.road.center.copy()
    lifted[500:, 1] += 9.0  # crosses the first straight about row 197
    bridge = Track(
        "bridge",
        Road(lifted, *(getattr(track.road, n) for n in list(Road.__dataclass_fields__)[1:])),
        track.line,
    )
    state = car_at(track, 150)
    np.testing.assert_array_equal(picture(bridge, state, 150), picture(track, state, 150))
    assert (picture(track, state, 150)[: HORIZON - 1] == CAMERA.sky).all()


def test_a_flying_car_sees_further_down(straight: Track) -> None:
    state = car_at(straight)
    flying = state.copy()
    flying[car.Y] += 2.0
    flying[car.AIRBORNE] = 1.0
    low = line_columns(picture(straight, state), 40)
    high = line_columns(picture(straight, flying), 40)
    assert np.ptp(high) < np.ptp(low) - 4  # the road is further below, so narrower


def test_brake_lights_and_slides_show_on_the_car(straight: Track) -> None:
    state = car_at(straight)
    calm = picture(straight, state)
    braking = state.copy()
    braking[car.BRAKING] = 1.0
    assert (picture(straight, braking) > calm).any()
    sliding = state.copy()
    sliding[car.VX], sliding[car.VZ] = 15.0, 40.0  # drifts to its left
    shift = picture(straight, sliding).astype(int) - calm
    assert (shift != 0).any()
    assert np.abs(np.nonzero(shift)[1] - 31.5).max() < 12  # only the car itself changes


def test_the_banner_stands_at_the_finish(straight: Track) -> None:
    row = ROWS - 1 - 180 - 40
    frame = picture(straight, car_at(straight, row), row)
    banner = frame[HORIZON - 5 : HORIZON, 24:40]
    assert banner.max() > 230
    assert banner.min() < 60
    assert (picture(straight, car_at(straight))[: HORIZON - 1] == CAMERA.sky).all()


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (48, 80), (33, 37)])
def test_any_size_shows_the_same_scene(size: tuple[int, int], straight: Track) -> None:
    height, width = size
    frame = picture(straight, car_at(straight), size=size)
    assert frame[1, width // 2] == CAMERA.sky
    assert frame[height - 2, width // 4] in CAMERA.asphalt
    assert frame[int(0.6 * height)].max() > 170  # edge lines


def test_the_road_ends_are_no_trouble(straight: Track) -> None:
    for row in (0, 1, ROWS - 3, ROWS - 2):
        for turned in (0.0, 1.3, math.pi):
            frame = picture(straight, car_at(straight, row, turned), row)
            assert (frame[: HORIZON - 2] == CAMERA.sky).all()


def test_successive_frames_change_smoothly() -> None:
    curvature = np.zeros(ROWS)
    curvature[230:300] = 1 / 60
    track = make_track(curvature, patch=(DIRT, 240, 255, 0.0, 4.0))
    first, tracks = car_at(track, 200), packed(track)
    frames = np.zeros((301, 64, 64), np.uint8)
    for i in range(len(frames)):
        state = first.copy()
        state[car.Z] += 0.1 * i  # straight ahead, 10 cm a frame
        render(frames[i], tracks, 0, 200 + i // 10, state)
    change = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2))
    assert change.max() < 1.5  # gray levels; a frame 1 m on differs by about 3
    assert np.median(change) > 0.02
