"""What of the agents that were found becomes a server here, and what goes again.

An agent is a shared server as long as it is seen, and for a while after. It never takes a name
from anybody: whatever an operator or a runner calls by that name stands, and the agent is left
out with the reason.
"""

from collections.abc import Iterable, Mapping

import msgspec

from mcp_proto.contracts.registry import LeftOut, ServerDefinition
from mcp_proto.discovery import definition_of
from mcp_proto.errors import MeshError
from registry.core.catalog import check_definition

__all__ = ["AGENTS_MAX", "Agent", "Plan", "Sightings", "plan"]

AGENTS_MAX = 500
"""Agents that are looked at in one place."""


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as some place outside the mesh describes it; nothing of it is believed.

    Attributes:
        name: what it calls itself.
        url: where it says that it speaks MCP over HTTP.
        capabilities: what it is for, in words.
    """

    name: str
    url: str
    capabilities: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be written, removed and said."""

    write: tuple[ServerDefinition, ...] = ()
    remove: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


class Sightings:
    """When each agent was last seen, by origin and name."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._seen: dict[tuple[str, str], float] = {}

    def see(self, origin: str, names: Iterable[str], now_s: float) -> None:
        """They are there now."""
        for name in names:
            self._seen[origin, name] = now_s

    def forget(self, origin: str, names: Iterable[str]) -> None:
        """They need no time to go: a list that is at hand does not mention them."""
        for name in names:
            self._seen[origin, name] = float("-inf")

    def gone(self, known: Iterable[tuple[str, str]], now_s: float) -> set[tuple[str, str]]:
        """Those not seen for the time to live; one never seen counts from now on."""
        known = set(known)
        for pair in known:
            self._seen.setdefault(pair, now_s)
        for pair in [pair for pair in self._seen if pair not in known]:
            del self._seen[pair]
        return {pair for pair in known if now_s - self._seen[pair] > self._ttl_s}


def plan(
    found: Mapping[str, Iterable[Agent]],
    defined: Mapping[str, ServerDefinition],
    *,
    taken: Mapping[str, str],
    gone: set[tuple[str, str]],
    allow: Mapping[str, tuple[str, ...]],
) -> Plan:
    """Decide.

    Args:
        found: by origin, in the order in which they win over each other; what was seen last.
        defined: shared definitions that were found before, by name.
        taken: names that an agent cannot have, and why.
        gone: origin and name of definitions that were not seen for long.
        allow: by origin, private places that agents may be at.
    """
    write: list[ServerDefinition] = []
    left_out: list[LeftOut] = []
    wanted: dict[str, str] = {}
    for origin, agents in found.items():
        for agent in agents:
            definition = definition_of(
                agent.name, agent.url, origin=origin, allow=allow.get(origin, ())
            )
            reason = _problem(definition, taken, wanted, origin)
            if reason is not None:
                left_out.append(LeftOut(name=agent.name[:64], origin=origin, reason=reason))
                continue
            if (origin, agent.name) in gone:
                continue
            wanted[agent.name] = origin
            if not same(defined.get(agent.name), definition):
                write.append(definition)
    remove = tuple(
        name
        for name, one in defined.items()
        if name in taken or (name not in wanted and (one.origin, name) in gone)
    )
    return Plan(write=tuple(write), remove=remove, left_out=tuple(left_out))


def same(stored: ServerDefinition | None, wanted: ServerDefinition) -> bool:
    """Whether nothing but the number of restarts tells them apart."""
    if stored is None:
        return False
    return msgspec.structs.replace(stored, generation=0) == wanted


def _problem(
    definition: ServerDefinition, taken: Mapping[str, str], wanted: Mapping[str, str], origin: str
) -> str | None:
    name = definition.name
    if name in taken:
        return taken[name]
    if name in wanted:
        where = "here" if wanted[name] == origin else f"in {wanted[name]}"
        return f"another agent of this name was found {where}"
    try:
        check_definition(definition)
    except MeshError as error:
        return error.message
    return None
