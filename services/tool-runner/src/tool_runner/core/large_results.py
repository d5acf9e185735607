"""Which parts of a result are too large for an edge, and what stands in their place.

Decided per content item: the largest go first until the rest fits, so a short text beside a large
file stays readable. What is stored is the value itself, not its JSON: text as UTF-8, base64 as
the bytes it stands for, ``structuredContent`` as JSON. Content goes before ``structuredContent``,
because a tool with an output schema has promised the latter and strict clients insist on it.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.members import pick, remove, splice
from mcp_proto.names import RESULTS_PREFIX

__all__ = [
    "TEMPLATE",
    "Part",
    "Plan",
    "Range",
    "Stored",
    "fitted",
    "parts_of",
    "range_of",
    "too_large",
    "uri_of",
]

TEMPLATE = RESULTS_PREFIX + "{id}{?offset,length}"
PARTS_MAX = 16
"""Items stored one by one; where more would have to go, the whole array is stored as JSON."""
LINK_BYTES = 2_048
"""Room for what takes the place of a part."""
PIECE_BYTES = 4 * 1024 * 1024
"""Suggested length of a range: 5.3 MiB as base64."""

_TEXT, _JSON, _BINARY = "text/plain; charset=utf-8", "application/json", "application/octet-stream"
_URI = re.compile(r"mesh://results/([A-Za-z0-9_]{1,64})(?:\?([a-z0-9=&]*))?")
_NUMBER = re.compile(r"[0-9]{1,12}")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Something to store.

    Attributes:
        place: position among the blocks; -1 = all of them, -2 = ``structuredContent``.
        body: the bytes.
        mime_type: of them.
        name: file name for a person.
    """

    place: int
    body: bytes
    mime_type: str
    name: str


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A part that was stored."""

    uri: str
    size: int
    sha256: str
    expires: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to store of a result; ``structured`` = its ``structuredContent`` goes."""

    parts: tuple[Part, ...]
    structured: bool


class Range(msgspec.Struct, frozen=True):
    """What a URI asks for; ``offset`` None = the whole, ``length`` None = as much as fits."""

    result: str
    offset: int | None
    length: int | None


class _Block(msgspec.Struct, rename="camel"):
    type: str = ""
    text: str | None = None
    data: str | None = None
    blob: str | None = None
    mime_type: str | None = None
    resource: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_block = msgspec.json.Decoder(_Block)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

ALL, STRUCTURED = -1, -2


def uri_of(result: str) -> str:
    """URI of a stored result."""
    return RESULTS_PREFIX + result


def range_of(uri: str) -> Range | None:
    """What a URI of a stored result asks for; None when it is none."""
    match = _URI.fullmatch(uri)
    if match is None:
        return None
    given: dict[str, int] = {}
    for pair in match[2].split("&") if match[2] else ():
        name, _, value = pair.partition("=")
        if name not in {"offset", "length"} or name in given or not _NUMBER.fullmatch(value):
            return None
        given[name] = int(value)
    offset, length = given.get("offset"), given.get("length")
    if length is not None and offset is None:
        offset = 0
    return Range(match[1], offset, length)


def too_large(what: str, size: int, **data: object) -> MeshError:
    """The error for what can neither be delivered nor stored; the call itself has run."""
    return MeshError(
        ErrorKind.TOO_LARGE, what, data={"size": size, **data}, outcome=Outcome.EXECUTED
    )


def _blocks(method: str, result: bytes) -> list[msgspec.Raw]:
    """The content blocks of a result, in order."""
    try:
        if method == "tools/call":
            return _raws.decode(pick(result, "content").get("content", msgspec.Raw(b"[]")))
        if method == "prompts/get":
            messages = _raws.decode(pick(result, "messages").get("messages", msgspec.Raw(b"[]")))
            empty = msgspec.Raw(b"{}")
            return [pick(one, "content").get("content", empty) for one in messages]
        if method == "resources/read":
            return _raws.decode(pick(result, "contents").get("contents", msgspec.Raw(b"[]")))
    except (*_UNREADABLE, MeshError):
        pass
    return []


