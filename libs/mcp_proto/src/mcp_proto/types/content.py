"""Content blocks of tool results, prompts and sampling messages."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta

__all__ = [
    "Annotations",
    "AudioContent",
    "EmbeddedResource",
    "ImageContent",
    "ResourceLink",
    "TextContent",
    "ToolResultContent",
    "ToolUseContent",
]


class Annotations(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Hints for whoever shows a block: ``audience`` of ``user`` and ``assistant``."""

    audience: tuple[str, ...] | None = None
    priority: float | None = None
    last_modified: str | None = None


class _Block(WithMeta, frozen=True, kw_only=True, rename="camel"):
    annotations: msgspec.Raw = ABSENT


class TextContent(_Block, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """Plain text."""

    text: str


class ImageContent(_Block, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image; ``data`` is base64."""

    data: str
    mime_type: str


class AudioContent(_Block, frozen=True, kw_only=True, tag_field="type", tag="audio"):
    """Sound; ``data`` is base64. Since 2025-03-26."""

    data: str
    mime_type: str


class EmbeddedResource(_Block, frozen=True, kw_only=True, tag_field="type", tag="resource"):
    """A resource inside a result; ``resource`` is ``TextContents`` or ``BlobContents``."""

    resource: msgspec.Raw


class ResourceLink(_Block, frozen=True, kw_only=True, tag_field="type", tag="resource_link"):
    """A resource the client may read itself. Since 2025-06-18."""

    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    icons: msgspec.Raw = ABSENT


class ToolUseContent(WithMeta, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A model's wish to use a tool, in sampling. Since 2025-11-25."""

    id: str
    name: str
    input: msgspec.Raw


class ToolResultContent(WithMeta, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    """What the tool said, in sampling. Since 2025-11-25."""

    tool_use_id: str
    content: msgspec.Raw = ABSENT
    structured_content: msgspec.Raw = ABSENT
    is_error: bool | None = None
