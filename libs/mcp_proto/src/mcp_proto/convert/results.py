"""Results from the bus to a legacy client of a given revision.

The usual case, a complete tool result with ``resultType`` and the gateway's ``serverInfo`` in
front, is one slice of bytes. Everything the tool wrote (content, structuredContent, nested
``_meta``) keeps its bytes, except content kinds that the revision does not know.
"""

import functools

import msgspec

from mcp_proto.codec import encode, pick, remove, splice
from mcp_proto.convert.content import older_content
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import RESULT_BYTES_MAX
from mcp_proto.members import TooManyMembersError, pairs
from mcp_proto.types.meta import SERVER_INFO
from mcp_proto.versions import Feature, Revision, has

__all__ = ["COMPLETE_HEAD", "flatten", "to_legacy_result"]

COMPLETE_HEAD = b'{"resultType":"complete",'
"""How the mesh writes a complete result, so that the way back is a slice."""

_COMPLETE = b'"complete"'
_INFO_KEY = SERVER_INFO.encode()
_SMALL_META_BYTES = 512


class _Seen(msgspec.Struct, frozen=True, gc=False):
    """Top-level members of a result that the conversion may have to touch."""

    result_type: msgspec.Raw = msgspec.field(name="resultType", default=ABSENT)
    ttl_ms: msgspec.Raw = msgspec.field(name="ttlMs", default=ABSENT)
    cache_scope: msgspec.Raw = msgspec.field(name="cacheScope", default=ABSENT)
    structured: msgspec.Raw = msgspec.field(name="structuredContent", default=ABSENT)
    content: msgspec.Raw = msgspec.field(default=ABSENT)
    meta: msgspec.Raw = msgspec.field(name="_meta", default=ABSENT)


_seen = msgspec.json.Decoder(_Seen)
_raws = msgspec.json.Decoder(list[msgspec.Raw])


def to_legacy_result(
    method: str, result: bytes | msgspec.Raw, revision: Revision, *, flat: bool = False
) -> bytes:
    """Convert a modern result.

    Args:
        method: method of the request that it answers.
        result: a complete result from the bus.
        revision: the legacy client's revision.
        flat: also put the keys of ``structuredContent`` flat into the result, as 2024-11-05
            clients on TCP read them.

    Raises:
        MeshError: ``upstream`` with outcome ``executed`` when the result cannot be expressed:
            it is no object, or not complete (``input_required``, ``task``).
    """
    try:
        seen = _seen.decode(result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _inexpressible("the result is not a JSON object") from None
    if memoryview(seen.result_type).nbytes and bytes(seen.result_type) != _COMPLETE:
        raise _inexpressible("the answer needs a client of revision 2026-07-28")
    data = _strip(bytes(result), seen)
    if method in _CONVERTERS:
        data = _CONVERTERS[method](data, seen, revision)
    return flatten(data, seen.structured) if flat and method == "tools/call" else data


def _inexpressible(text: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, text, outcome=Outcome.EXECUTED)


def _strip(data: bytes, seen: _Seen) -> bytes:
    """Drop what only the modern era has."""
    cached = memoryview(seen.ttl_ms).nbytes or memoryview(seen.cache_scope).nbytes
    meta = bytes(seen.meta)
    named = meta[:1] == b"{" and (_INFO_KEY in meta or b"\\u" in meta)
    if named and not cached and len(meta) <= _SMALL_META_BYTES and _without_info(meta) == b"{}":
        signed = b'%b"_meta":%b,' % (COMPLETE_HEAD, meta)
        at = len(signed)
        if data.startswith(signed) and data.find(b'"_meta"', at) < 0 and data.find(b"\\u", at) < 0:
            return b"{" + data[at:]
    if memoryview(seen.result_type).nbytes:
        if not cached and data.startswith(COMPLETE_HEAD):
            data = b"{" + data[len(COMPLETE_HEAD) :]
        else:
            data = remove(data, "resultType", "ttlMs", "cacheScope")
    elif cached:
        data = remove(data, "ttlMs", "cacheScope")
    if named:
        meta = remove(meta, SERVER_INFO)
        data = remove(data, "_meta") if meta == b"{}" else splice(data, {"_meta": meta})
    return data


@functools.lru_cache(maxsize=64)
def _without_info(meta: bytes) -> bytes:
    """Remembered: a gateway writes the same ``serverInfo`` into every result."""
    return remove(meta, SERVER_INFO)


def _tool_result(data: bytes, seen: _Seen, revision: Revision) -> bytes:
    if memoryview(seen.structured).nbytes and bytes(memoryview(seen.structured)[:1]) != b"{":
        # Old clients validate it as an object; the text content says the same.
        data = remove(data, "structuredContent")
    if not has(revision, Feature.RESOURCE_LINK):
        older = older_content(seen.content, revision)
        if older is not None:
            data = splice(data, {"content": older})
    return data


def _prompt_result(data: bytes, _seen: _Seen, revision: Revision) -> bytes:
    if has(revision, Feature.RESOURCE_LINK):
        return data
    messages: list[bytes] = []
    for message in _items(data, "messages"):
        content = pick(message, "content").get("content")
        older = None if content is None else older_content(content, revision)
        messages.append(bytes(message) if older is None else splice(message, {"content": older}))
    return splice(data, {"messages": _array(messages)})


def _tool_list(data: bytes, _seen: _Seen, revision: Revision) -> bytes:
    if b'"outputSchema"' not in data and b"\\u" not in data:
        return data
    keep_objects = has(revision, Feature.STRUCTURED_CONTENT)
    tools: list[bytes] = []
    for tool in _items(data, "tools"):
        schema = pick(tool, "outputSchema").get("outputSchema")
        if schema is None or (keep_objects and _has_object_root(schema)):
            tools.append(bytes(tool))
        else:
            tools.append(remove(tool, "outputSchema"))
    return splice(data, {"tools": _array(tools)})


def _has_object_root(schema: msgspec.Raw) -> bool:
    if bytes(memoryview(schema)[:1]) != b"{":
        return False
    kind = pick(schema, "type").get("type")
    return kind is not None and bytes(kind) == b'"object"'


def _items(data: bytes, name: str) -> list[msgspec.Raw]:
    raw = pick(data, name).get(name)
    try:
        return [] if raw is None else _raws.decode(raw)
    except msgspec.DecodeError:
        raise _inexpressible(f"member {name} of the result is not an array") from None


def _array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


_CONVERTERS = {
    "tools/call": _tool_result,
    "prompts/get": _prompt_result,
    "tools/list": _tool_list,
}


def flatten(result: bytes, structured: bytes | msgspec.Raw) -> bytes:
    """Add the keys of an object ``structured`` to a result; members it already has win.

    Args:
        result: a JSON object.
        structured: its ``structuredContent``; anything but an object adds nothing, and so does
            one with more members than any reader takes, or one whose second copy would make the
            message larger than an edge gives.
    """
    if bytes(memoryview(structured)[:1]) != b"{":
        return result
    if len(result) + memoryview(structured).nbytes > RESULT_BYTES_MAX:
        return result
    try:
        own = {str(key) for key in pairs(result)}
        # The last of two equal keys wins, as in every reader of structuredContent itself.
        flat = {str(key): value for key, value in pairs(structured).items() if str(key) not in own}
    except TooManyMembersError:
        return result
    if not flat:
        return result
    tail = b",".join(encode(name) + b":" + bytes(value) for name, value in flat.items())
    return result.rstrip()[:-1] + (b"," if own else b"") + tail + b"}"
