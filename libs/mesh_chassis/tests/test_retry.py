"""Waits grow and spread; repeats stay within a tenth of the calls."""

import pytest

from mesh_chassis.retry import RetryBudget, backoff_s


@pytest.mark.parametrize(
    ("attempt", "expected"), [(0, 0.5), (1, 1.0), (5, 16.0), (6, 30.0), (10_000, 30.0)]
)
def test_backoff_doubles_up_to_its_limit(attempt: int, expected: float) -> None:
    assert backoff_s(attempt, first_s=0.5, max_s=30, spread=1.0) == expected
    assert backoff_s(attempt, first_s=0.5, max_s=30, spread=0.0) == expected / 2


def test_backoff_spreads_by_itself() -> None:
    waits = {backoff_s(0, first_s=1.0, max_s=1.0) for _ in range(50)}
    assert len(waits) > 1
    assert all(0.5 <= wait <= 1.0 for wait in waits)


def test_budget_lets_a_tenth_of_the_calls_be_repeated_after_its_reserve() -> None:
    budget = RetryBudget(ratio=0.1, reserve=10)
    assert sum(budget.may_retry() for _ in range(100)) == 10
    repeated = 0
    for _ in range(1000):
        budget.called()
        repeated += budget.may_retry()
    assert 98 <= repeated <= 100


def test_budget_saves_no_more_than_its_reserve() -> None:
    budget = RetryBudget(ratio=0.1, reserve=3)
    for _ in range(1000):
        budget.called()
    assert budget.left == 3
    assert [budget.may_retry() for _ in range(4)] == [True, True, True, False]
