"""Backoff and quarantine."""

from tool_runner.core.restarts import QUARANTINE_S, Restarts


def test_delays_double_and_the_fifth_end_within_a_minute_quarantines():
    restarts = Restarts()
    waits = [restarts.ended(float(at), ran_s=0.0) for at in range(5)]
    assert [wait.delay_s for wait in waits[:4]] == [0.5, 1.0, 2.0, 4.0]
    assert waits[4].quarantined
    assert waits[4].delay_s == QUARANTINE_S


def test_delay_never_exceeds_half_a_minute():
    restarts = Restarts()
    delays = [restarts.ended(at * 40.0, ran_s=0.0).delay_s for at in range(12)]
    assert max(delays) == 30.0


def test_long_life_forgives_what_was_before():
    restarts = Restarts()
    for at in range(3):
        restarts.ended(float(at), ran_s=0.0)
    assert restarts.ended(500.0, ran_s=400.0).delay_s == 0.5


def test_quarantined_server_that_fails_its_one_try_stays_quarantined():
    restarts = Restarts()
    for at in range(5):
        restarts.ended(float(at), ran_s=0.0)
    assert restarts.ended(400.0, ran_s=0.0).quarantined
    assert not restarts.ended(900.0, ran_s=100.0).quarantined


def test_jitter_lengthens_by_at_most_a_fifth():
    assert Restarts().ended(0.0, ran_s=0.0, jitter=1.0).delay_s == 0.6
