"""Results of reads and completions, as the client that asked may have them."""

import msgspec

from gateway.core.routing import Item
from mcp_proto.errors import MeshError
from mcp_proto.members import pick, splice

__all__ = ["COMPLETIONS_MAX", "bounded_completion", "relisted"]

COMPLETIONS_MAX = 100
"""Values of one completion (MCP, "Completion"); a server that gives more is cut."""

_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)


def relisted(result: bytes, resource: Item) -> bytes:
    """Give ``contents[].uri`` of a read back under the URI the client asked for."""
    listed = msgspec.json.encode(resource.listed)
    try:
        raw = pick(result, "contents").get("contents")
        if raw is None:
            return result
        pieces: list[bytes] = []
        for content in _RAWS.decode(raw):
            uri = pick(content, "uri").get("uri")
            same = uri is not None and _TEXT.decode(uri) == resource.name
            pieces.append(splice(content, {"uri": listed}) if same else bytes(content))
    except (msgspec.DecodeError, UnicodeDecodeError, MeshError):
        return result  # malformed: the client gets it as the server gave it
    return splice(result, {"contents": b"[" + b",".join(pieces) + b"]"})


def bounded_completion(result: bytes) -> bytes:
    """At most ``COMPLETIONS_MAX`` values; ``hasMore`` says that some were left out."""
    try:
        completion = pick(result, "completion").get("completion")
        if completion is None:
            return result
        found = pick(completion, "values", "total")
        values = _RAWS.decode(found.get("values", b"[]"))
    except (msgspec.DecodeError, UnicodeDecodeError, MeshError):
        return result
    if len(values) <= COMPLETIONS_MAX:
        return result
    members = {
        "values": b"[" + b",".join(bytes(one) for one in values[:COMPLETIONS_MAX]) + b"]",
        "hasMore": b"true",
    }
    if "total" not in found:
        members["total"] = b"%d" % len(values)
    return splice(result, {"completion": splice(completion, members)})
