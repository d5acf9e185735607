"""When a refusal is repeated."""

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.retries import QUEUE_PER_TENANT, BusyQueue, Repeats

BUSY = MeshError(ErrorKind.OVERLOADED, "busy")
GONE = MeshError(ErrorKind.NO_RUNNER, "gone")
LONG_AGO = float("-inf")


def repeats(queue: BusyQueue | None = None, *, budget_s: float = 30.0) -> Repeats:
    return Repeats(queue or BusyQueue(), target="fs", tenant="acme", budget_s=budget_s)


def test_busy_is_repeated_three_times_with_growing_waits_below_100_ms() -> None:
    call = repeats()
    waits = [call.wait_after(BUSY, now=0, reconnected_at=LONG_AGO) for _ in range(4)]
    assert waits[3] is None
    taken = [wait for wait in waits if wait is not None]
    assert len(taken) == 3
    assert sum(taken) < 0.1
    assert taken[0] < 0.004 < taken[1] < 0.016 < 0.0375 + taken[2]


def test_busy_is_not_waited_for_longer_than_a_quarter_of_the_budget() -> None:
    call = repeats(budget_s=0.004)
    waits = [call.wait_after(BUSY, now=0, reconnected_at=LONG_AGO) for _ in range(3)]
    assert sum(wait or 0 for wait in waits) <= 0.001


def test_busy_with_another_outcome_than_not_executed_is_never_repeated() -> None:
    error = MeshError(ErrorKind.OVERLOADED, "late", outcome=Outcome.UNKNOWN)
    assert repeats().wait_after(error, now=0, reconnected_at=LONG_AGO) is None


def test_no_responders_is_repeated_once_after_50_to_100_ms() -> None:
    call = repeats()
    first = call.wait_after(GONE, now=100, reconnected_at=LONG_AGO)
    assert first is not None
    assert 0.05 <= first <= 0.1
    assert call.wait_after(GONE, now=100.1, reconnected_at=LONG_AGO) is None


def test_no_responders_is_repeated_until_a_second_after_an_own_reconnect() -> None:
    call = repeats()
    for now in (100.0, 100.3, 100.6, 100.9):
        assert call.wait_after(GONE, now=now, reconnected_at=100.0) is not None
    assert call.wait_after(GONE, now=101.1, reconnected_at=100.0) is None


def test_other_errors_are_given_to_the_caller() -> None:
    for kind in (ErrorKind.LOST, ErrorKind.DEADLINE, ErrorKind.DENIED, ErrorKind.BUS):
        assert repeats().wait_after(MeshError(kind, "x"), now=0, reconnected_at=0) is None


def test_wait_queue_is_bounded_per_tenant_and_gives_places_back() -> None:
    queue = BusyQueue()
    waiting = [repeats(queue) for _ in range(QUEUE_PER_TENANT)]
    assert all(call.wait_after(BUSY, now=0, reconnected_at=LONG_AGO) for call in waiting)
    assert repeats(queue).wait_after(BUSY, now=0, reconnected_at=LONG_AGO) is None
    waiting[0].done()
    assert repeats(queue).wait_after(BUSY, now=0, reconnected_at=LONG_AGO) is not None
