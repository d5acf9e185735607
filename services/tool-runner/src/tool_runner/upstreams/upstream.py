"""What the runner needs of a connection to an MCP server, whatever carries it."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from mcp_proto.contracts.registry import CatalogTool
from mcp_proto.errors import ErrorObject

__all__ = ["Listener", "Offer", "Request", "Upstream"]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a server offers: all pages of every list, objects byte for byte."""

    tools: tuple[CatalogTool, ...] = ()
    resources: tuple[msgspec.Raw, ...] = ()
    resource_templates: tuple[msgspec.Raw, ...] = ()
    prompts: tuple[msgspec.Raw, ...] = ()
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    server_info: msgspec.Raw = msgspec.Raw(b"{}")
    instructions: str = ""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a caller, in the dialect of the bus.

    Attributes:
        method: MCP method.
        params: JSON bytes of its params, ``_meta`` included.
        timeout_s: budget, in seconds.
        notify: takes a JSON-RPC notification for the caller (progress, log), in order; None when
            the caller hears none.
    """

    method: str
    params: msgspec.Raw
    timeout_s: float
    notify: Callable[[bytes], Awaitable[None]] | None = None


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

    async def wait_ended(self) -> str:
        """Wait until the connection is no more; the reason as public text."""
        ...

    async def close(self) -> None:
        """End it in order: running requests have ended or are failed, nothing is left behind."""
        ...
