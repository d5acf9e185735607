import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_coordinator.core.spec import SwarmConfig, Topology
from swarm_coordinator.core.topology import (
    Hop,
    Network,
    adjacency,
    broadcast,
    children_of,
    link_count,
    links,
    may_send,
    network_of,
    next_parent,
    parent_of,
    route,
)
from swarm_coordinator.core.views import AgentView, PlanError

TOPOLOGIES: tuple[Topology, ...] = ("mesh", "star", "hierarchical", "ring")


def agents(count: int, **parents: str) -> list[AgentView]:
    return [
        AgentView(id=f"a{i}", type="t", name=f"n{i}", joined_ms=i, parent=parents.get(f"a{i}", ""))
        for i in range(count)
    ]


def net(topology: Topology, count: int, **flags: object) -> Network:
    return network_of(topology, agents(count), SwarmConfig(**flags))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("topology", "flags", "count", "expected"),
    [
        ("mesh", {}, 10, 90),
        ("star", {}, 10, 18),
        ("hierarchical", {}, 10, 18),
        ("ring", {}, 10, 10),
        ("ring", {"predecessor": True}, 10, 20),
        ("ring", {"predecessor": True}, 2, 2),
        ("ring", {}, 2, 2),
        ("star", {"relay": True}, 10, 18),
        ("hierarchical", {"siblings": True}, 5, 8 + 12),
        *[(topology, {}, 1, 0) for topology in TOPOLOGIES],
        *[(topology, {}, 0, 0) for topology in TOPOLOGIES],
    ],
)
def test_a_topology_has_its_links(
    topology: Topology, flags: dict[str, object], count: int, expected: int
) -> None:
    network = net(topology, count, **flags)
    assert link_count(network) == expected
    assert len(set(links(network))) == expected


@pytest.mark.parametrize(
    ("topology", "flags", "sender", "receiver", "expected"),
    [
        ("mesh", {}, "a1", "a4", ("a1", "a4")),
        ("mesh", {}, "a1", "a1", ()),
        ("mesh", {}, "a1", "stranger", ()),
        ("star", {}, "a1", "a0", ("a1", "a0")),
        ("star", {}, "a0", "a1", ("a0", "a1")),
        ("star", {}, "a1", "a2", ()),
        ("star", {"relay": True}, "a1", "a2", ("a1", "a0", "a2")),
        ("star", {"relay": True}, "a1", "a1", ()),
        ("star", {"relay": True}, "a1", "stranger", ()),
        ("ring", {}, "a1", "a2", ("a1", "a2")),
        ("ring", {}, "a4", "a0", ("a4", "a0")),
        ("ring", {}, "a2", "a1", ()),
        ("ring", {}, "a1", "a3", ()),
        ("ring", {"predecessor": True}, "a2", "a1", ("a2", "a1")),
        ("ring", {"predecessor": True}, "a0", "a4", ("a0", "a4")),
        ("hierarchical", {"fanout": 2}, "a1", "a0", ("a1", "a0")),
        ("hierarchical", {"fanout": 2}, "a1", "a3", ("a1", "a3")),
        ("hierarchical", {"fanout": 2}, "a3", "a0", ()),
        ("hierarchical", {"fanout": 2}, "a3", "a4", ()),
        ("hierarchical", {"fanout": 2, "siblings": True}, "a3", "a4", ("a3", "a4")),
        ("hierarchical", {"fanout": 2, "siblings": True}, "a3", "a2", ()),
    ],
)
def test_a_message_takes_its_route_or_none(
    topology: Topology,
    flags: dict[str, object],
    sender: str,
    receiver: str,
    expected: tuple[str, ...],
) -> None:
    network = net(topology, 5, **flags)
    assert route(network, sender, receiver) == expected
    assert may_send(network, sender, receiver) == (len(expected) == 2)


@pytest.mark.parametrize(
    ("topology", "sender", "expected"),
    [
        ("mesh", "a1", [("a1", "a0", 1), ("a1", "a2", 1), ("a1", "a3", 1)]),
        ("mesh", "", [("", "a0", 1), ("", "a1", 1), ("", "a2", 1), ("", "a3", 1)]),
        ("star", "a0", [("a0", "a1", 1), ("a0", "a2", 1), ("a0", "a3", 1)]),
        ("star", "a2", [("a2", "a0", 1), ("a0", "a1", 2), ("a0", "a3", 2)]),
        ("star", "", [("", "a0", 1), ("a0", "a1", 2), ("a0", "a2", 2), ("a0", "a3", 2)]),
        ("ring", "a2", [("a2", "a3", 1), ("a3", "a0", 2), ("a0", "a1", 3)]),
        ("ring", "", [("", "a0", 1), ("a0", "a1", 2), ("a1", "a2", 3), ("a2", "a3", 4)]),
        ("hierarchical", "a0", [("a0", "a1", 1), ("a0", "a2", 1), ("a1", "a3", 2)]),
        ("hierarchical", "a1", [("a1", "a3", 1)]),
        ("hierarchical", "", [("", "a0", 1), ("a0", "a1", 2), ("a0", "a2", 2), ("a1", "a3", 3)]),
        ("mesh", "stranger", []),
        ("ring", "stranger", []),
    ],
)
def test_a_broadcast_goes_the_way_of_its_topology(
    topology: Topology, sender: str, expected: list[tuple[str, str, int]]
) -> None:
    assert broadcast(net(topology, 4, fanout=2), sender) == tuple(Hop(*hop) for hop in expected)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_broadcast_into_an_empty_swarm_reaches_nobody(topology: Topology) -> None:
    assert broadcast(net(topology, 0)) == ()


