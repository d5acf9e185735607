"""The breaker opens, waits, probes and closes by the rules of reliability R9."""

import pytest

from mesh_chassis.breaker import Breaker, BreakerState


def open_breaker(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(now, 0.0)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_breaker_opens_at_five_failures_in_a_row_and_not_at_four() -> None:
    breaker = Breaker()
    assert [breaker.failed(0.0, 0.0) for _ in range(5)] == [False] * 4 + [True]
    assert breaker.admit(0.0) == pytest.approx(5.0)


def test_breaker_counts_anew_after_a_success() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.failed(0.0, 0.0)
    breaker.succeeded(0.0)
    for _ in range(4):
        breaker.failed(0.0, 0.0)
    assert breaker.admit(0.0) == 0.0


def test_breaker_opens_at_half_of_twenty_within_the_window() -> None:
    breaker = Breaker()
    opened = False
    for i in range(19):
        if i % 2:
            breaker.succeeded(i * 0.1)
        else:
            opened |= breaker.failed(i * 0.1, 0.0)
    assert not opened
    breaker.succeeded(1.9)
    assert breaker.failed(2.0, 0.0)


def test_breaker_forgets_outcomes_older_than_the_window() -> None:
    breaker = Breaker()
    for i in range(18):
        (breaker.failed(0.0, 0.0) if i % 2 else breaker.succeeded(0.0))
    assert not breaker.failed(10.5, 0.0)
    assert not breaker.failed(10.5, 0.0)


def test_breaker_lets_exactly_one_probe_through_when_its_time_is_over() -> None:
    breaker = open_breaker()
    assert breaker.admit(4.9) == pytest.approx(0.1)
    assert breaker.admit(5.0) == 0.0
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(5.0) > 0.0
    breaker.succeeded(5.1)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.admit(5.1) == 0.0


def test_breaker_doubles_its_time_with_each_failed_probe_up_to_a_minute() -> None:
    breaker = open_breaker()
    now, waits = 0.0, []
    for _ in range(6):
        wait = breaker.admit(now)
        waits.append(wait)
        now += wait
        assert breaker.admit(now) == 0.0
        assert breaker.failed(now, 0.0)
    assert waits == pytest.approx([5, 10, 20, 40, 60, 60])


def test_breaker_starts_over_at_five_seconds_after_it_has_closed() -> None:
    breaker = open_breaker()
    assert breaker.admit(5.0) == 0.0
    breaker.succeeded(5.0)
    for _ in range(5):
        breaker.failed(6.0, 0.0)
    assert breaker.admit(6.0) == pytest.approx(5.0)


def test_breaker_lengthens_its_time_by_the_spread_given() -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(0.0, 1.0)
    assert breaker.admit(0.0) == pytest.approx(6.0)


def test_breaker_ignores_busy_answers() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker.busy(0.0)
    assert breaker.state is BreakerState.CLOSED
    for _ in range(4):
        breaker.failed(0.0, 0.0)
    breaker.busy(0.0)
    assert breaker.failed(0.0, 0.0), "busy is no success either"


def test_breaker_allows_another_probe_when_the_probe_was_told_busy() -> None:
    breaker = open_breaker()
    assert breaker.admit(5.0) == 0.0
    breaker.busy(5.1)
    assert breaker.admit(5.1) == 0.0


def test_breaker_allows_another_probe_when_one_never_reported() -> None:
    breaker = open_breaker()
    assert breaker.admit(5.0) == 0.0
    assert breaker.admit(34.9) > 0.0
    assert breaker.admit(35.0) == 0.0


def test_breaker_stays_open_when_an_old_call_comes_through() -> None:
    breaker = open_breaker()
    breaker.succeeded(1.0)
    assert not breaker.failed(1.0, 0.0)
    assert breaker.admit(1.0) == pytest.approx(4.0)


def test_breaker_is_closed_after_a_reset() -> None:
    breaker = open_breaker()
    breaker.reset()
    assert breaker.admit(0.0) == 0.0
