"""Why a server does not serve, in the words of the runner that holds it.

The registry knows what is listed and who holds it; only the runner that holds a server knows
whether its child lives and why not. Asked with the operator's rights alone, because the last
lines of a server's log may hold anything.
"""

import asyncio

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts import tool_runner
from mcp_proto.contracts.tool_runner import ServerView, ServerViews
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus

__all__ = ["Trouble", "last_error", "read_views"]

_PROBE_S = 2.0
_WELL = "running"

Pair = tuple[str, str]


class Trouble(msgspec.Struct, frozen=True):
    """Why a server does not serve: words for a person, and its state at the runner.

    ``state`` is that of ``ServerView``; "" when no runner told.
    """

    words: str
    state: str = ""

    @property
    def failed(self) -> bool:
        """Whether a start has failed already."""
        return self.state in tool_runner.FAILED_STATES


async def read_views(bus: Bus) -> dict[Pair, ServerView]:
    """What the runners that live say, by owner and name.

    Args:
        bus: connected as the operator, who alone may ask.
    """
    found: dict[Pair, ServerView] = {}
    answers = await asyncio.gather(*(_views(bus, name) for name in await _runners(bus)))
    for view in (view for answer in answers for view in answer):
        known = found.get((view.tenant, view.server))
        # A runner that holds it knows more than one that only refuses its definition.
        if known is None or known.state == "refused":
            found[view.tenant, view.server] = view
    return found


async def last_error(bus: Bus, owner: str, server: str) -> Trouble:
    """Why a server that is down does not serve.

    Args:
        bus: connected as the operator, who alone may ask.
        owner: tenant of the server; ``_`` = shared.
        server: its name.
    """
    found = (await read_views(bus)).get((owner, server))
    if found is None:
        return Trouble("no runner serves it")
    if found.state == _WELL:
        return Trouble("it answers again")
    return Trouble(found.reason or f"it is {found.state}", found.state)


async def _runners(bus: Bus) -> list[str]:
    """Instances of tool-runner that live, by their heartbeats."""
    keys = await KV.bind(bus, buckets.INSTANCES).keys(f"{tool_runner.SERVICE}.")
    return [key.partition(".")[2] for key in keys]


async def _views(bus: Bus, instance: str) -> tuple[ServerView, ...]:
    try:
        reply = await bus.request(tool_runner.views_subject(instance), timeout_s=_PROBE_S)
        return msgspec.json.decode(reply.payload, type=ServerViews).servers
    except (MeshError, msgspec.DecodeError):
        return ()  # it has just gone, or answers something else
