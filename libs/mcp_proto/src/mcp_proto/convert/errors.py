"""One error, as each kind of peer gets it: code, data and HTTP status per era."""

from enum import StrEnum

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.types.meta import TASKS_EXTENSION

__all__ = ["Peer", "http_status", "render_error"]

LEGACY_RESOURCE_NOT_FOUND = -32002
_OF_A_RESOURCE = frozenset(("resources/read", "resources/subscribe"))


class Peer(StrEnum):
    """Whom an edge answers. Legacy HTTP and stdio clients are treated alike."""

    MODERN = "modern"
    LEGACY = "legacy"
    LEGACY_TCP = "legacy_tcp"


_NOT_FOR_LEGACY: dict[ErrorKind, int] = {
    ErrorKind.HEADER_MISMATCH: -32600,
    ErrorKind.VERSION: -32600,
    ErrorKind.CAPABILITY: -32602,
}
"""Codes of 2026-07-28 that an old client would not understand."""
_TASKS = {"extensions": {TASKS_EXTENSION: {}}}

_MODERN_STATUS: dict[ErrorKind, int] = {
    ErrorKind.PARSE: 400,
    ErrorKind.REQUEST: 400,
    ErrorKind.METHOD: 404,
    ErrorKind.PARAMS: 400,
    ErrorKind.NOT_FOUND: 400,
    ErrorKind.HEADER_MISMATCH: 400,
    ErrorKind.CAPABILITY: 400,
    ErrorKind.VERSION: 400,
}


def render_error(error: MeshError, peer: Peer, *, method: str = "") -> ErrorObject:
    """The JSON-RPC error object for a peer.

    Args:
        error: what went wrong; for a resource ``data.uri`` names it.
        peer: whom to answer.
        method: method of the failed request; an unknown resource of ``resources/read`` and
            ``resources/subscribe`` has a code of its own in the legacy era.
    """
    plain = error.to_object()
    if peer is Peer.MODERN:
        return plain
    code = _NOT_FOR_LEGACY.get(error.kind, plain.code)
    if error.kind is ErrorKind.NOT_FOUND and method in _OF_A_RESOURCE:
        code = LEGACY_RESOURCE_NOT_FOUND
    if error.data.get("requiredCapabilities") == _TASKS:
        code = -32601  # 2025-11-25: the tool runs as a task only (execution.taskSupport)
    return plain if code == plain.code else ErrorObject(code, plain.message, plain.data)


def http_status(error: MeshError, peer: Peer) -> int:
    """HTTP status of a JSON-RPC error on ``/mcp``, once the transport itself lets the request in.

    Real legacy clients lose the body, or the connection, at any status but 200; modern ones
    expect the statuses of the specification for protocol errors. What the transport refuses
    (authentication, size, Origin) has ``MeshError.http_status``.
    """
    return _MODERN_STATUS.get(error.kind, 200) if peer is Peer.MODERN else 200
