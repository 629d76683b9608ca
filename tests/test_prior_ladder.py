"""When the weight of the prior falls, rises and stays."""

import itertools
import json

import pytest

from rl.config.prior_options import COHORT_OF_START, HIGHER, LOWER, PRESENT, PriorConfig
from rl.learning.ladder import LadderRun, WeightLadder

DNF = None
FRAMES = 30_000
RULE = {
    "weight": 0.1,
    "runs_per_decision": 24,
    "least_dnfs_to_raise": 4,
    "frames_between_steps": 10_000,
}
"""What these tests count with, whatever the defaults are."""


def run(
    ms: int | None,
    cohort: int,
    *,
    judged: bool = True,
    level: int = 1,
    started: int = 0,
    track: str = "a",
) -> LadderRun:
    """One run; None did not finish."""
    return LadderRun(
        track=track,
        judged=judged,
        finished=ms is not None,
        race_time_ms=300_000 if ms is None else ms,
        level=level,
        cohort=cohort,
        started_frames=started,
    )


def ladder_at(level: int, **options: object) -> WeightLadder:
    ladder = WeightLadder(PriorConfig.model_validate({**RULE, **options}))
    ladder.level = level
    return ladder


def cohorts(
    present: list[int | None], lower: list[int | None], higher: list[int | None]
) -> list[LadderRun]:
    runs = [run(ms, PRESENT) for ms in present]
    runs += [run(ms, LOWER) for ms in lower]
    return runs + [run(ms, HIGHER) for ms in higher]


GOOD: list[int | None] = [1000] * 24
SLOWER: list[int | None] = [1009] * 24
SLOW: list[int | None] = [1012] * 24


@pytest.mark.parametrize(
    ("present", "lower", "higher", "level"),
    [
        (GOOD, GOOD, [], 2),
        (GOOD, SLOWER, [], 2),  # within 1 %
        (GOOD, SLOW, [], 1),
        (GOOD, [DNF] + [1000] * 23, [], 2),
        (GOOD, [DNF] * 2 + [1000] * 22, [], 1),
        (GOOD, [1000] * 23, [], 1),  # too few runs
        ([1000] * 23, GOOD, [], 1),
        ([DNF] * 3 + [1000] * 21, SLOW, [], 1),
        ([DNF] * 4 + [1000] * 20, SLOW, [], 0),
        ([1031] * 24, [1100] * 24, [1000] * 8, 0),
        ([1029] * 24, [1100] * 24, [1000] * 8, 1),
        ([1031] * 24, [1100] * 24, [1000] * 7, 1),  # too few runs to compare with
        ([DNF] * 24, [DNF] * 24, [DNF] * 24, 0),
    ],
)
def test_rule(
    present: list[int | None], lower: list[int | None], higher: list[int | None], level: int
) -> None:
    ladder = ladder_at(1)
    runs = cohorts(present, lower, higher)
    changed = [
        ladder.note(0, number, each, FRAMES if number == len(runs) - 1 else 0)
        for number, each in enumerate(runs)
    ]
    assert ladder.level == level
    assert changed == [False] * (len(runs) - 1) + [level != 1]


def test_only_the_latest_runs_count() -> None:
    ladder = ladder_at(1)
    runs = cohorts([DNF] * 9 + [1000] * 24, [DNF] * 9 + [1000] * 24, [])
    for number, each in enumerate(runs):
        ladder.note(0, number, each, FRAMES if number == len(runs) - 1 else 0)
    assert ladder.level == 2


def test_runs_are_judged_in_the_order_in_which_they_started() -> None:
    """Runs that do not finish end first; they must not be judged before those that still drive."""
    ladder = ladder_at(1)
    for number in range(24):  # one long run is under way, number 0
        assert not ladder.note(0, number + 1, run(DNF, PRESENT), FRAMES)
    assert ladder.note(0, 0, run(1000, PRESENT), FRAMES)
    assert ladder.level == 0


def test_late_runs_hold_up_those_that_started_after_them() -> None:
    ladder = ladder_at(1)
    good = [run(1000, cohort) for cohort in (PRESENT, LOWER) for _ in range(24)]
    for number, each in enumerate(good[1:], start=1):
        assert not ladder.note(0, number, each, FRAMES)
    assert ladder.note(0, 0, good[0], FRAMES)


def test_collectors_number_their_runs_apart() -> None:
    ladder = ladder_at(1)
    halves = [run(1000, cohort) for cohort in (PRESENT, LOWER) for _ in range(12)]
    for (number, each), collector in itertools.product(enumerate(halves), (7, 8)):
        ladder.note(collector, number, each, FRAMES)
    assert ladder.level == 2


