"""`/mcp` and the endpoints behind it: streamable HTTP of all five revisions on one path.

The header decides the era: a version that is no legacy one is modern, even for ``initialize``.
What the eras share is here; ``mcp_modern`` climbs the ladder of checks of 2026-07-28,
``mcp_legacy`` keeps sessions.
"""

from gateway.backend import HttpBackend
from gateway.config import LimitsConfig
from gateway.core import httprules
from gateway.edges.exchange import Exchange, Refused
from gateway.edges.mcp_legacy import LegacyHttp
from gateway.edges.mcp_modern import ModernHttp
from gateway.identity import Caller
from gateway.peers import Peers
from gateway.sessions import Sessions
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.versions import is_legacy, revision_of

__all__ = ["McpRoute"]


class McpRoute:
    """Serves `/mcp`, `/mcp/u/<server>` and `/mcp/v/<virtual server>`."""

    def __init__(
        self, *, backend: HttpBackend, sessions: Sessions, limits: LimitsConfig, peers: Peers
    ) -> None:
        self._limits = limits
        self._backend = backend
        self._modern = ModernHttp(backend)
        self._legacy = LegacyHttp(backend, sessions, peers, input_s=limits.input_s)

    async def serve(self, exchange: Exchange, caller: Caller) -> None:
        """Answer one request of a checked caller.

        Raises:
            Refused: the transport does not take it.
        """
        if exchange.endpoint:
            self._check(exchange, caller)
        heads = exchange.heads
        version = heads.get(b"mcp-protocol-version")
        name = None if version is None else version.decode("latin-1")
        revision = None if name is None else revision_of(name)
        modern = name is not None and (revision is None or not is_legacy(revision))
        if exchange.method != "POST":
            if modern or exchange.method not in {"GET", "DELETE"}:
                raise _not_allowed(b"POST" if modern else b"GET, POST, DELETE")
            if exchange.method == "GET":
                await self._legacy.get(exchange, caller)
            else:
                await self._legacy.delete(exchange, caller)
            return
        json, stream = httprules.accepts(heads.get(b"accept"))
        if not modern and b"accept" not in heads:
            json = True
        if not (json and stream) and (modern or not (json or stream)):
            wanted = "application/json and text/event-stream"
            raise Refused(406, MeshError(ErrorKind.REQUEST, f"Accept must list {wanted}"))
        if httprules.media_type(heads.get(b"content-type")) != b"application/json":
            raise Refused(
                415, MeshError(ErrorKind.REQUEST, "Content-Type must be application/json")
            )
        body = await exchange.body(self._limits.body_s)
        if modern:
            await self._modern.post(exchange, caller, body, name or "")
        else:
            await self._legacy.post(exchange, caller, body, revision, json=json, stream=stream)

    def _check(self, exchange: Exchange, caller: Caller) -> None:
        try:
            self._backend.check_endpoint(caller, exchange.endpoint)
        except MeshError as error:
            raise Refused(error.http_status, error) from None

    def end_streams(self) -> None:
        """The gateway stops: end every open stream in order."""
        self._modern.end_streams()
        self._legacy.end_streams()


def _not_allowed(allow: bytes) -> Refused:
    error = MeshError(ErrorKind.REQUEST, f"use {allow.decode()}")
    return Refused(405, error, ((b"allow", allow),))
