"""Every MCP method: which way it goes, what kind of message it is, which revisions know it.

The names of the mesh's own TCP methods (``batch``, ``authenticate``) and the synonym
``initialized`` are no MCP methods; they are listed apart and only byte-stream edges look there.
"""

from enum import StrEnum

import msgspec

from mcp_proto.versions import MODERN, Revision

__all__ = [
    "BEFORE_INITIALIZE_TCP",
    "CACHEABLE",
    "METHODS",
    "TCP_METHODS",
    "Direction",
    "Method",
    "MethodKind",
    "is_known",
    "method_of",
    "routing_member",
]


class Direction(StrEnum):
    """Who may send it."""

    CLIENT = "client"
    SERVER = "server"
    BOTH = "both"


class MethodKind(StrEnum):
    """What JSON-RPC message it is. INPUT travels inside ``input_required`` in the modern era."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    INPUT = "input"


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One method in the revisions ``first`` to ``last``.

    A name whose meaning changed between the eras has one entry per era.
    """

    name: str
    direction: Direction
    kind: MethodKind
    first: Revision
    last: Revision


_C, _S, _B = Direction.CLIENT, Direction.SERVER, Direction.BOTH
_REQ, _NOTE, _IN = MethodKind.REQUEST, MethodKind.NOTIFICATION, MethodKind.INPUT
_R1 = Revision.R2024_11_05
_R3 = Revision.R2025_06_18
_R4 = Revision.R2025_11_25
_R5 = Revision.R2026_07_28

_ROWS: tuple[tuple[str, Direction, MethodKind, Revision, Revision], ...] = (
    ("initialize", _C, _REQ, _R1, _R4),
    ("notifications/initialized", _C, _NOTE, _R1, _R4),
    ("server/discover", _C, _REQ, _R5, _R5),
    ("ping", _B, _REQ, _R1, _R4),
    ("tools/list", _C, _REQ, _R1, _R5),
    ("tools/call", _C, _REQ, _R1, _R5),
    ("resources/list", _C, _REQ, _R1, _R5),
    ("resources/templates/list", _C, _REQ, _R1, _R5),
    ("resources/read", _C, _REQ, _R1, _R5),
    ("resources/subscribe", _C, _REQ, _R1, _R4),
    ("resources/unsubscribe", _C, _REQ, _R1, _R4),
    ("subscriptions/listen", _C, _REQ, _R5, _R5),
    ("prompts/list", _C, _REQ, _R1, _R5),
    ("prompts/get", _C, _REQ, _R1, _R5),
    ("completion/complete", _C, _REQ, _R1, _R5),
    ("skills/list", _C, _REQ, _R5, _R5),
    ("skills/get", _C, _REQ, _R5, _R5),
    ("resources/directory/read", _C, _REQ, _R5, _R5),
    ("logging/setLevel", _C, _REQ, _R1, _R4),
    ("roots/list", _S, _REQ, _R1, _R4),
    ("roots/list", _S, _IN, _R5, _R5),
    ("sampling/createMessage", _S, _REQ, _R1, _R4),
    ("sampling/createMessage", _S, _IN, _R5, _R5),
    ("elicitation/create", _S, _REQ, _R3, _R4),
    ("elicitation/create", _S, _IN, _R5, _R5),
    ("tasks/get", _B, _REQ, _R4, _R4),
    ("tasks/result", _B, _REQ, _R4, _R4),
    ("tasks/list", _B, _REQ, _R4, _R4),
    ("tasks/cancel", _B, _REQ, _R4, _R4),
    ("tasks/get", _C, _REQ, _R5, _R5),
    ("tasks/update", _C, _REQ, _R5, _R5),
    ("tasks/cancel", _C, _REQ, _R5, _R5),
    ("notifications/message", _S, _NOTE, _R1, _R5),
    ("notifications/progress", _B, _NOTE, _R1, _R4),
    ("notifications/progress", _S, _NOTE, _R5, _R5),
    ("notifications/cancelled", _B, _NOTE, _R1, _R5),
    ("notifications/tools/list_changed", _S, _NOTE, _R1, _R5),
    ("notifications/prompts/list_changed", _S, _NOTE, _R1, _R5),
    ("notifications/resources/list_changed", _S, _NOTE, _R1, _R5),
    ("notifications/resources/updated", _S, _NOTE, _R1, _R5),
    ("notifications/roots/list_changed", _C, _NOTE, _R1, _R4),
    ("notifications/elicitation/complete", _S, _NOTE, _R4, _R4),
    ("notifications/tasks/status", _B, _NOTE, _R4, _R4),
    ("notifications/tasks", _S, _NOTE, _R5, _R5),
    ("notifications/subscriptions/acknowledged", _S, _NOTE, _R5, _R5),
)

METHODS: tuple[Method, ...] = tuple(
    Method(name=name, direction=direction, kind=kind, first=first, last=last)
    for name, direction, kind, first, last in _ROWS
)

TCP_METHODS = frozenset(("authenticate", "batch"))
"""Methods of the byte-stream edge alone; they belong to no era and decide none."""

BEFORE_INITIALIZE_TCP = frozenset(("ping", "authenticate", "batch", "tools/list", "tools/call"))
"""Served on TCP before ``initialize``, as for a 2024-11-05 peer, so that one line is enough."""

CACHEABLE = frozenset(
    (
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    )
)
"""Modern results of these must carry ``ttlMs`` and ``cacheScope``."""

_ROUTING_MEMBER: dict[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}

_known: dict[tuple[str, Revision], Method] = {
    (method.name, revision): method
    for method in METHODS
    for revision in Revision
    if method.first <= revision <= method.last
}


def method_of(name: str, revision: Revision) -> Method | None:
    """The method as this revision defines it, or None."""
    return _known.get((name, revision))


def is_known(name: str, revision: Revision) -> bool:
    """Whether a peer of this revision may use the method as a message of its own."""
    method = _known.get((name, revision))
    return method is not None and method.kind is not MethodKind.INPUT


def routing_member(name: str, revision: Revision = MODERN) -> str | None:
    """Name of the ``params`` member that header ``Mcp-Name`` repeats; None = no such header."""
    return _ROUTING_MEMBER.get(name) if (name, revision) in _known else None
