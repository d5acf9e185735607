"""The topology of a swarm as it is: who may send to whom, and what went over each link."""

import msgspec

from swarm_coordinator.core.roster import network
from swarm_coordinator.core.state import SwarmState
from swarm_coordinator.core.topology import adjacency, link_count

__all__ = ["Links", "links_of"]


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """``messages`` counts by ``from>to``; links that carried none are not in it.

    Nothing before ``>`` = it came from a caller of the tools.
    """

    count: int
    adjacency: dict[str, tuple[str, ...]]
    messages: dict[str, int]


def links_of(state: SwarmState) -> Links:
    """Adjacency of those that live, and the messages that were accepted since the beginning."""
    shape = network(state)
    return Links(
        count=link_count(shape),
        adjacency=adjacency(shape),
        messages=dict(sorted(state.links.items())),
    )
