"""The two dialects of an upstream and the one of the bus, as bytes to bytes.

On the bus everything is MCP 2026-07-28. A modern upstream gets its requests nearly as they are; a
legacy one must not see the envelope (SDK servers refuse it), and its answers lack what the new
revision requires. Only top-level members and ``_meta`` are touched; arguments, content and
schemas pass byte for byte (docs/architecture.md, "Byte for byte").
"""

import re

import msgspec

from mcp_proto.codec import decode_as, encode, pick, remove, splice
from mcp_proto.convert.upstream import from_legacy_error, from_legacy_result
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.inputs import missing_capability
from mcp_proto.types.meta import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    PREFIX,
    PROTOCOL_VERSION,
    RELATED_TASK,
    SERVER_INFO,
)
from mcp_proto.versions import MODERN, NEWEST_LEGACY, Revision, revision_of

__all__ = [
    "Handshake",
    "caller_meta",
    "discover_params",
    "initialize_params",
    "read_discover",
    "read_initialize",
    "to_bus_error",
    "to_bus_result",
    "to_upstream_params",
]

TOKEN_KEY = "progressToken"  # noqa: S105 - a member name

_CLIENT = encode({"name": "mcp-mesh", "version": "0.1.0"})
_VERSION = encode(MODERN.value)
_INPUT_MEMBERS = ("inputResponses", "requestState")
_REFUSALS = frozenset((-32700, -32600, -32601, -32020, -32021, -32022))
"""Codes with which a server says that it did not begin; invalid params may be found later."""


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream said of itself. Raw members are JSON objects, ``{}`` when unknown."""

    revision: Revision
    capabilities: msgspec.Raw
    server_info: msgspec.Raw
    instructions: str = ""
    ttl_ms: int | None = None
    """How long ``server/discover`` of a modern server may be kept; None = it does not say."""
    bare: bool = False
    """A modern server that did not say anything of itself: it lacks ``server/discover``."""

    @property
    def modern(self) -> bool:
        """Whether it speaks the dialect of the bus."""
        return self.revision is MODERN


_NONE = msgspec.Raw(b"{}")


class _Meta(msgspec.Struct, frozen=True):
    server_info: msgspec.Raw = msgspec.field(default=_NONE, name=SERVER_INFO)


class _Discovered(msgspec.Struct, frozen=True, rename="camel"):
    supported_versions: tuple[str, ...]
    capabilities: msgspec.Raw = _NONE
    instructions: str = ""
    ttl_ms: int | None = None
    meta: _Meta = msgspec.field(default=_Meta(), name="_meta")


class _Initialized(msgspec.Struct, frozen=True, rename="camel"):
    protocol_version: str
    capabilities: msgspec.Raw = _NONE
    server_info: msgspec.Raw = _NONE
    instructions: str | None = None


def _envelope() -> bytes:
    members = {PROTOCOL_VERSION: _VERSION, CLIENT_CAPABILITIES: b"{}", CLIENT_INFO: _CLIENT}
    return splice(b"{}", {"_meta": splice(b"{}", members)})


_DISCOVER = _envelope()


def discover_params() -> bytes:
    """Params of ``server/discover``, and of any request without params of its own."""
    return _DISCOVER


def initialize_params() -> bytes:
    """Params of ``initialize``, asking for the newest legacy revision.

    They declare everything a client can be asked, because servers do not ask otherwise; what the
    caller of each call really declared is checked when they do (``core.inputs``).
    """
    return (
        b'{"protocolVersion":' + encode(NEWEST_LEGACY.value) + b',"capabilities":'
        b'{"roots":{},"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}}},'
        b'"clientInfo":' + _CLIENT + b"}"
    )


def read_discover(result: msgspec.Raw) -> Handshake | None:
    """Handshake from an answer to ``server/discover``; None when it does not prove modern."""
    try:
        said = decode_as(result, _Discovered)
    except MeshError:
        return None
    if MODERN.value not in said.supported_versions:
        return None
    return Handshake(
        revision=MODERN,
        capabilities=said.capabilities,
        server_info=said.meta.server_info,
        instructions=said.instructions,
        ttl_ms=said.ttl_ms if said.ttl_ms is not None and said.ttl_ms >= 0 else None,
    )


def proves_modern(error: ErrorObject) -> bool:
    """Whether an error answer can only come from a server of the modern era."""
    return error.code in {-32020, -32021, -32022}


def read_initialize(result: msgspec.Raw) -> Handshake:
    """Handshake from an answer to ``initialize``.

    Raises:
        MeshError: ``upstream`` for a malformed answer or a revision nobody knows.
    """
    try:
        said = decode_as(result, _Initialized)
    except MeshError as error:
        raise _broken("answered initialize with a malformed result") from error
    revision = revision_of(said.protocol_version)
    if revision is None or revision is MODERN:
        raise _broken(f"negotiated the unknown revision {said.protocol_version[:32]!r}")
    return Handshake(
        revision=revision,
        capabilities=said.capabilities,
        server_info=said.server_info,
        instructions=said.instructions or "",
    )


def _broken(what: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, f"the server {what}", outcome=Outcome.NOT_EXECUTED)


def caller_meta(params: msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Members of ``_meta`` of a request, empty when it has none.

    Raises:
        MeshError: ``params`` when params or ``_meta`` is no object.
    """
    meta = pick(params, "_meta").get("_meta")
    return pick(meta) if meta is not None else {}


