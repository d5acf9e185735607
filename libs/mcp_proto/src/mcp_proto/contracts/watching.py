"""Contract between gateways and runners about watched resources.

A gateway asks a server's subject (``rpc.{server}.resources.subscribe``) on behalf of its clients
and repeats that while anybody listens; a runner keeps one subscription at the upstream per URI
and tells all gateways (``evt.updated.{server}``). A runner that dies is forgotten by time, and
the repeated request reaches whoever serves the server next.
"""

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = [
    "LEASE_S",
    "RENEW_S",
    "SUBSCRIBE",
    "SUBSCRIBER",
    "UNSUBSCRIBE",
    "URIS_MAX",
    "URI_CHARS_MAX",
    "Asked",
    "Updated",
    "Verdict",
    "read_asked",
    "write_asked",
]

SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"

SUBSCRIBER = "mesh/subscriber"
"""Member of ``_meta``: who subscribes, the instance id of a gateway."""

LEASE_S = 60.0
"""How long a subscription lives in a runner without being repeated."""
RENEW_S = 20.0
"""How often a gateway repeats it: two repeats may get lost."""
URIS_MAX = 256
"""URIs of one request."""
URI_CHARS_MAX = 4_096
_SUBSCRIBER_CHARS_MAX = 128


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which URIs, and for whom."""

    uris: tuple[str, ...]
    subscriber: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of a subscribe request; a URI that is not in ``refused`` is watched.

    Attributes:
        refused: URI → why not, as public text.
        fresh: watched now, but not by this runner before: what changed until now was not heard.
    """

    result_type: str = "complete"
    refused: dict[str, str] = {}
    fresh: tuple[str, ...] = ()


class Updated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Event ``mesh.v1.{tenant of the server}.evt.updated.{server}``.

    Attributes:
        uri: the resource that changed, under the server's own name for it; "" = none.
        anew: the server is served by a new life or another runner: subscribe again now.
    """

    uri: str = ""
    anew: bool = False


class _Params(msgspec.Struct):
    uri: str = ""
    uris: tuple[str, ...] = ()
    meta: dict[str, msgspec.Raw] = msgspec.field(default={}, name="_meta")


_PARAMS = msgspec.json.Decoder(_Params)


def write_asked(asked: Asked) -> bytes:
    """Params of a subscribe or unsubscribe request on the bus."""
    return msgspec.json.encode({"uris": asked.uris, "_meta": {SUBSCRIBER: asked.subscriber}})


def read_asked(params: bytes | msgspec.Raw, caller: str) -> Asked:
    """Read them; a plain client sends one ``uri`` as in MCP and is known by ``caller``.

    Raises:
        MeshError: ``params``.
    """
    try:
        read = _PARAMS.decode(params)
        named = read.meta.get(SUBSCRIBER)
        subscriber = caller if named is None else msgspec.json.decode(named, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, "params.uri must be a string") from None
    uris = tuple(dict.fromkeys((read.uri, *read.uris) if read.uri else read.uris))
    if not 1 <= len(uris) <= URIS_MAX:
        raise MeshError(ErrorKind.PARAMS, f"between 1 and {URIS_MAX} URIs are needed")
    if any(not uri or len(uri) > URI_CHARS_MAX for uri in uris):
        raise MeshError(ErrorKind.PARAMS, f"a URI has 1 to {URI_CHARS_MAX} characters")
    if not 1 <= len(subscriber) <= _SUBSCRIBER_CHARS_MAX:
        raise MeshError(ErrorKind.PARAMS, "the subscriber's name is too long or empty")
    return Asked(uris=uris, subscriber=subscriber)
