"""Byte-stream connections (stdio, TCP) without I/O: the era of each request.

The first request that says so decides the era of a connection; an enveloped request is served
as modern at any time, because the modern era forbids inferring anything from a connection.
"""

from enum import StrEnum

import msgspec

from mcp_proto.codec import decode_as
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request
from mcp_proto.methods import BEFORE_INITIALIZE_TCP, TCP_METHODS, is_known
from mcp_proto.request_meta import check_envelope, checked, enveloped
from mcp_proto.session import LegacySession, SessionState
from mcp_proto.types.meta import Meta
from mcp_proto.versions import MODERN, Revision

__all__ = ["Admitted", "StreamEra", "StreamKind"]


class _Initialize(msgspec.Struct, frozen=True, rename="camel"):
    protocol_version: str = ""


class StreamKind(StrEnum):
    """Which edge the connection belongs to; TCP serves a few methods to earlier clients."""

    STDIO = "stdio"
    TCP = "tcp"


class Admitted(msgspec.Struct, frozen=True):
    """How a request is to be served.

    Attributes:
        revision: revision whose rules hold for the request and its answer.
        meta: the checked envelope of a modern request, None for a legacy one.
    """

    revision: Revision
    meta: Meta | None = None

    @property
    def modern(self) -> bool:
        """Whether the modern era's rules hold."""
        return self.meta is not None


class StreamEra:
    """Decides, request by request, which era a connection's peer speaks.

    Args:
        kind: the edge.
        session: the connection's legacy session; fresh until ``initialize``.
    """

    def __init__(self, kind: StreamKind, session: LegacySession) -> None:
        self._kind = kind
        self._session = session
        self._modern: bool | None = None

    @property
    def modern(self) -> bool | None:
        """Era of the connection for messages outside a request; None = not decided yet."""
        return self._modern

    def admit(self, request: Request) -> Admitted:
        """Decide how to serve a request.

        ``authenticate``, ``batch`` and ``ping`` decide no era. ``initialize`` is admitted as
        legacy; the caller then drives the session.

        Raises:
            MeshError: ``version`` (modern revision not served, or ``initialize`` on a modern
                connection), ``method`` (unknown in that era), ``params`` (envelope incomplete,
                or a legacy request before ``initialize``).
        """
        method = request.method
        if method == "initialize":
            return self._admit_initialize(request)
        tcp_own = self._kind is StreamKind.TCP and method in TCP_METHODS
        if not tcp_own and (meta := enveloped(request.params)) is not None:
            return self._admit_modern(method, meta)
        if tcp_own or method == "ping":
            return Admitted(self._session.revision)
        if self._modern:
            check_envelope(request.params)  # raises: it is not there
        return self._admit_legacy(method)

    def _admit_initialize(self, request: Request) -> Admitted:
        if self._modern:
            asked = decode_as(request.params, _Initialize).protocol_version
            raise MeshError(
                ErrorKind.VERSION,
                f"initialize on a connection that speaks {MODERN}",
                data={"supported": [MODERN.value], "requested": asked[:64]},
            )
        self._modern = False
        return Admitted(self._session.revision)

    def _admit_modern(self, method: str, meta: Meta) -> Admitted:
        # A probe with a version that is not served decides nothing: the client may fall back.
        checked(meta)
        if self._modern is None:
            self._modern = True
        if not is_known(method, MODERN):
            raise _unknown(method)
        return Admitted(MODERN, meta)

    def _admit_legacy(self, method: str) -> Admitted:
        fresh = self._session.state is SessionState.FRESH
        if not is_known(method, self._session.revision):
            if fresh and any(is_known(method, revision) for revision in Revision):
                raise MeshError(ErrorKind.PARAMS, "the session is not initialized")
            raise _unknown(method)
        if fresh and not (self._kind is StreamKind.TCP and method in BEFORE_INITIALIZE_TCP):
            raise MeshError(ErrorKind.PARAMS, "the session is not initialized")
        if self._modern is None:
            self._modern = False
        return Admitted(self._session.revision)


def _unknown(method: str) -> MeshError:
    return MeshError(ErrorKind.METHOD, f"unknown method {method[:64]!r}")
