"""What the runner needs of a connection to an MCP server, whatever carries it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from mcp_proto.contracts.registry import CatalogTool
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorObject
from tool_runner.upstreams.asks import Asks

__all__ = ["Listener", "Offer", "Request", "Upstream"]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a server offers: all pages of every list, objects byte for byte.

    ``ttls_ms`` as in ``Catalog``.
    """

    tools: tuple[CatalogTool, ...] = ()
    resources: tuple[msgspec.Raw, ...] = ()
    resource_templates: tuple[msgspec.Raw, ...] = ()
    prompts: tuple[msgspec.Raw, ...] = ()
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    server_info: msgspec.Raw = msgspec.Raw(b"{}")
    instructions: str = ""
    ttls_ms: dict[str, int] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a caller, in the dialect of the bus.

    Attributes:
        method: MCP method.
        params: JSON bytes of its params, ``_meta`` included.
        timeout_s: budget, in seconds.
        notify: takes a JSON-RPC notification for the caller (progress, log), in order; None when
            the caller hears none.
        task_s: seconds for which the durable task is kept whose call it is, which the server's
            ``timeout_s`` does not bound; 0 = it is no task's.
        tenant: whose call it is.
        caller: who calls, in that tenant; None for an unsigned call where those are allowed.
        asks: takes what the server asks of its client during this call (``asks.ask``,
            ``asks.begin``); None = the caller declared nothing that could be asked.
    """

    method: str
    params: msgspec.Raw
    timeout_s: float
    notify: Callable[[bytes], Awaitable[None]] | None = None
    task_s: float = 0.0
    tenant: str = ""
    caller: CallerContext | None = None
    asks: Asks | None = None

    @property
    def task(self) -> bool:
        """Whether it is the call of a durable task."""
        return self.task_s > 0


class Listener(Protocol):
    """Who owns an upstream and hears what happens to it. Nothing here may block."""

    def lists_changed(self) -> None:
        """A list of the server is no longer what was read."""
        ...

    def resource_updated(self, params: msgspec.Raw) -> None:
        """A resource the server was asked to watch has changed."""
        ...


class Upstream(Protocol):
    """A connection to one MCP server. Made, started once, used, closed once."""

    async def start(self) -> Offer:
        """Connect, find the era, shake hands, read every list.

        Raises:
            MeshError: ``upstream``, not executed, with the reason as public text.
        """
        ...

    async def call(self, request: Request) -> bytes | ErrorObject:
        """Run one request.

        Cancelling the awaiting task cancels the request at the server, out of band.

        Returns:
            Bytes of the JSON-RPC result in the dialect of the bus, or the server's own error.

        Raises:
            MeshError: ``upstream``, ``deadline``, ``too_large``; with the outcome.
        """
        ...

    async def read_offer(self) -> Offer:
        """Read every list again."""
        ...

    async def watch(self, uris: frozenset[str]) -> Mapping[str, str]:
        """Hear of exactly these resources from now on (``Listener.resource_updated``).

        ``notices.Notices`` does it for any transport that has ``ask`` and ``listen``.

        Returns:
            URI → why the server does not watch it, as public text; all others are watched.

        Raises:
            MeshError: ``upstream``, ``deadline``: what is watched now is not known.
        """
        ...

    async def wait_ended(self) -> str:
        """Wait until the connection is no more; the reason as public text."""
        ...

    async def close(self) -> None:
        """End it in order: running requests have ended or are failed, nothing is left behind."""
        ...
