"""Health follows its checks, readiness its reasons."""

import msgspec
import pytest

from mesh_chassis.health import CHECKS_MAX, Health, Status
from mesh_chassis.testing.clock import FakeClock


def test_report_has_the_shape_of_the_compatibility_contract() -> None:
    clock = FakeClock()
    health = Health("gateway", clock=clock)
    health.add("nats", lambda: True)
    clock.advance(12.7)
    report = health.report()
    assert msgspec.json.encode(report) == (
        b'{"status":"healthy","agent":"gateway","uptime_seconds":12,"checks":{"nats":"healthy"}}'
    )
    assert report.http_status == 200


@pytest.mark.parametrize(
    ("found", "required", "status", "http"),
    [
        (False, True, Status.UNHEALTHY, 503),
        (False, False, Status.DEGRADED, 200),
        (Status.DEGRADED, True, Status.DEGRADED, 200),
        (Status.UNHEALTHY, True, Status.UNHEALTHY, 503),
    ],
)
def test_report_weighs_a_part_by_whether_it_is_required(found, required, status, http) -> None:
    health = Health("x")
    health.add("good", lambda: True)
    health.add("part", lambda: found, required=required)
    assert health.report().status is status
    assert health.report().http_status == http
    assert health.ready is (http == 200)


def test_report_keeps_unhealthy_when_a_later_part_is_only_degraded() -> None:
    health = Health("x")
    health.add("a", lambda: False)
    health.add("b", lambda: Status.DEGRADED)
    assert health.report().status is Status.UNHEALTHY


def test_report_takes_a_check_that_raises_for_a_part_that_is_down() -> None:
    health = Health("x")
    health.add("broken", lambda: 1 / 0 > 1)
    assert health.report().checks == {"broken": Status.UNHEALTHY}
    assert health.reasons() == ("broken is unhealthy",)


def test_readiness_returns_when_the_last_reason_is_taken_back() -> None:
    health = Health("x")
    health.unready("starting")
    health.unready("lag")
    assert health.reasons() == ("starting", "lag")
    assert health.report().status is Status.DEGRADED
    health.ready_again("starting")
    health.ready_again("never given")
    assert not health.ready
    health.ready_again("lag")
    assert health.ready


def test_health_replaces_and_removes_checks_and_has_a_bound() -> None:
    health = Health("x")
    for i in range(CHECKS_MAX):
        health.add(str(i), lambda: True)
    health.add("0", lambda: False)
    with pytest.raises(ValueError, match="health checks"):
        health.add("one more", lambda: True)
    health.remove("0")
    health.remove("unknown")
    assert health.ready


def test_readiness_follows_a_condition_without_making_the_process_unhealthy() -> None:
    health = Health("x")
    cut_off = True
    health.unready_while("nobody checks credentials", lambda: cut_off)
    assert health.reasons() == ("nobody checks credentials",)
    assert health.report().status is Status.DEGRADED
    assert health.report().http_status == 200
    cut_off = False
    assert health.ready
    assert health.report().status is Status.HEALTHY
