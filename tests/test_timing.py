"""Clocks: what a rollout cost its collector, how old a policy is."""

import time

import numpy as np

from rl.collecting.timing import StepTimer
from rl.reporting.times import PolicyAges, TimesSummary


def test_cars_share_the_time_of_a_step() -> None:
    timer = StepTimer(4)
    timer.start(np.arange(4))
    for _ in range(2):
        timer.begin()
        time.sleep(0.02)
        timer.lap("policy")
        time.sleep(0.01)
        timer.lap("environment")
    timing = timer.of(1)
    assert timing.policy_ns >= 5.0e6
    assert timing.environment_ns >= 2.5e6
    assert timing.other_ns == 0.0


def test_a_new_run_starts_its_clock_anew_and_waiting_is_not_driving() -> None:
    timer = StepTimer(2)
    timer.begin()
    time.sleep(0.05)
    timer.lap("policy")
    timer.start(np.array([1]))
    timer.begin()
    timer.lap("policy")
    time.sleep(0.02)
    old, new = timer.of(0), timer.of(1)
    assert new.policy_ns < old.policy_ns
    assert 0.0 < new.in_rollout_percentage < old.in_rollout_percentage


def test_policy_age_is_the_time_since_its_version() -> None:
    ages = PolicyAges(5)
    time.sleep(0.02)
    ages.note(6)
    first, second = ages.seconds(5), ages.seconds(6)
    assert first is not None
    assert second is not None
    assert first - second >= 0.02
    assert ages.seconds(4) is None  # from before a resume


def test_summary_starts_anew() -> None:
    summary = TimesSummary()
    summary.spent("training", 1.0)
    assert "learner: training" in summary.take()
    assert "learner: training" not in summary.take()


def test_cpu_time_is_counted_once_over_the_runs_of_a_collector() -> None:
    before = time.process_time()
    timer = StepTimer(3)
    counted = 0.0
    for car in (2, 0, 2, 1):
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        counted += timer.of(car).cpu_s
    time.sleep(0.05)  # no CPU time
    spent = time.process_time() - before
    assert 0.08 <= counted <= spent < counted + 0.04