@given(
    st.sampled_from(TOPOLOGIES), st.integers(1, 20), st.sets(st.integers(0, 19)), st.integers(1, 5)
)
def test_whoever_dies_the_living_stay_connected(
    topology: Topology, count: int, dead: set[int], fanout: int
) -> None:
    every = agents(count)
    alive = [agent for i, agent in enumerate(every) if i not in dead]
    gone = [agent for i, agent in enumerate(every) if i in dead]
    network = network_of(topology, alive, SwarmConfig(fanout=fanout), gone)
    assert sorted(network.ranks) == sorted(agent.id for agent in alive)
    reached = {hop.receiver for hop in broadcast(network)}
    assert reached == set(network.ranks)
    for hop in broadcast(network):
        assert not hop.sender or may_send(network, hop.sender, hop.receiver)
    if topology == "hierarchical":
        assert link_count(network) == 2 * max(0, len(alive) - 1)
        assert set(network.parents) == set(network.ranks[1:])


def test_a_dead_hub_is_followed_by_the_next_in_rank() -> None:
    every = agents(4)
    assert network_of("star", every[1:], SwarmConfig(), every[:1]).head == "a1"


def test_a_ring_closes_over_the_dead() -> None:
    every = agents(4)
    network = network_of("ring", [every[0], *every[2:]], SwarmConfig(), [every[1]])
    assert links(network) == (("a0", "a2"), ("a2", "a3"), ("a3", "a0"))


def test_children_of_the_dead_go_to_the_grandparent_and_others_stay() -> None:
    every = agents(7)
    alive = [agent for agent in every if agent.id != "a1"]
    network = network_of("hierarchical", alive, SwarmConfig(fanout=2), [every[1]])
    assert network.parents == {"a2": "a0", "a3": "a0", "a4": "a0", "a5": "a2", "a6": "a2"}


def test_a_dead_root_is_followed_by_its_first_child() -> None:
    every = agents(5)
    network = network_of("hierarchical", every[1:], SwarmConfig(fanout=2), every[:1])
    assert network.head == "a1"
    assert network.parents == {"a2": "a1", "a3": "a1", "a4": "a1"}


def test_an_explicit_parent_holds_and_takes_a_place() -> None:
    network = network_of("hierarchical", agents(5, a2="a1", a3="a1"), SwarmConfig(fanout=2))
    assert network.parents == {"a1": "a0", "a2": "a1", "a3": "a1", "a4": "a0"}


def test_a_parent_that_comes_later_or_is_unknown_does_not_hold() -> None:
    network = network_of("hierarchical", agents(3, a1="a2", a2="nobody"), SwarmConfig())
    assert network.parents == {"a1": "a0", "a2": "a0"}


def test_a_stored_parent_keeps_an_agent_from_hanging_under_the_dead() -> None:
    every = agents(3)
    network = network_of("hierarchical", [every[0], every[2]], SwarmConfig(fanout=1), [every[1]])
    assert next_parent(network, 1) == "a2"
    assert next_parent(network, 2) == "a0"
    assert next_parent(net("hierarchical", 0), 4) == ""
    assert next_parent(net("mesh", 3), 4) == ""


@given(st.integers(1, 20), st.integers(1, 5))
def test_a_next_parent_always_has_a_free_place(count: int, fanout: int) -> None:
    network = net("hierarchical", count, fanout=fanout)
    parent = next_parent(network, fanout)
    assert len(children_of(network).get(parent, ())) < fanout


def test_a_parent_is_found_by_id_or_name() -> None:
    assert parent_of("a1", agents(3)) == "a1"
    assert parent_of("n2", agents(3)) == "a2"
    with pytest.raises(PlanError, match="no agent has"):
        parent_of("x", agents(3))
    twins = [AgentView(id=f"a{i}", type="t", name="same") for i in range(2)]
    with pytest.raises(PlanError, match="several agents"):
        parent_of("same", twins)


def test_agents_of_the_same_millisecond_rank_as_they_were_given() -> None:
    twins = [AgentView(id=i, type="t", joined_ms=5) for i in ("z", "a", "m")]
    assert network_of("ring", twins, SwarmConfig()).ranks == ("z", "a", "m")


def test_an_adjacency_names_everybody() -> None:
    assert adjacency(net("star", 3)) == {"a0": ("a1", "a2"), "a1": ("a0",), "a2": ("a0",)}
