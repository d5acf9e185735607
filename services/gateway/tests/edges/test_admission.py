"""Tests of gateway.edges.admission."""

import pytest

from gateway.config import LimitsConfig
from gateway.edges import admission
from gateway.edges.admission import EdgeGate
from mcp_proto.errors import ErrorKind, MeshError

MEGABYTE = 1024 * 1024


def test_a_rate_refuses_with_the_exact_time_to_wait() -> None:
    gate = EdgeGate(LimitsConfig(rate_per_second=10, burst=2)).connect("a")
    gate.pace(1.0)
    gate.pace(1.0)
    with pytest.raises(MeshError) as caught:
        gate.pace(1.0)
    assert caught.value.kind is ErrorKind.OVERLOADED
    assert caught.value.retry_after_s == pytest.approx(0.1)
    gate.pace(1.11)


def test_places_are_counted_per_connection_and_per_edge() -> None:
    edge = EdgeGate(LimitsConfig(inflight=2, inflight_edge=3))
    one, two = edge.connect("a"), edge.connect("a")
    one.enter()
    one.enter()
    with pytest.raises(MeshError, match="2 requests"):
        one.enter()
    two.enter()
    with pytest.raises(MeshError, match="gateway is at its limit"):
        two.enter()
    assert two.inflight == 1
    one.leave()
    two.enter()
    assert edge.inflight.used == 3


def test_connections_are_counted_per_edge_and_per_source() -> None:
    edge = EdgeGate(LimitsConfig(connections=3, connections_per_source=2))
    first = edge.connect("a")
    edge.connect("a")
    with pytest.raises(MeshError, match="this address"):
        edge.connect("a")
    edge.connect("b")
    with pytest.raises(MeshError, match="no more connections"):
        edge.connect("c")
    edge.disconnect(first)
    edge.connect("a")
    assert edge.connections == 3


def test_the_biggest_holder_of_a_source_goes_and_others_stay() -> None:
    edge = EdgeGate(LimitsConfig())
    shed: list[str] = []
    gates = {name: edge.connect(source) for name, source in (("a", "x"), ("b", "x"), ("c", "y"))}
    for name, gate in gates.items():
        gate.shed = lambda _, name=name: shed.append(name)
    gates["c"].hold(10 * MEGABYTE)
    gates["a"].hold(9 * MEGABYTE)
    gates["b"].hold(7 * MEGABYTE)
    assert shed == []
    gates["b"].hold(8 * MEGABYTE)
    assert shed == ["a"]
    gates["b"].hold(0)
    edge.disconnect(gates["c"])
    assert edge._held_bytes == 0
    assert not edge._held
    assert not edge._held_sources


def test_an_edge_holds_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "UNFINISHED_EDGE_BYTES", 20 * MEGABYTE)
    edge = EdgeGate(LimitsConfig())
    shed: list[int] = []
    for number in range(4):
        gate = edge.connect(f"source-{number}")
        gate.shed = lambda _, number=number: shed.append(number)
        gate.hold((6 + number) * MEGABYTE)
    assert shed == [2, 3]


def shared_edge(**limits: float) -> EdgeGate:
    return EdgeGate(LimitsConfig(connections=8, **limits))  # type: ignore[arg-type]


def test_one_principal_has_half_of_the_connections_and_leaves_the_rest_to_others() -> None:
    edge = shared_edge()
    gates = [edge.connect("a") for _ in range(4)]
    for gate in gates:
        gate.own("acme", "mallory")
        gate.own("acme", "mallory")  # its next request counts nothing
    fifth = edge.connect("a")
    with pytest.raises(MeshError) as caught:
        fifth.own("acme", "mallory")
    assert caught.value.http_status == 429
    assert caught.value.data == {"limit": "principal_share"}
    assert caught.value.retry_after_s
    fifth.own("acme", "ann")
    edge.disconnect(gates[0])
    edge.connect("a").own("acme", "mallory")


def test_one_tenant_has_three_quarters_of_the_connections() -> None:
    edge = shared_edge()
    for at in range(6):
        edge.connect("a").own("acme", f"p{at}")
    last = edge.connect("a")
    with pytest.raises(MeshError) as caught:
        last.own("acme", "p9")
    assert caught.value.data == {"limit": "tenant_share"}
    last.own("other", "p9")


def test_connection_of_a_pool_counts_for_who_used_it_last() -> None:
    edge = shared_edge(principal_share=0.125)
    pooled = edge.connect("proxy")
    pooled.own("acme", "ann")
    pooled.own("acme", "ben")
    edge.connect("b").own("acme", "ann")
    with pytest.raises(MeshError):
        pooled.own("acme", "ann")
    edge.disconnect(pooled)
    edge.connect("b").own("acme", "ben")


def test_the_smallest_share_is_one_connection() -> None:
    edge = EdgeGate(LimitsConfig(connections=1))
    edge.connect("a").own("acme", "ann")


def test_changed_limits_hold_for_connections_that_were_let_in_before() -> None:
    edge = EdgeGate(LimitsConfig(rate_per_second=1000, burst=1000, inflight=2, connections=1))
    gate = edge.connect("a")
    gate.enter()
    gate.enter()
    gate.pace(1.0)
    edge.change_limits(LimitsConfig(rate_per_second=10, burst=1, inflight=1, connections=2))
    gate.pace(1.0)
    with pytest.raises(MeshError, match="rate limit"):
        gate.pace(1.0)
    gate.leave()
    with pytest.raises(MeshError, match="1 requests"):
        gate.enter()
    gate.leave()
    gate.enter()
    edge.connect("b")
    with pytest.raises(MeshError, match="no more connections"):
        edge.connect("c")
