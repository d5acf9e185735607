"""Resources inside results, under the URIs that the client's endpoint lists.

Where two servers have one URI, or a virtual server shows another, a link that a tool or prompt
gives back would lead nowhere, or to somebody else's resource. Only servers with such a URI pay.
"""

from collections.abc import Callable, Mapping

import msgspec

from gateway.core.routing import Item
from mcp_proto.errors import MeshError
from mcp_proto.members import pick, splice

__all__ = ["COMPLETION_VALUES_MAX", "bounded_completion", "relinked", "relinked_prompt", "relisted"]

COMPLETION_VALUES_MAX = 100
"""Values in one answer to ``completion/complete``: the protocol's own bound."""

_MARK = b'"resource'
"""In every content block of type ``resource`` and ``resource_link``."""


class _Block(msgspec.Struct):
    type: str = ""
    uri: str = ""
    resource: msgspec.Raw = msgspec.Raw(b"")


class _Resource(msgspec.Struct):
    uri: str = ""


class _Message(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"")


_Change = Callable[[msgspec.Raw, Mapping[str, str]], bytes]

_BLOCK = msgspec.json.Decoder(_Block)
_URI = msgspec.json.Decoder(_Resource)
_MESSAGE = msgspec.json.Decoder(_Message)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def relinked(result: bytes, listed: Mapping[str, str]) -> bytes:
    """A result of ``tools/call`` or ``prompts/get`` with URIs as they are listed.

    Args:
        result: JSON object.
        listed: the server's own URIs that are listed under another → that one.

    Returns:
        The same bytes where there is nothing to change, or nothing that can be read.
    """
    if _MARK not in result:
        return result
    try:
        found = pick(result, "content", "messages")
        changed: dict[str, bytes] = {}
        if "content" in found:
            changed["content"] = _each(found["content"], listed, _block)
        if "messages" in found:
            changed["messages"] = _each(found["messages"], listed, _message)
        same = all(changed[name] == bytes(found[name]) for name in changed)
        return result if same else splice(result, changed)
    except (MeshError, msgspec.DecodeError, UnicodeDecodeError):
        return result


relinked_prompt = relinked
"""The same for ``prompts/get``, whose messages hold the blocks."""


def relisted(result: bytes, resource: Item) -> bytes:
    """A result of ``resources/read``: ``contents[].uri`` as the client asked for it."""
    try:
        raw = pick(result, "contents").get("contents")
        if raw is None:
            return result
        made = _each(raw, {resource.name: resource.listed}, _contents)
        return splice(result, {"contents": made})
    except (MeshError, msgspec.DecodeError, UnicodeDecodeError):
        return result


def _contents(raw: msgspec.Raw, listed: Mapping[str, str]) -> bytes:
    uri = _URI.decode(raw).uri
    if uri not in listed:
        return bytes(raw)
    return splice(raw, {"uri": msgspec.json.encode(listed[uri])})


def bounded_completion(result: bytes) -> bytes:
    """A result of ``completion/complete`` with no more values than the protocol allows."""
    try:
        raw = pick(result, "completion").get("completion")
        if raw is None:
            return result
        values = _LIST.decode(pick(raw, "values").get("values", b"[]"))
        if len(values) <= COMPLETION_VALUES_MAX:
            return result
        kept = b",".join(bytes(one) for one in values[:COMPLETION_VALUES_MAX])
        bounded = splice(raw, {"values": b"[" + kept + b"]", "hasMore": b"true"})
        return splice(result, {"completion": bounded})
    except (MeshError, msgspec.DecodeError, UnicodeDecodeError):
        return result


def _each(raw: msgspec.Raw, listed: Mapping[str, str], change: _Change) -> bytes:
    entries = _LIST.decode(raw)
    made = [change(one, listed) for one in entries]
    if all(new == bytes(old) for new, old in zip(made, entries, strict=True)):
        return bytes(raw)
    return b"[" + b",".join(made) + b"]"


def _message(raw: msgspec.Raw, listed: Mapping[str, str]) -> bytes:
    content = _MESSAGE.decode(raw).content
    if bytes(content).startswith(b"["):
        made = _each(content, listed, _block)
    else:
        made = _block(content, listed)
    return bytes(raw) if made == bytes(content) else splice(raw, {"content": made})


def _block(raw: msgspec.Raw, listed: Mapping[str, str]) -> bytes:
    block = _BLOCK.decode(raw)
    if block.type == "resource_link" and block.uri in listed:
        return splice(raw, {"uri": msgspec.json.encode(listed[block.uri])})
    if block.type == "resource" and bytes(block.resource):
        uri = _URI.decode(block.resource).uri
        if uri in listed:
            inner = splice(block.resource, {"uri": msgspec.json.encode(listed[uri])})
            return splice(raw, {"resource": inner})
    return bytes(raw)
