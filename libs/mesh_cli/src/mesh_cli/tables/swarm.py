"""``[swarm]`` of ``mesh.toml``: who coordinates swarms, and how large they may be."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

__all__ = ["VARIABLES", "SwarmTable"]

VARIABLES: dict[str, tuple[str, type]] = {
    "MAX_AGENTS": ("swarm.max_agents", int),
    "AGENT_TIMEOUT": ("swarm.agent_timeout_seconds", int),
}
"""Variables of the environment that win over the table."""

Processes = Annotated[int, Meta(ge=1, le=16)]


class SwarmTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[swarm]``: swarms of agents.

    Attributes:
        enabled: run coordinators, and hosts for their agents.
        coordinators: coordinators to run; one takes over the swarms of another that ends.
        max_agents: agents of one swarm at once (``MAX_AGENTS``).
        agent_timeout_seconds: longest attempt of a step where neither its phase nor its agent names
            a time-out (``AGENT_TIMEOUT``).
    """

    enabled: bool = True
    coordinators: Processes = 1
    max_agents: Annotated[int, Meta(ge=1, le=20)] = 20
    agent_timeout_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 300

    def for_coordinator(self, *, allow_unsigned: bool) -> dict[str, Any]:
        """Tables of a coordinator's file."""
        return {
            "swarm": {
                "allow_unsigned": allow_unsigned,
                "max_agents": self.max_agents,
                "agent_timeout_s": self.agent_timeout_seconds,
            }
        }