def to_upstream_params(
    params: msgspec.Raw,
    meta: dict[str, msgspec.Raw],
    *,
    modern: bool,
    progress_token: int | None,
) -> bytes:
    """Params for the upstream.

    Args:
        params: params of the bus request.
        meta: its ``_meta`` members, from ``caller_meta``.
        modern: dialect of the upstream.
        progress_token: our own token for this call; None when the caller wants no progress.

    Returns:
        JSON bytes of an object.
    """
    if modern:
        members = {PROTOCOL_VERSION: _VERSION}
        if CLIENT_CAPABILITIES not in meta:
            members[CLIENT_CAPABILITIES] = b"{}"
        if CLIENT_INFO not in meta:
            members[CLIENT_INFO] = _CLIENT
        kept: dict[str, bytes] = {
            name: bytes(value)
            for name, value in meta.items()
            if name != TOKEN_KEY and not name.startswith(_OURS)
        }
        kept.update(members)
    else:
        kept = {
            name: bytes(value)
            for name, value in meta.items()
            if name == RELATED_TASK
            or (name != TOKEN_KEY and not name.startswith(PREFIX) and not name.startswith(_OURS))
        }
        params = msgspec.Raw(remove(params, *_INPUT_MEMBERS))
    if progress_token is not None:
        kept[TOKEN_KEY] = b"%d" % progress_token
    if kept:
        return splice(params, {"_meta": splice(b"{}", kept)})
    return remove(params, "_meta") if meta else bytes(params) or b"{}"


_COMPLETE = {"resultType": b'"complete"'}


def to_bus_result(result: msgspec.Raw, *, modern: bool, method: str) -> bytes:
    """A result in the dialect of the bus.

    Raises:
        MeshError: ``upstream`` (executed) when the result is no object.
    """
    if not modern:
        return _without_ours(from_legacy_result(method, result))
    data = _without_ours(bytes(result))
    result = msgspec.Raw(data)
    if data.startswith(_RESULT_TYPE_FIRST) and _says_once(data):
        return data
    try:
        # A second resultType is refused: readers further on would not agree on which one holds.
        return data if pick(result, "resultType") else splice(result, _COMPLETE)
    except MeshError as error:
        raise MeshError(
            ErrorKind.UPSTREAM,
            "the server answered with a malformed result",
            outcome=Outcome.EXECUTED,
        ) from error


_RESULT_TYPE_FIRST = b'{"resultType":'


def _says_once(data: bytes) -> bool:
    """Whether the quick look is enough: no second ``resultType``, however it is spelt."""
    return data.count(b'resultType"') == 1 and b"\\u00" not in data


_OURS = "mesh/"
_OURS_SPELT = re.compile(rb"mesh\\?/|\\u00[2-7]")
"""The prefix, or an escape that can be part of it."""


def _without_ours(result: bytes) -> bytes:
    """A result without what only the mesh may say in its ``_meta``, such as ``mesh/parked``."""
    if b"mesh" not in result and b"\\u00" not in result:
        return result
    if _OURS_SPELT.search(result) is None or not result.lstrip().startswith(b"{"):
        return result
    try:
        meta = pick(result, "_meta").get("_meta")
        names = [] if meta is None else [name for name in pick(meta) if name.startswith(_OURS)]
    except MeshError:
        return remove(result, "_meta")  # twice, or no object: nobody can say what it holds
    if meta is None or not names:
        return result
    return splice(result, {"_meta": remove(meta, *names)})


def to_bus_error(
    error: ErrorObject, *, modern: bool, method: str, server: str, began: bool = False
) -> ErrorObject:
    """An upstream's own error, with what every error on the bus carries.

    A modern upstream's code, text and data stay, and ``upstream`` and ``outcome`` are added where
    its data is an object; of a legacy one only JSON-RPC's own codes stay.

    Args:
        error: what it answered.
        modern: dialect of the upstream.
        method: method of the request.
        server: its name.
        began: the request is known to have begun, whatever the error says.
    """
    if not modern:
        known = missing_capability(error) or from_legacy_error(method, error)
        if began and known.outcome is Outcome.NOT_EXECUTED:
            known.outcome = Outcome.UNKNOWN
        known.data.setdefault("upstream", server)
        return known.to_object()
    data = error.data
    if data is msgspec.UNSET or data is None:
        data = {}
    if isinstance(data, dict):
        outcome = Outcome.NOT_EXECUTED if error.code in _REFUSALS else Outcome.UNKNOWN
        data = {"upstream": server, **data, "outcome": outcome.value}
    return ErrorObject(code=error.code, message=error.message, data=data)
