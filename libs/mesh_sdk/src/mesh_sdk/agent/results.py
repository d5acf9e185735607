"""From what a handler returns to the result of its call, as bytes."""

import base64
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from mcp_proto.codec import encode as encode_plain
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.types.content import (
    AudioContent,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)
from mcp_proto.types.prompts import PromptMessage
from mesh_sdk.agent.models import encode

__all__ = ["Audio", "Content", "Image", "failed", "messages", "resource", "tool_result"]

Content = TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink
_BLOCKS = (TextContent, ImageContent, AudioContent, EmbeddedResource, ResourceLink)


def Image(data: bytes, mime_type: str = "image/png") -> ImageContent:  # noqa: N802 - reads as a type
    """An image as a content block."""
    return ImageContent(data=base64.b64encode(data).decode(), mime_type=mime_type)


def Audio(data: bytes, mime_type: str = "audio/wav") -> AudioContent:  # noqa: N802 - reads as a type
    """Sound as a content block."""
    return AudioContent(data=base64.b64encode(data).decode(), mime_type=mime_type)


def tool_result(value: object, *, structured: bool) -> bytes:
    """Result of ``tools/call``.

    An object becomes ``structuredContent`` and, for old clients, its text; text and content
    blocks are themselves; any other value is its JSON text.

    Args:
        value: what the handler returned.
        structured: an output schema is listed, so the value must be an object.

    Raises:
        TypeError: it has no JSON form, or is no object where one was promised.
    """
    if isinstance(value, str):
        _unpromised(value, structured=structured)
        return _content(encode_plain(value))
    if value is None or _is_blocks(value):
        _unpromised(value, structured=structured)
        return COMPLETE_HEAD + b'"content":' + _blocks(value) + b"}"
    data = encode(value)
    text = encode_plain(data.decode())
    if data[:1] != b"{":
        _unpromised(value, structured=structured)
        return _content(text)
    return b'%b"content":[{"type":"text","text":%b}],"structuredContent":%b}' % (
        COMPLETE_HEAD,
        text,
        data,
    )


def failed(text: str) -> bytes:
    """A tool error: the call worked, what it asked for did not."""
    return b'%b"content":[{"type":"text","text":%b}],"isError":true}' % (
        COMPLETE_HEAD,
        encode_plain(text),
    )


def _content(text: bytes) -> bytes:
    return b'%b"content":[{"type":"text","text":%b}]}' % (COMPLETE_HEAD, text)


def _unpromised(value: object, *, structured: bool) -> None:
    if structured:
        raise TypeError(f"an object was promised, and the handler returned {type(value).__name__}")


def _is_blocks(value: object) -> bool:
    if isinstance(value, _BLOCKS):
        return True
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(one, _BLOCKS) for one in cast("Sequence[object]", value))


def _blocks(value: object) -> bytes:
    if value is None:
        return b"[]"
    return encode([value] if isinstance(value, _BLOCKS) else value)


def resource(uri: str, value: object, mime_type: str) -> bytes:
    """Result of ``resources/read``: text, bytes, or anything else as JSON."""
    members: dict[str, object] = {"uri": uri}
    if isinstance(value, bytes):
        members["mimeType"] = mime_type or "application/octet-stream"
        members["blob"] = base64.b64encode(value).decode()
    elif isinstance(value, str):
        members["mimeType"] = mime_type or "text/plain"
        members["text"] = value
    else:
        members["mimeType"] = mime_type or "application/json"
        members["text"] = encode(value).decode()
    return b'%b"contents":[%b],"ttlMs":0,"cacheScope":"private"}' % (
        COMPLETE_HEAD,
        encode_plain(members),
    )


def messages(value: object, description: str) -> bytes:
    """Result of ``prompts/get``: text, a message, or a list of either.

    A message is ``PromptMessage``, ``(role, text)``, or text, which the user says.

    Raises:
        TypeError: it is none of these.
    """
    several = isinstance(value, list)
    listed = cast("list[object]", value) if several else [value]
    made: dict[str, Any] = {"messages": [_message(one) for one in listed]}
    if description:
        made = {"description": description, **made}
    return COMPLETE_HEAD + encode(made)[1:]


def _message(value: object) -> object:
    match value:
        case PromptMessage():
            return value
        case str():
            return _said("user", TextContent(text=value))
        case (str() as role, str() as text):
            return _said(role, TextContent(text=text))
        case (str() as role, block) if isinstance(block, _BLOCKS):
            return _said(role, block)
        case dict():
            return cast("dict[str, object]", value)
        case _:
            raise TypeError(f"a prompt gives text or messages, not {type(value).__name__}")


def _said(role: str, block: object) -> PromptMessage:
    return PromptMessage(role=role, content=msgspec.Raw(encode(block)))
