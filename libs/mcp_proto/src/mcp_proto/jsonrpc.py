"""JSON-RPC 2.0 messages as the mesh holds them: routing facts decoded, everything else raw.

``params`` and ``result`` are the sender's own bytes (``msgspec.Raw``), so that a value no part of
the mesh owns reaches the other end byte for byte. How bytes become these is in ``codec``.
"""

from typing import TypeAlias

import msgspec

from mcp_proto.errors import ErrorObject

__all__ = [
    "ABSENT",
    "BATCH_ITEMS_MAX",
    "ENVELOPE_MEMBERS_MAX",
    "ID_CHARS_MAX",
    "ID_MAX",
    "ID_MIN",
    "METHOD_CHARS_MAX",
    "ErrorResponse",
    "Message",
    "Notification",
    "Request",
    "RequestId",
    "Response",
]

RequestId: TypeAlias = str | int

ID_MIN = -(2**63)
ID_MAX = 2**63 - 1
"""Integer ids outside 64 bits would come back changed from most peers."""

ID_CHARS_MAX = 512
"""Longest string id: it is kept per call in flight and repeated in the answer."""

METHOD_CHARS_MAX = 128
"""Longest method name; no MCP revision has one over 40."""

ENVELOPE_MEMBERS_MAX = 32
"""Top-level members of one message; JSON-RPC and MCP know seven."""

BATCH_ITEMS_MAX = 100
"""Messages in one array of revision 2025-03-26, and calls in one TCP ``batch``."""

ABSENT = msgspec.Raw(b"")
"""Value of ``params`` when the message has none."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """A call that wants an answer.

    Attributes:
        method: method name as sent.
        id: the sender's id, with its JSON type (1 and "1" are different).
        params: bytes of an object (of an array for TCP ``batch``); ``ABSENT`` when not sent.
        tenant_id: top-level member of earlier clients; selects a tenant, never authorises.
        user_id: the same for the principal.
    """

    method: str
    id: RequestId
    params: msgspec.Raw = ABSENT
    tenant_id: str | msgspec.UnsetType = msgspec.UNSET
    user_id: str | msgspec.UnsetType = msgspec.UNSET


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A message without id: nobody may answer it, not even with an error."""

    method: str
    params: msgspec.Raw = ABSENT


class Response(msgspec.Struct, frozen=True, gc=False):
    """The successful answer to the request ``id``; ``result`` is any JSON value, as sent."""

    id: RequestId
    result: msgspec.Raw


class ErrorResponse(msgspec.Struct, frozen=True):
    """The failed answer; ``id`` is None when the answering side could not read it."""

    id: RequestId | None
    error: ErrorObject


Message: TypeAlias = Request | Notification | Response | ErrorResponse
