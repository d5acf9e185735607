"""Params across eras: the envelope goes on at the rim of a legacy client.

Everything else in ``params``, and every other member of ``_meta`` (progress token, trace
context, the caller's own keys), keeps its bytes.
"""

from collections.abc import Mapping

import msgspec

from mcp_proto.codec import encode, pick, remove, splice
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    PREFIX,
    PROTOCOL_VERSION,
    RELATED_TASK,
)
from mcp_proto.versions import MODERN

__all__ = ["EnvelopeStamp"]

_NULL = b"null"


class EnvelopeStamp:
    """Puts the modern envelope on a legacy client's params; made once per session.

    Args:
        capabilities: the client's ``ClientCapabilities`` object, as JSON.
        client_info: its ``Implementation`` object; empty = it sent none.
        log_level: level set by ``logging/setLevel``; "" = no log notifications.
    """

    def __init__(
        self,
        capabilities: bytes | msgspec.Raw = b"{}",
        client_info: bytes | msgspec.Raw = ABSENT,
        log_level: str = "",
    ) -> None:
        members: dict[str, bytes] = {
            PROTOCOL_VERSION: encode(MODERN.value),
            CLIENT_CAPABILITIES: bytes(capabilities) or b"{}",
        }
        if memoryview(client_info).nbytes:
            members[CLIENT_INFO] = bytes(client_info)
        if log_level:
            members[LOG_LEVEL] = encode(log_level)
        self._members: Mapping[str, bytes] = members
        self._alone = splice(b"{}", members)

    def stamp(self, params: bytes | msgspec.Raw) -> bytes:
        """The params with the envelope in ``_meta``; what the client put there itself is kept.

        A client's own envelope members are replaced: they were not agreed in its session.

        Raises:
            MeshError: ``params`` when ``params`` or ``_meta`` is no object.
        """
        data = bytes(params)
        if b'"_meta"' not in data and b"\\u" not in data:
            return splice(data, {"_meta": self._alone})
        own = pick(data, "_meta").get("_meta")
        if own is None or bytes(own) == _NULL:
            return splice(data, {"_meta": self._alone})
        seen = bytes(own)
        # A key may be spelt with escapes.
        kept = remove(own, *_reserved(own)) if PREFIX.encode() in seen or b"\\" in seen else own
        return splice(data, {"_meta": splice(kept, self._members)})


def _reserved(meta: bytes | msgspec.Raw) -> list[str]:
    """The envelope keys in ``_meta``; what core tasks put there belongs to both ends."""
    return [key for key in pick(meta) if key.startswith(PREFIX) and key != RELATED_TASK]
