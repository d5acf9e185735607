"""What the dispatcher is given: one request in the modern dialect, read as far as routing needs.

``params`` stay bytes; what ``_meta`` reserves is decoded, nothing else. The edges make these from
either era.
"""

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import CALL_TIMEOUT_MAX_S
from mcp_proto.members import pick
from mcp_proto.types.meta import Meta

__all__ = ["ModernRequest", "budget_s", "optional_text", "text_member", "text_of"]

_TEXT = msgspec.json.Decoder(str)


class ModernRequest(msgspec.Struct, frozen=True, gc=False):
    """One request, ready to be routed.

    Attributes:
        method: MCP method.
        params: JSON object with the modern envelope in ``_meta``.
        meta: the reserved members of ``_meta``.
        edge: where it came in, for metrics: ``http``, ``tcp``, ``stdio``, ``bus``.
        timeout_s: budget the caller asks for, in seconds; 0 = the default.
        target: ``params.name`` or ``params.uri`` where the edge has read it already; "" = not.
        endpoint: where it was sent: "" = everything, ``u/<server>``, ``v/<virtual>``.
    """

    method: str
    params: bytes | msgspec.Raw
    meta: Meta
    edge: str
    timeout_s: float = 0.0
    target: str = ""
    endpoint: str = ""


def text_of(raw: msgspec.Raw, name: str) -> str:
    """A member of ``params`` that must be a string, as it stands.

    Raises:
        MeshError: ``params`` when it is absent (empty) or no string.
    """
    try:
        return _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARAMS, f"params.{name} must be a string") from None


def text_member(params: bytes | msgspec.Raw, name: str) -> str:
    """A member of ``params`` that must be a string.

    Raises:
        MeshError: ``params`` when it is absent, no string, or there twice.
    """
    return text_of(pick(params, name).get(name, ABSENT), name)


def optional_text(params: bytes | msgspec.Raw, name: str) -> str | None:
    """A member of ``params`` that may be absent.

    Raises:
        MeshError: ``params`` when it is no string, or there twice.
    """
    raw = pick(params, name).get(name)
    return None if raw is None else text_of(raw, name)


def budget_s(asked_s: float, default_s: float, most_s: float = CALL_TIMEOUT_MAX_S) -> float:
    """Seconds a request may take: what the caller asks for, else the default; within bounds."""
    return min(default_s if asked_s <= 0 else max(asked_s, 0.001), most_s)