def parts_of(method: str, result: bytes, limit: int) -> Plan:
    """What has to be stored so that the rest of a result has at most ``limit`` bytes.

    Raises:
        MeshError: ``too_large``, executed, when that cannot be done.
    """
    blocks = _blocks(method, result)
    left = len(result)
    structured = b""
    if method == "tools/call":
        structured = bytes(pick(result, "structuredContent").get("structuredContent", b""))
    chosen: list[int] = []
    for place in sorted(range(len(blocks)), key=lambda at: -memoryview(blocks[at]).nbytes):
        size = memoryview(blocks[place]).nbytes
        if left <= limit or size <= LINK_BYTES:
            break
        chosen.append(place)
        left -= size - LINK_BYTES
    if len(chosen) > PARTS_MAX and method == "tools/call":
        content = bytes(pick(result, "content")["content"])
        left = len(result) - len(content) + LINK_BYTES
        parts = [Part(place=ALL, body=content, mime_type=_JSON, name="content.json")]
    else:
        parts = [_part(blocks[place], place) for place in sorted(chosen)]
    goes = left > limit and len(structured) > LINK_BYTES
    if goes:
        left -= len(structured) - LINK_BYTES
        if all(structured != part.body for part in parts):
            name = "structured-content.json"
            parts.append(Part(place=STRUCTURED, body=structured, mime_type=_JSON, name=name))
    if left > limit or len(parts) > PARTS_MAX + 1:
        raise too_large("the result is larger than can be delivered", len(result), limit=limit)
    return Plan(parts=tuple(parts), structured=goes)


def _part(raw: msgspec.Raw, place: int) -> Part:
    """The value of one block, as it was before it became JSON."""
    try:
        block = _block.decode(raw)
        if block.type == "resource" and block.resource is not msgspec.UNSET:
            block = _block.decode(block.resource)
        if block.text is not None:
            kind = block.mime_type or _TEXT
            return _named(place, block.text.encode("utf-8", "surrogatepass"), kind)
        data = block.data if block.data is not None else block.blob
        if data is not None:
            return _named(place, base64.b64decode(data, validate=True), block.mime_type or _BINARY)
    except (*_UNREADABLE, binascii.Error, ValueError):
        pass
    return _named(place, bytes(raw), _JSON)


def _named(place: int, body: bytes, kind: str) -> Part:
    return Part(place=place, body=body, mime_type=kind, name=f"content-{place + 1}")


def fitted(
    method: str, result: bytes, plan: Plan, stored: Mapping[int, Stored], *, promised: bool
) -> bytes:
    """The result with links in place of its large parts.

    Args:
        method: ``tools/call`` or ``prompts/get``.
        result: as the server gave it.
        plan: from ``parts_of``.
        stored: by ``Part.place``.
        promised: the tool has an output schema. Without its ``structuredContent`` the result is
            then marked as an error: strict clients would throw away anything else, links included.
    """
    links = {part.place: _link(part, stored[part.place]) for part in plan.parts}
    if method == "prompts/get":
        messages = _raws.decode(pick(result, "messages")["messages"])
        made = [
            splice(one, {"content": links[at]}) if at in links else bytes(one)
            for at, one in enumerate(messages)
        ]
        return splice(result, {"messages": _array(made)})
    blocks: list[bytes] = []
    if ALL not in links:
        blocks = [links.get(at, bytes(one)) for at, one in enumerate(_blocks("tools/call", result))]
    blocks += [links[place] for place in (ALL, STRUCTURED) if place in links]
    note = _note(plan.parts, stored, structured=plan.structured)
    blocks.insert(0, msgspec.json.encode({"type": "text", "text": note}))
    members = {"content": _array(blocks)}
    if plan.structured:
        result = remove(result, "structuredContent")
        if promised:
            members["isError"] = b"true"
    return splice(result, members)


def _array(items: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _note(parts: Sequence[Part], stored: Mapping[int, Stored], *, structured: bool) -> str:
    """For a model whose client shows it no links."""
    lines = [
        "The tool ran. What it returned is too large to be delivered inline and is stored:",
        *(
            f"- {stored[one.place].uri} ({one.mime_type}, {stored[one.place].size} bytes, "
            f"until {stored[one.place].expires})"
            for one in parts
        ),
        f"Read it with resources/read, in ranges: <uri>?offset=0&length={PIECE_BYTES}",
    ]
    if structured:
        lines.append("structuredContent was left out for its size.")
    return "\n".join(lines)


def _link(part: Part, stored: Stored) -> bytes:
    return msgspec.json.encode(
        {
            "type": "resource_link",
            "uri": stored.uri,
            "name": part.name,
            "description": (
                f"Stored result, {stored.size} bytes, sha256 {stored.sha256}, "
                f"until {stored.expires}. Ranges: {stored.uri}?offset=0&length={PIECE_BYTES}"
            ),
            "mimeType": part.mime_type,
            "size": stored.size,
            "_meta": {"mesh/sha256": stored.sha256, "mesh/expiresAt": stored.expires},
        }
    )
