"""Clocks: what a rollout cost its collector, how old a policy is."""

import numpy as np
import pytest

from rl.collecting import timing
from rl.collecting.timing import StepTimer
from rl.reporting import times
from rl.reporting.times import PolicyAges, TimesSummary


class Clock:
    """Stands in for the module `time`: its clocks stand still until a test moves them.

    Attributes:
        wall_s, cpu_s: readings, seconds. All amounts of the tests are sums of powers of 2: exact.
    """

    def __init__(self) -> None:
        self.wall_s = 64.0
        self.cpu_s = 8.0

    def perf_counter(self) -> float:
        return self.wall_s

    def monotonic(self) -> float:
        return self.wall_s

    def process_time(self) -> float:
        return self.cpu_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (timing, times):
        monkeypatch.setattr(module, "time", clock)
    return clock


def step(timer: StepTimer, clock: Clock, policy_s: float, environment_s: float) -> None:
    """One step of all cars, which takes so long."""
    timer.begin()
    clock.wall_s += policy_s
    timer.lap("policy")
    clock.wall_s += environment_s
    timer.lap("environment")


def test_cars_share_the_time_of_a_step(clock: Clock) -> None:
    timer = StepTimer(4)
    timer.start(np.arange(4))
    for policy_s in (0.5, 0.25):
        step(timer, clock, policy_s, 0.125)
    found = timer.of(1)
    # Nanoseconds per car and step: of 4 cars, 2 steps.
    assert found.policy_ns == 1e9 * 0.75 / 8
    assert found.environment_ns == 1e9 * 0.25 / 8
    assert found.other_ns == 0.0
    assert found.in_rollout_percentage == 100.0


def test_a_new_run_starts_its_clock_anew_and_waiting_is_not_driving(clock: Clock) -> None:
    timer = StepTimer(2)
    step(timer, clock, 0.5, 0.25)
    timer.start(np.array([1]))
    step(timer, clock, 0.125, 0.125)
    clock.wall_s += 0.75  # no step
    old, new = timer.of(0), timer.of(1)
    assert old.policy_ns == 1e9 * 0.625 / (2 * 2)
    assert new.policy_ns == 1e9 * 0.125 / (1 * 2)
    assert new.environment_ns == 1e9 * 0.125 / (1 * 2)
    assert old.in_rollout_percentage == 100.0 * 1.0 / 1.75
    assert new.in_rollout_percentage == 100.0 * 0.25 / 1.0


def test_policy_age_is_the_time_since_its_version(clock: Clock) -> None:
    ages = PolicyAges(5)
    clock.wall_s += 2.0
    ages.note(6)
    clock.wall_s += 0.5
    assert ages.seconds(5) == 2.5
    assert ages.seconds(6) == ages.seconds(7) == 0.5
    assert ages.seconds(4) is None  # from before a resume


def test_summary_starts_anew(clock: Clock) -> None:
    summary = TimesSummary()
    clock.wall_s += 4.0
    summary.spent("training", 1.0)
    assert "| learner: training | 25.0 % |" in summary.take()
    assert "learner: training" not in summary.take()


def test_cpu_time_is_counted_once_over_the_runs_of_a_collector(clock: Clock) -> None:
    timer = StepTimer(3)
    counted = []
    for car in (2, 0, 2, 1):
        clock.cpu_s += 0.5
        clock.wall_s += 2.0
        counted.append(timer.of(car).cpu_s)
    assert counted == [0.5] * 4
