"""What a legacy client is asked, in the words of its revision.

The params are the server's own; changed is only what an older revision spells differently, and
``_meta`` gets the name of the server that asks, which clients have to show, and a progress token.
"""

import hashlib

import msgspec

from gateway.core.sealed_state import SERVER
from mcp_proto.codec import decode_as, encode
from mcp_proto.jsonrpc import RequestId
from mcp_proto.members import pick, remove, splice
from mcp_proto.types.inputs import InputRequest
from mcp_proto.versions import Feature, Revision, has

__all__ = ["older_params"]


def older_params(
    asked: InputRequest, revision: Revision, *, server: str, token: RequestId
) -> bytes:
    """Params of a request to a client.

    Args:
        asked: one entry of ``inputRequests``.
        revision: of the client's session.
        server: that asks; "" = unknown.
        token: progress token, also the request's id.

    Raises:
        MeshError: ``params`` when the server's params are no object.
    """
    data = bytes(asked.params) or b"{}"
    if asked.method == "elicitation/create":
        data = _elicitation(data, revision, token)
    elif asked.method == "sampling/createMessage" and not has(revision, Feature.SAMPLING_TOOLS):
        data = _sampling(data)
    meta = pick(data, "_meta").get("_meta", msgspec.Raw(b"{}"))
    own = {"progressToken": encode(token)}
    if server:
        own[SERVER] = encode(server)
    return splice(data, {"_meta": splice(meta, own)})


def _elicitation(data: bytes, revision: Revision, token: RequestId) -> bytes:
    if not has(revision, Feature.ELICITATION_URL):
        # Form is all there is, and has no name yet.
        return remove(data, "mode")
    found = pick(data, "mode", "elicitationId")
    mode = found.get("mode")
    if mode is not None and bytes(mode) == b'"url"' and "elicitationId" not in found:
        # Required until 2025-11-25, unknown after it: nobody will report its completion.
        made = hashlib.sha256(str(token).encode()).hexdigest()[:32]
        return splice(data, {"elicitationId": encode(made)})
    return data


def _sampling(data: bytes) -> bytes:
    """Before 2025-11-25 a message has one block: one of several becomes several messages."""
    raw = pick(data, "messages").get("messages")
    if raw is None or bytes(memoryview(raw)[:1]) != b"[":
        return data
    messages: list[bytes] = []
    changed = False
    for message in decode_as(raw, list[msgspec.Raw]):
        content = pick(message, "content").get("content")
        if content is None or bytes(memoryview(content)[:1]) != b"[":
            messages.append(bytes(message))
            continue
        changed = True
        blocks = decode_as(content, list[msgspec.Raw])
        messages.extend(splice(message, {"content": bytes(block)}) for block in blocks)
    return splice(data, {"messages": b"[" + b",".join(messages) + b"]"}) if changed else data
