"""Agents outside the mesh and the Redis beside it: what is wrong with those tables.

The tables themselves are shared with registry and runner (``mcp_proto``).
"""

from collections.abc import Collection, Iterator

from mcp_proto.discovery import AgentsTable, DiscoveryTable, agents_problem, discovery_problem
from mcp_proto.redis_bridge import RedisBridgeTable, bridge_problem

__all__ = ["around_problems"]


def around_problems(
    agents: AgentsTable,
    discovery: DiscoveryTable,
    dragonfly: RedisBridgeTable,
    taken: Collection[str],
) -> Iterator[str]:
    """``key: what is wrong with it`` of each.

    Args:
        agents: ``[agents]``.
        discovery: ``[discovery]``.
        dragonfly: ``[integrations.dragonfly]``.
        taken: names of servers that the file defines, and of what is built in.
    """
    for table, problem in (
        ("agents", agents_problem(agents)),
        ("discovery", discovery_problem(discovery)),
        ("integrations.dragonfly", bridge_problem(dragonfly)),
    ):
        if problem is not None:
            yield f"{table}.{problem}"
    for at, agent in enumerate(agents.known):
        if agent.enabled and agent.name in taken:
            yield f"agents.known[{at}].name: {agent.name!r} is the name of another server"
