"""Who may talk to whom: links, routes and broadcasts of the four shapes, and the dead in them.

A network is a function of the agents that live and of those that are gone, in the order of their
spawning (*rank*), so it needs no events of its own and is the same on every replica.

========  ==================================  ==========================  =====================
shape     links                               broadcast                   a dead node
========  ==================================  ==========================  =====================
mesh      any to any                          one hop each                is left out
star      hub and spoke; spoke to spoke       over the hub                hub: the next by rank
          only as a relay of the hub
hierarch. parent and child; siblings by flag  down the tree               children go to the
                                                                          grandparent
ring      successor; predecessor by flag      one lap                     the ring closes
========  ==================================  ==========================  =====================
"""

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from swarm_coordinator.core.spec import SwarmConfig, Topology
from swarm_coordinator.core.views import AgentView, PlanError

__all__ = [
    "Hop",
    "Network",
    "adjacency",
    "broadcast",
    "children_of",
    "link_count",
    "links",
    "may_send",
    "network_of",
    "next_parent",
    "parent_of",
    "route",
]


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A topology with the agents that live in it; made by ``network_of``.

    Attributes:
        topology: shape.
        ranks: ids by rank; the first is hub, root, or begin of the ring.
        parents: ``hierarchical``: child → parent; the root is not in it.
        relay: ``star``: the hub passes on what a spoke sends to a spoke.
        siblings: ``hierarchical``: children of one parent may talk.
        predecessor: ``ring``: messages may go back.
    """

    topology: Topology
    ranks: tuple[str, ...]
    parents: dict[str, str] = {}
    relay: bool = False
    siblings: bool = False
    predecessor: bool = False

    @property
    def head(self) -> str:
        """Hub, root or begin of the ring; "" = nobody is there."""
        return self.ranks[0] if self.ranks else ""


class Hop(msgspec.Struct, frozen=True):
    """One message of a broadcast; ``hops`` counts the links from its origin."""

    sender: str
    receiver: str
    hops: int


def network_of(
    topology: Topology,
    agents: Sequence[AgentView],
    config: SwarmConfig,
    gone: Sequence[AgentView] = (),
) -> Network:
    """The network of a swarm.

    Args:
        topology: shape.
        agents: those that live; of equal ``joined_ms`` the first given ranks first.
        config: its flags and ``fanout``.
        gone: those that are dead or terminated. Only ``hierarchical`` looks at them: their
            children go to their parents, so that nobody else changes place.
    """
    ranked = sorted(agents, key=lambda agent: agent.joined_ms)
    ranks = tuple(agent.id for agent in ranked)
    parents: dict[str, str] = {}
    if topology == "hierarchical":
        every = sorted([*gone, *agents], key=lambda agent: agent.joined_ms)
        tree = _tree(every, max(1, config.fanout))
        parents = _without_the_dead(tree, ranks)
        root = next((agent for agent in ranks if agent not in parents), "")
        ranks = tuple(sorted(ranks, key=lambda agent: agent != root))
    return Network(
        topology=topology,
        ranks=ranks,
        parents=parents,
        relay=config.relay,
        siblings=config.siblings,
        predecessor=config.predecessor,
    )


def parent_of(wanted: str, agents: Sequence[AgentView]) -> str:
    """Id of the parent that a new agent asks for by id or name.

    Raises:
        PlanError: nobody is called so, or several are.
    """
    found = [agent.id for agent in agents if agent.id == wanted]
    found = found or [agent.id for agent in agents if agent.name == wanted]
    if len(found) != 1:
        what = "several agents have that name" if found else "no agent has that id or name"
        raise PlanError("/parent", f"expected an agent of this swarm: {what}")
    return found[0]


def next_parent(network: Network, fanout: int) -> str:
    """Parent for an agent that is spawned now: the first, level by level, with a free place.

    Stored as the agent's ``parent`` it keeps its place whoever is spawned or dies later.
    "" = it will be the root, or the network is no hierarchy.
    """
    if network.topology != "hierarchical" or not network.ranks:
        return ""
    below = children_of(network)
    level = [network.head, *(hop.receiver for hop in _down(network, network.head, 0))]
    return next(node for node in level if len(below.get(node, ())) < max(1, fanout))


def _tree(ranked: Sequence[AgentView], fanout: int) -> dict[str, str]:
    """Child → parent: an explicit parent that ranks before, else the first with a free place."""
    parents: dict[str, str] = {}
    free: deque[str] = deque()
    children: dict[str, int] = {}
    for agent in ranked:
        parent = agent.parent if agent.parent in children else ""
        if not parent and free:
            while children[free[0]] >= fanout and len(free) > 1:
                free.popleft()
            parent = free[0]
        if parent:
            parents[agent.id] = parent
            children[parent] += 1
        children[agent.id] = 0
        free.append(agent.id)
    return parents


def _without_the_dead(tree: Mapping[str, str], ranks: Sequence[str]) -> dict[str, str]:
    """Each of the living under its nearest living ancestor; the first without one is the root."""
    alive = set(ranks)
    parents: dict[str, str] = {}
    root = ""
    for agent in ranks:
        above = tree.get(agent, "")
        while above and above not in alive:
            above = tree.get(above, "")
        root = root or ("" if above else agent)
        if above or agent != root:
            parents[agent] = above or root
    return parents


def children_of(network: Network) -> dict[str, tuple[str, ...]]:
    """Parent → children, by rank; who has none is not in it (``hierarchical``)."""
    found: dict[str, list[str]] = {}
    for agent in network.ranks:
        if agent in network.parents:
            found.setdefault(network.parents[agent], []).append(agent)
    return {parent: tuple(children) for parent, children in found.items()}


def may_send(network: Network, sender: str, receiver: str) -> bool:
    """Whether a link leads from one to the other, without anybody between."""
    ranks = network.ranks
    if sender == receiver or sender not in ranks or receiver not in ranks:
        return False
    match network.topology:
        case "mesh":
            return True
        case "star":
            return network.head in (sender, receiver)
        case "ring":
            step = (ranks.index(receiver) - ranks.index(sender)) % len(ranks)
            return step == 1 or (network.predecessor and step == len(ranks) - 1)
        case "hierarchical":
            above, below = network.parents.get(sender, ""), network.parents.get(receiver, "")
            related = above == receiver or below == sender
            return related or (network.siblings and above == below != "")


def route(network: Network, sender: str, receiver: str) -> tuple[str, ...]:
    """Whom a message passes, sender and receiver included; () = the topology forbids it.

    Only the hub of a star with ``relay`` passes messages on.
    """
    if may_send(network, sender, receiver):
        return (sender, receiver)
    known = sender in network.ranks and receiver in network.ranks
    if network.topology == "star" and network.relay and known and sender != receiver:
        return (sender, network.head, receiver)
    return ()


def adjacency(network: Network) -> dict[str, tuple[str, ...]]:
    """Each agent with those it may send to, by rank."""
    ranks = network.ranks
    return {one: tuple(o for o in ranks if may_send(network, one, o)) for one in ranks}


def links(network: Network) -> tuple[tuple[str, str], ...]:
    """All (sender, receiver): of 10 agents mesh 90, star 18, hierarchical 18, ring 10."""
    return tuple((one, other) for one, others in adjacency(network).items() for other in others)


def link_count(network: Network) -> int:
    """How many links there are."""
    return len(links(network))


def broadcast(network: Network, sender: str = "") -> tuple[Hop, ...]:
    """The messages of a broadcast, each after the one that its sender got it with.

    Args:
        network: where.
        sender: the agent that speaks; "" = somebody outside, whose message the head receives
            first (in a mesh everybody does), as a hop with sender "".

    In a hierarchy it reaches those below the sender only. () = nobody is there to hear it.
    """
    ranks = network.ranks
    if sender and sender not in ranks:
        return ()
    if network.topology == "mesh":
        return tuple(Hop(sender, one, 1) for one in ranks if one != sender)
    if not ranks:
        return ()
    entry = () if sender else (Hop("", network.head, 1),)
    origin, hops = (sender, 0) if sender else (network.head, 1)
    match network.topology:
        case "star":
            return entry + _over_the_hub(network, origin, hops)
        case "ring":
            return entry + _lap(ranks, origin, hops)
        case _:
            return entry + _down(network, origin, hops)


def _over_the_hub(network: Network, origin: str, hops: int) -> tuple[Hop, ...]:
    hub = network.head
    first = () if origin == hub else (Hop(origin, hub, hops + 1),)
    others = (one for one in network.ranks if one not in (hub, origin))
    return first + tuple(Hop(hub, one, hops + len(first) + 1) for one in others)


def _lap(ranks: Sequence[str], origin: str, hops: int) -> tuple[Hop, ...]:
    start = ranks.index(origin)
    lap = [*ranks[start:], *ranks[:start]]
    return tuple(Hop(lap[i], lap[i + 1], hops + i + 1) for i in range(len(lap) - 1))


def _down(network: Network, origin: str, hops: int) -> tuple[Hop, ...]:
    below = children_of(network)
    found: list[Hop] = []
    waiting = deque([(origin, hops)])
    while waiting:
        node, depth = waiting.popleft()
        for child in below.get(node, ()):
            found.append(Hop(node, child, depth + 1))
            waiting.append((child, depth + 1))
    return tuple(found)
