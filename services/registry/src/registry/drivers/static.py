"""``[[agents.known]]``: agents whose addresses the operator wrote down."""

import asyncio
from collections.abc import AsyncIterator

from mcp_proto.discovery import STATIC, KnownAgent
from registry.core.found import Agent
from registry.drivers.discovery import Seen

__all__ = ["StaticDiscovery"]

_AGAIN_S = 30.0


class StaticDiscovery:
    """``Discovery`` over a list."""

    origin = STATIC
    lasting = True

    def __init__(self, known: tuple[KnownAgent, ...]) -> None:
        self._seen = Seen(
            agents=tuple(
                Agent(name=one.name, url=one.url, capabilities=one.capabilities)
                for one in known
                if one.enabled
            )
        )

    async def found(self) -> AsyncIterator[Seen]:
        """See ``Discovery``; a list does not change while the process runs."""
        while True:
            yield self._seen
            await asyncio.sleep(_AGAIN_S)

    async def announce(self, agent: Agent) -> str | None:
        """Nobody looks into a list."""
        return f"nobody would find {agent.name} in a list"

    async def withdraw(self) -> None:
        """Nothing was announced."""

    async def close(self) -> None:
        """Nothing is open."""
