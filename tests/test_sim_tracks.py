"""Tracks build, keep their promises to drivers, and refuse what cannot be driven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.contract.errors import UserError
from datasets.contract.line import ReferenceLine
from datasets.contract.surfaces import ASPHALT, TURBO
from rl.envs.registry import find_track, find_tracks, make_track
from rl.envs.sim.generator import generated_track, runs_into_itself
from rl.envs.sim.line_road import lateral_places, road_for_line
from rl.envs.sim.road import Track, pack_tracks
from rl.envs.sim.shape import curvature
from tests.sim_helpers import figure_eight

REAL_LINE = Path(__file__).parents[2] / "shared" / "maps" / "ESL-Hockolicious_0.5m_cl2.npy"
KINDS = ["short", "A01", "hock", "random:0", "random:13", "eight"]


@pytest.fixture(scope="module")
def eight_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "eight.npy"
    np.save(path, np.round(figure_eight(8.0), 1))
    return path


@pytest.fixture(params=KINDS)
def track(request: pytest.FixtureRequest, eight_path: Path) -> Track:
    return find_track(str(eight_path) if request.param == "eight" else request.param)


def _line_d(track: Track) -> tuple[np.ndarray, np.ndarray]:
    return lateral_places(track.road, track.line.points)


def test_the_line_stays_on_the_road(track: Track) -> None:
    rows, d = _line_d(track)
    edges = track.road.edges[rows]
    assert (d <= edges[:, 0] - 0.9).all()
    assert (d >= -edges[:, 1] + 0.9).all()


def test_cross_sections_do_not_meet(track: Track) -> None:
    bend = curvature(track.road.center)
    walls = track.road.walls
    assert (walls[:, 0] * bend).max() < 0.9
    assert (-walls[:, 1] * bend).max() < 0.9
    assert (walls > track.road.edges + 1.0).all()


def test_sections_are_a_metre_apart_and_lead_in_and_out(track: Track) -> None:
    steps = np.linalg.norm(np.diff(track.road.center[:, [0, 2]], axis=0), axis=1)
    assert steps.min() > 0.9
    assert steps.max() < 1.1
    rows, _ = _line_d(track)
    assert rows[0] >= 30
    assert len(track.road.center) - rows[-1] >= 150


def test_patches_leave_clean_road_and_a_clear_start(track: Track) -> None:
    road = track.road
    patched = road.patch_kind != ASPHALT
    edges, span = road.edges[patched], road.patch_span[patched]
    clean = np.maximum(edges[:, 0] - span[:, 1], edges[:, 1] + span[:, 0])
    assert clean.min() >= 3.4
    assert np.flatnonzero(patched)[0] >= _line_d(track)[0][0] + 20


def test_patches_come_often_at_sides_that_the_line_does_not_tell(track: Track) -> None:
    rows, d = _line_d(track)
    road = track.road
    starts = np.flatnonzero(np.diff((road.patch_kind != ASPHALT).astype(int)) == 1) + 1
    assert len(starts) >= track.line.length_m / 50
    at = np.interp(starts, rows, d)
    hit = (road.patch_span[starts, 0] <= at) & (at <= road.patch_span[starts, 1])
    assert 0.15 < hit.mean() < 0.85


def test_turbo_strips_are_narrow() -> None:
    road = find_track("hock").road
    span = road.patch_span[road.patch_kind == TURBO]
    width = span[:, 1] - span[:, 0]
    assert len(width) > 0
    assert width.min() >= 2.5
    assert width.max() <= 3.5


def test_built_in_tracks_are_as_long_as_meant() -> None:
    lengths = {name: find_track(name).line.length_m for name in ("short", "A01", "hock")}
    assert 350 < lengths["short"] < 450
    assert 1000 < lengths["A01"] < 1250
    assert 2000 < lengths["hock"] < 2800


def test_no_generated_track_runs_into_itself() -> None:
    again = 0
    for seed in range(12):
        assert not runs_into_itself(generated_track(seed).road.center)
        try:
            generated_track(seed, attempts=1)
        except UserError:  # it needs more, and without them there is no track
            again += 1
    assert again > 0


def test_a_seed_is_a_track() -> None:
    first, again = find_track("random:3"), find_tracks("random:5")[3]
    np.testing.assert_array_equal(first.road.center, again.road.center)
    np.testing.assert_array_equal(first.line.points, again.line.points)
    other = find_track("random:4")
    assert other.road.center.shape != first.road.center.shape


def test_an_overlapping_line_gets_a_bridge(eight_path: Path) -> None:
    center = find_track(str(eight_path)).road.center
    apart = np.linalg.norm(center[:, None, [0, 2]] - center[None, :, [0, 2]], axis=2)
    rows, others = np.nonzero(apart < 3.0)
    crossing = np.abs(rows - others) > 100
    assert crossing.any()
    heights = np.abs(center[rows, 1] - center[others, 1])[crossing]
    assert heights.min() > 5.0


def test_the_same_line_has_the_same_road_wherever_it_lies(tmp_path: Path, eight_path: Path) -> None:
    copy = tmp_path / "copy.npy"
    copy.write_bytes(eight_path.read_bytes())
    one, two = find_track(str(eight_path)).road, find_track(str(copy)).road
    np.testing.assert_array_equal(one.edges, two.edges)
    np.testing.assert_array_equal(one.patch_span, two.patch_span)


@pytest.mark.skipif(not REAL_LINE.exists(), reason=f"no recorded line at {REAL_LINE}")
def test_a_recorded_line_gets_a_road() -> None:
    track = find_track(str(REAL_LINE))
    rows, d = _line_d(track)
    assert track.line.length_m == pytest.approx(4048.7, abs=1.0)
    assert (np.diff(rows) >= 0).all()
    assert rows[-1] > 3900
    assert (np.abs(d) < 8.0).all()


def test_another_line_can_be_followed_on_a_road(tmp_path: Path) -> None:
    track = find_track("short")
    path = tmp_path / "best.npy"
    moved = track.line.points.copy()
    moved[:, 0] += 0.5
    np.save(path, moved)
    changed = make_track("short", str(path))
    np.testing.assert_array_equal(changed.road.center, track.road.center)
    np.testing.assert_allclose(changed.line.points, moved)


def test_a_line_of_another_track_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.npy"
    np.save(path, find_track("A01").line.points)
    with pytest.raises(UserError, match="short"):
        make_track("short", str(path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shrot", "did you mean 'short'"),
        ("random:x", "random:7"),
        ("nowhere/line.npy", "no such reference line"),
        ("random:-1", "number"),
    ],
)
def test_unknown_tracks_are_named(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_track(spec)


def test_no_tracks_at_all_is_an_error() -> None:
    with pytest.raises(UserError, match="stands for 1 to"):
        find_tracks("random:0")


@pytest.mark.parametrize("flaw", ["nan", "shape", "text", "steep", "tight"])
def test_lines_that_cannot_be_driven_are_refused(flaw: str, tmp_path: Path) -> None:
    path = tmp_path / "line.npy"
    points = figure_eight(8.0)
    if flaw == "nan":
        points[70, 1] = np.nan
    elif flaw == "shape":
        points = points[:, :2]
    elif flaw == "steep":
        points[:, 1] += 3.0 * np.arange(len(points))
    elif flaw == "tight":
        points = points * np.array([0.03, 1.0, 0.03])
    if flaw == "text":
        path.write_text("0 0 0\n1 1 1\n")
    else:
        np.save(path, points)
    with pytest.raises(UserError) as caught:
        find_track(str(path))
    assert "\n" not in str(caught.value)
    assert "line" in str(caught.value)


def test_packed_tracks_keep_every_row() -> None:
    tracks = [find_track("short"), find_track("random:2"), find_track("A01")]
    packed = pack_tracks(tracks)
    for t, track in enumerate(tracks):
        rows = slice(packed.road_offset[t], packed.road_offset[t + 1])
        np.testing.assert_array_equal(packed.road_center[rows], track.road.center)
        np.testing.assert_array_equal(packed.patch_span[rows], track.road.patch_span)
        zones = slice(packed.line_offset[t], packed.line_offset[t + 1])
        np.testing.assert_array_equal(packed.line_centers[zones], track.line.zone_centers)
        np.testing.assert_array_equal(packed.line_axes[zones][:-1], track.line.axes)


def test_the_banner_stands_where_the_line_ends(track: Track) -> None:
    packed = pack_tracks([find_track("short"), track])
    row = packed.finish_row[1] - packed.road_offset[1]
    apart = track.line.finish_point - track.road.center[row]
    assert abs(apart[[0, 2]] @ track.road.forward[row]) < 1.0
    assert abs(apart[1]) < 2.0


def test_the_seed_of_a_line_draws_its_road() -> None:
    line = ReferenceLine.from_points(figure_eight(8.0))
    one, two = road_for_line(line, 1), road_for_line(line, 2)
    np.testing.assert_array_equal(one.center, two.center)
    assert np.abs(one.edges - two.edges).max() > 0.5
