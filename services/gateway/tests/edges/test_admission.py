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
