"""Interpolation kinds, order checks, and what is scaled by the schedule speed."""

import pytest

from rl.config import schedules
from rl.config.schedules import ScheduleConfig
from rl.learning.pace import LearningPace

POINTS = ((10, 1.0), (30, 0.01))


def test_exponential_is_geometric_between_points_and_constant_outside() -> None:
    assert schedules.exponential(POINTS, 0) == 1.0
    assert schedules.exponential(POINTS, 20) == pytest.approx(0.1)
    assert schedules.exponential(POINTS, 25) == pytest.approx(10**-1.5)
    assert schedules.exponential(POINTS, 30) == 0.01
    assert schedules.exponential(POINTS, 1e9) == 0.01


def test_exponential_towards_zero_is_a_straight_line() -> None:
    assert schedules.exponential(((0, 0.5), (10, 0.0)), 4) == pytest.approx(0.3)


def test_linear_is_straight_between_points_and_constant_outside() -> None:
    assert schedules.linear(POINTS, 0) == 1.0
    assert schedules.linear(POINTS, 20) == pytest.approx(0.505)
    assert schedules.linear(POINTS, 99) == 0.01


def test_staircase_changes_at_its_points() -> None:
    points = ((0, ""), (10, "_2"), (20, "_3"))
    assert [schedules.staircase(points, step) for step in (0, 9, 10, 19, 20)] == [
        "",
        "",
        "_2",
        "_2",
        "_3",
    ]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "at least one"),
        (((-1, 0.0),), "negative step"),
        (((0, 1.0), (5, 1.0), (3, 1.0)), "step 3 comes after step 5"),
        (((0, 1.0), (0, 2.0)), "out of order"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(
    points: tuple[tuple[int, float], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        schedules.check_points(points, "lr_schedule")


def test_the_schedule_speed_stretches_everything_but_gamma() -> None:
    slow = ScheduleConfig(global_schedule_speed=1.0)
    fast = ScheduleConfig(global_schedule_speed=4.0)
    a, b = slow.schedules_at(2_000_000), fast.schedules_at(8_000_000)
    assert (a.learning_rate, a.epsilon, a.epsilon_boltzmann) == pytest.approx(
        (b.learning_rate, b.epsilon, b.epsilon_boltzmann)
    )
    assert a.gamma == pytest.approx(0.9995)
    assert b.gamma == 1.0
    assert fast.schedules_at(2_000_000).gamma == a.gamma


def test_schedules_count_from_their_origin() -> None:
    plain = ScheduleConfig(global_schedule_speed=2.0)
    later = ScheduleConfig(global_schedule_speed=2.0, schedule_origin=500_000)
    assert later.schedules_at(1_500_000) == plain.schedules_at(1_000_000)
    assert later.schedules_at(100) == plain.schedules_at(0)


def test_the_pace_starts_when_the_memory_is_filled_and_follows_the_transitions() -> None:
    pace = LearningPace()

    def due(size: int) -> bool:
        return pace.is_due(memory_size=size, memory_start=100, uses_per_transition=4)

    pace.add(99, 4)
    assert not due(99)
    pace.add(11, 4)
    assert not due(99)
    updates = 0
    while due(110):
        pace.count_update(8)
        updates += 1
    assert (
        updates == 6
    )  # 10 transitions beyond the start, 4 uses each, batches of 8: at 0, 8, .. 40


def test_the_pace_is_restored() -> None:
    pace, other = LearningPace(), LearningPace()
    pace.add(7, 3)
    pace.count_update(5)
    other.load_state_dict(pace.state_dict())
    assert (other.due, other.used) == (21, 5)
