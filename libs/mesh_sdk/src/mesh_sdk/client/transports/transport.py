"""What every way to a mesh must do; one contract test suite covers them all."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from mcp_proto.jsonrpc import Notification

__all__ = ["Hear", "Outgoing", "Transport"]

Hear: TypeAlias = Callable[[Notification], None]
"""Takes each notification of one request, in order; must not wait."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        method: MCP method.
        params: JSON object with the complete ``_meta``.
        timeout_s: how long its answer may take.
        name: what ``Mcp-Name`` repeats; "" = nothing.
        endpoint: ``""`` everything, ``u/<server>``, ``v/<virtual>``.
        headers: further HTTP headers (``Mcp-Param-*``); other transports have none.
        token: progress token in ``params``, by which a byte stream finds the request; "" = none.
        hears_log: log messages of the request are wanted.
        listens: it stays open until it is cancelled and does not count against the pool.
    """

    method: str
    params: bytes
    timeout_s: float
    name: str = ""
    endpoint: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    token: str = ""
    hears_log: bool = False
    listens: bool = False


class Transport(Protocol):
    """One way, with its connections. ``open`` once, ``close`` once; both may be awaited again."""

    async def open(self) -> None:
        """Connect.

        Raises:
            MeshCallError: nobody answers there, or the credential is refused.
        """
        ...

    async def close(self) -> None:
        """Close all connections; requests in flight fail."""
        ...

    async def send(self, request: Outgoing, hear: Hear | None = None) -> msgspec.Raw:
        """Send a request and wait for its answer. A cancelled wait cancels the request there.

        Returns:
            The result, as the mesh wrote it.

        Raises:
            MeshCallError: the mesh's error, or how the way failed, with its outcome.
        """
        ...
