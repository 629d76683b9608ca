"""Actions, floats, mini-race, reference lines and files: what every package relies on."""

from pathlib import Path

import numpy as np
import pytest

from datasets.contract import floats as layout
from datasets.contract.actions import ACTION_KEYS, ACTION_NAMES, N_ACTIONS, keys_to_actions
from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path, read_json, write_json
from datasets.contract.line import EXTENSION_ZONES, START_ZONE, ReferenceLine
from datasets.contract.minirace import draw_clock


def test_keys_and_actions_are_inverse() -> None:
    assert keys_to_actions(ACTION_KEYS).tolist() == list(range(N_ACTIONS))
    assert len(set(ACTION_NAMES)) == N_ACTIONS


def test_left_and_right_together_cancel() -> None:
    assert keys_to_actions(np.array([1, 0, 1, 1])) == 0
    assert keys_to_actions(np.array([0, 1, 1, 1])) == 6


def test_the_float_layout_has_no_gap_and_no_overlap() -> None:
    owners = np.zeros(layout.N_FLOATS, dtype=int)
    for value in (
        layout.CLOCK, layout.PREVIOUS_ACTIONS, layout.WHEEL_SLIDING, layout.WHEEL_CONTACT,
        layout.WHEEL_DAMPER, layout.GEARBOX_STATE, layout.GEAR, layout.RPM, layout.GEARBOX_COUNTER,
        layout.CONTACT_GROUPS, layout.ANGULAR_VELOCITY, layout.VELOCITY, layout.UP,
        layout.WAYPOINTS,
        layout.MARGIN, layout.FREEWHEELING,
    ):  # fmt: skip
        owners[value] += 1
    assert (owners == 1).all()
    assert (layout.FLOAT_STD > 0).all()


def test_previous_actions_are_those_of_past_50_ms_steps() -> None:
    timeline = np.arange(60, dtype=np.uint8) % N_ACTIONS
    times = np.array([0, 70, 300])
    block = layout.previous_actions(timeline, times).reshape(3, 5, 4)
    for row, time_ms in enumerate(times):
        for column, steps_ago in enumerate((5, 4, 3, 2, 1)):
            tick = (time_ms - 50 * steps_ago) // 10
            action = timeline[tick] if tick >= 0 else 0
            assert block[row, column].tolist() == ACTION_KEYS[action].tolist()


def test_the_clock_has_the_documented_distribution() -> None:
    drawn = draw_clock(np.random.default_rng(3), 360_000)
    share = np.bincount(drawn, minlength=140) / len(drawn)
    expected = np.full(140, 1 / 180)
    expected[0], expected[1:31] = 11 / 180, 2 / 180
    assert share.shape == expected.shape
    np.testing.assert_allclose(share, expected, rtol=0.1)


def straight_line(n: int = 120) -> np.ndarray:
    return np.stack([np.zeros(n), np.full(n, 9.0), 0.5 * np.arange(n)], axis=1)


def test_a_line_is_extended_and_measured() -> None:
    line = ReferenceLine.from_points(straight_line())
    assert line.n_zones == 120 + START_ZONE + EXTENSION_ZONES
    assert line.last_zone == 120 + START_ZONE - 1
    assert line.finish_zone == line.last_zone + 1
    assert line.length_m == pytest.approx(59.5)
    assert line.finish_point.tolist() == [0.0, 9.0, 59.25]
    np.testing.assert_allclose(line.axes, np.tile([0.0, 0.0, 1.0], (line.n_zones - 1, 1)))
    np.testing.assert_allclose(np.diff(line.cumulative), 0.5)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((80, 2)), r"expected an array \(N >= 50, 3\)"),
        (straight_line(10), r"N >= 50"),
        (
            np.where(np.arange(360).reshape(120, 3) == 7, np.nan, straight_line()),
            "point 2 is not finite",
        ),
        (
            np.vstack([straight_line()[:60], straight_line()[59:]]),
            "points 59 and the next coincide",
        ),
        (np.full((80, 3), "x"), "expected real numbers"),
    ],
)
def test_a_bad_line_is_refused(points: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReferenceLine.from_points(points)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.npy"
    path.write_text("hello")
    with pytest.raises(UserError, match=r"not a \.npy array"):
        ReferenceLine.load(path)
    with pytest.raises(UserError, match="no such reference line"):
        ReferenceLine.load(tmp_path / "other.npy")


def test_the_real_line_has_its_known_numbers() -> None:
    path = Path(__file__).parents[2] / "shared" / "maps" / "ESL-Hockolicious_0.5m_cl2.npy"
    if not path.exists():
        pytest.skip(f"{path.name} lies outside the repository, in ../shared/maps, and is not here")
    line = ReferenceLine.load(path)
    assert (line.n_zones, line.last_zone, line.finish_zone) == (9082, 8081, 8082)
    assert line.cumulative[line.finish_zone] == pytest.approx(4037.3, abs=0.05)
    assert line.cumulative[START_ZONE - 1] == pytest.approx(7.0, abs=0.05)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fail_half_way()
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