@pytest.mark.parametrize(("level", "judged"), [(0, True), (1, False)])
def test_runs_of_another_weight_and_those_that_are_not_judged_do_not_count(
    level: int, judged: bool
) -> None:
    ladder = ladder_at(1)
    for number in range(60):
        each = run(1000, (PRESENT, LOWER)[number % 2], level=level, judged=judged)
        assert not ladder.note(0, number, each, FRAMES)
    assert ladder.level == 1


def test_a_step_waits_for_frames_and_for_new_runs() -> None:
    ladder = ladder_at(1)
    good = [run(1000, cohort) for cohort in (PRESENT, LOWER) for _ in range(24)]
    for number, each in enumerate(good):
        assert not ladder.note(0, number, each, 9_999)
    assert ladder.note(0, 48, good[-1], 10_000)
    new = [run(1000, c, level=2, started=10_000) for c in (PRESENT, LOWER) for _ in range(24)]
    for number, each in enumerate(new, start=49):
        assert not ladder.note(0, number, each, 19_999)  # too early after the step
    assert ladder.note(0, 97, new[-1], 20_000)


def test_runs_that_began_before_a_step_do_not_count() -> None:
    ladder = ladder_at(1)
    good = [run(1000, cohort) for cohort in (PRESENT, LOWER) for _ in range(24)]
    for number, each in enumerate(good):
        ladder.note(0, number, each, 9_999)
    assert ladder.note(0, 48, good[-1], 10_000)
    old = run(1000, LOWER, level=2, started=9_990)
    for number in range(49, 120):
        assert not ladder.note(0, number, old, FRAMES)


def test_maps_are_compared_with_themselves() -> None:
    """One cohort happens to drive the short map only."""
    ladder = ladder_at(1)
    runs = [run(1000, PRESENT, track="a") for _ in range(24)]
    runs += [run(3000, LOWER, track="b") for _ in range(24)]
    for number, each in enumerate(runs):
        ladder.note(0, number, each, FRAMES if number == 47 else 0)
    assert ladder.level == 2


def test_ladder_ends_at_zero_and_begins_at_the_largest_weight() -> None:
    config = PriorConfig(weight=0.1, weight_factor=0.5, lowest_weight=0.02)
    assert config.weights == (0.1, 0.05, 0.025, 0.0)
    assert [config.weight_of(level, LOWER) for level in range(4)] == [0.05, 0.025, 0.0, 0.0]
    assert [config.weight_of(level, HIGHER) for level in range(4)] == [0.2, 0.1, 0.05, 0.025]
    top, bottom = ladder_at(0), WeightLadder(config)
    bottom.level = 3
    for number in range(200):
        assert not top.note(0, number, run(DNF, PRESENT, level=0), FRAMES)
        bottom.note(0, number, run(1000, (PRESENT, LOWER)[number % 2], level=3), FRAMES)
    assert (top.level, bottom.level) == (0, 3)


def test_cohorts_have_their_shares_of_32_cars() -> None:
    cohort = [COHORT_OF_START[number % len(COHORT_OF_START)] for number in range(32)]
    assert [cohort.count(each) for each in (PRESENT, LOWER, HIGHER)] == [16, 12, 4]
    half = cohort[:16]  # those that averaged weights may drive
    assert [half.count(each) for each in (PRESENT, LOWER, HIGHER)] == [8, 6, 2]


def test_state_goes_on_exactly() -> None:
    runs = cohorts([1000] * 24, [1000] * 24, [1000] * 5)
    order = [3, 1, 0, 2, *range(4, len(runs))]
    whole, parts = ladder_at(1), ladder_at(1)
    for number in order:
        whole.note(0, number, runs[number], FRAMES)
        parts.note(0, number, runs[number], FRAMES)
        again = ladder_at(0)
        again.load_state_dict(parts.state_dict())
        parts = again
        assert (parts.level, parts.frames_of_step) == (whole.level, whole.frames_of_step)
    assert parts.level == 2
    assert json.dumps(parts.state_dict()) == json.dumps(whole.state_dict())


def test_start_at_a_weight() -> None:
    ladder = ladder_at(0)
    for weight, level in (
        (0.1, 0),
        (0.07, 1),
        (0.06, 2),
        (5.0, 0),
        (0.0, len(PriorConfig(weight=0.1).weights) - 1),
    ):
        ladder.start_at(weight)
        assert ladder.level == level
