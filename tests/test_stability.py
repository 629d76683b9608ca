"""The criterion by which a recipe is called stable."""

import pytest

from benchmarks.stability import judge

MINUTES = [60.0 * i for i in range(20)]


def test_three_in_a_row_then_ten_above_the_floor_is_stable() -> None:
    rates = [0.0, 0.97, 0.5, 0.95, 0.96, 1.0, *[0.81] * 10]
    verdict = judge(MINUTES, rates)
    assert verdict.decided
    assert verdict.stable
    assert verdict.reliable_s == 300.0
    assert verdict.lowest == 0.81


def test_one_evaluation_under_the_floor_decides() -> None:
    verdict = judge(MINUTES, [1.0, 1.0, 1.0, 0.9, 0.79])
    assert verdict.decided
    assert not verdict.stable


@pytest.mark.parametrize("rates", [[0.95, 0.95, 0.94] * 5, [1.0] * 12])
def test_too_few_reliable_evaluations_decide_nothing(rates: list[float]) -> None:
    verdict = judge(MINUTES, rates)
    assert not verdict.decided
    assert not verdict.stable
