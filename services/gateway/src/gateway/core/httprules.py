"""What the HTTP edge reads from headers, and what it refuses before anything else looks.

Host and Origin are checked on every route, because a browser that was lured to a name of an
attacker sends requests to this machine as if they were its own (DNS rebinding). Headers that
route a request may appear once only: two readers could take two different ones.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = [
    "CORS_EXPOSED",
    "CORS_HEADERS",
    "HostRules",
    "accepts",
    "bearer",
    "media_type",
    "param_values",
    "read",
]

_OWS = b" \t"
_ONCE = frozenset(
    {
        b"authorization",
        b"content-type",
        b"host",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
        b"mcp-session-id",
        b"mesh-timeout-ms",
        b"origin",
    }
)
_PARAM = b"mcp-param-"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

REMEMBERED_BYTES_MAX = 256
"""Longest header value whose meaning is remembered; 256 of them are."""

CORS_HEADERS = (
    "content-type, authorization, accept, mcp-protocol-version, mcp-method, mcp-name, "
    "mcp-session-id, last-event-id"
)
"""What a browser client may send."""
CORS_EXPOSED = "mcp-session-id, www-authenticate"
"""What it may read."""


def read(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name, values without blanks at the edges; the first of equal names.

    Raises:
        MeshError: ``header_mismatch`` when a routing header appears twice.
    """
    found: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name not in found:
            found[name] = value.strip(_OWS)
        elif name in _ONCE or name.startswith(_PARAM):
            raise MeshError(
                ErrorKind.HEADER_MISMATCH, f"header {name.decode('latin-1')[:64]} appears twice"
            )
        elif name == b"accept":
            found[name] += b", " + value.strip(_OWS)
    return found


def accepts(value: bytes | None) -> tuple[bool, bool]:
    """Whether ``Accept`` allows JSON and an event stream; an absent one allows neither."""
    if not value:
        return False, False
    # Clients send the same few values with every request.
    return _accepts_known(value) if len(value) <= REMEMBERED_BYTES_MAX else _accepts(value)


def _accepts(value: bytes) -> tuple[bool, bool]:
    json = stream = False
    for part in value.lower().split(b","):
        kind, *parameters = (piece.strip(_OWS) for piece in part.split(b";"))
        if any(one.replace(b" ", b"") in {b"q=0", b"q=0.0", b"q=0.00"} for one in parameters):
            continue
        json = json or kind in {b"application/json", b"application/*", b"*/*"}
        stream = stream or kind in {b"text/event-stream", b"text/*", b"*/*"}
    return json, stream


_accepts_known = lru_cache(maxsize=256)(_accepts)


def media_type(value: bytes | None) -> bytes:
    """The media type of ``Content-Type`` without parameters, lower case; b"" when absent."""
    return (value or b"").partition(b";")[0].strip(_OWS).lower()


def bearer(value: bytes | None) -> str:
    """The token of an ``Authorization`` header; "" when there is no header.

    Raises:
        MeshError: ``unauthenticated`` for any other scheme or an empty token.
    """
    if value is None:
        return ""
    scheme, _, token = value.partition(b" ")
    token = token.strip(_OWS)
    if scheme.lower() != b"bearer" or not token or not token.isascii():
        raise MeshError(ErrorKind.UNAUTHENTICATED, "Authorization must be a bearer token")
    return token.decode()


class HostRules(msgspec.Struct, frozen=True):
    """Which names this edge answers to, and which origins may call it.

    Attributes:
        hosts: lower-case names with or without port; a name without port allows any port.
        origins: lower-case origins.
    """

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(
        cls, *, host: str, loopback: bool, allowed_hosts: Iterable[str], origins: Iterable[str]
    ) -> "HostRules":
        """Rules of a listener.

        Args:
            host: address it listens on.
            loopback: whether only this machine reaches it.
            allowed_hosts: names added by configuration.
            origins: origins added by configuration.
        """
        own = [f"[{host}]" if ":" in host and not host.startswith("[") else host]
        names = [*allowed_hosts, *own, *(_LOOPBACK if loopback else ())]
        return cls(
            frozenset(name.lower() for name in names),
            frozenset(origin.lower().rstrip("/") for origin in origins),
        )

    def host_allowed(self, host: bytes | None) -> bool:
        """Whether ``Host`` names this edge; a request without one does not."""
        if not host:
            return False
        name = host.decode("latin-1").lower()
        return name in self.hosts or _without_port(name) in self.hosts

    def origin_allowed(self, origin: bytes, host: bytes) -> bool:
        """Whether a page of ``origin`` may call: listed, or served by this very edge.

        ``host`` has passed ``host_allowed``. Two loopback names with one port are one edge.
        """
        text = origin.decode("latin-1").lower()
        if text in self.origins:
            return True
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            return False
        if parts.scheme not in {"http", "https"} or text != f"{parts.scheme}://{parts.netloc}":
            return False
        own = host.decode("latin-1").lower()
        if parts.netloc == own:
            return True
        name = _without_port(parts.netloc)
        own_port = own[len(_without_port(own)) + 1 :]
        both_local = name in _LOOPBACK and _without_port(own) in _LOOPBACK
        return both_local and name in self.hosts and str(port or "") == own_port


def _without_port(name: str) -> str:
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def param_values(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The ``mcp-param-*`` headers as text."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers.items()
        if name.startswith(_PARAM)
    }
