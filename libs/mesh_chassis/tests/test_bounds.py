"""Rates hold over any interval; a full bulkhead refuses at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bounds import Bulkhead, TokenBucket


def test_bucket_admits_the_burst_then_the_rate() -> None:
    bucket = TokenBucket(rate=100, burst=100)
    assert [bucket.admit(5.0) for _ in range(100)] == [0.0] * 100
    assert bucket.admit(5.0) == pytest.approx(0.01)
    assert bucket.admit(5.0099) > 0
    assert bucket.admit(5.0100001) == 0.0


def test_bucket_is_not_charged_for_a_refusal() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    bucket.admit(0.0)
    for _ in range(1000):
        assert bucket.admit(0.5) == pytest.approx(0.5)
    assert bucket.admit(1.0) == 0.0


def test_bucket_admits_after_exactly_the_time_it_named() -> None:
    bucket = TokenBucket(rate=3, burst=2)
    now = 0.0
    for _ in range(100):
        wait = bucket.admit(now)
        if wait:
            now += wait
            assert bucket.admit(now) == 0.0


@given(
    rate=st.floats(0.5, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.floats(0, 2), max_size=200),
)
def test_bucket_never_admits_more_than_burst_plus_rate_times_time(rate, burst, steps) -> None:
    bucket = TokenBucket(rate=rate, burst=burst)
    now, admitted = 0.0, 0
    for step in steps:
        now += step
        admitted += bucket.admit(now) == 0.0
        assert admitted <= burst + rate * now + 1e-3


def test_bucket_is_idle_once_its_burst_is_back() -> None:
    bucket = TokenBucket(rate=2, burst=4)
    assert bucket.idle(0.1)
    bucket.admit(1.0)
    assert not bucket.idle(1.2)
    assert bucket.idle(1.5)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_bucket_refuses_a_rate_that_is_none(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        TokenBucket(rate=rate, burst=burst)


def test_bulkhead_refuses_at_its_limit_and_admits_again_below() -> None:
    bulkhead = Bulkhead(limit=2, name="upstream time")
    with bulkhead.place(), bulkhead.place():
        with pytest.raises(MeshError) as caught, bulkhead.place():
            pass
        assert bulkhead.used == 2
    assert caught.value.kind is ErrorKind.OVERLOADED
    assert caught.value.data == {"limit": "upstream time"}
    assert caught.value.retry_after_s
    assert bulkhead.used == 0
    assert bulkhead.limit == 2


def test_bulkhead_frees_its_place_when_the_work_fails() -> None:
    bulkhead = Bulkhead(limit=1, name="x")
    with pytest.raises(KeyError), bulkhead.place():
        raise KeyError
    assert bulkhead.enter()
    bulkhead.leave()
    with pytest.raises(RuntimeError, match="more often"):
        bulkhead.leave()
