"""What a client gives back: the usual members decoded, and the whole kept as it came."""

from typing import Any, TypeAlias

import msgspec

from mcp_proto.errors import ErrorKind, Outcome
from mcp_proto.jsonrpc import Notification
from mcp_proto.types.content import (
    AudioContent,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)
from mesh_sdk.client.errors import MeshCallError

__all__ = [
    "Completion",
    "Content",
    "Event",
    "ListChanged",
    "LogMessage",
    "Progress",
    "PromptInfo",
    "PromptResult",
    "ResourceContents",
    "ResourceInfo",
    "ResourceUpdated",
    "ToolInfo",
    "ToolResult",
    "decoded",
    "event_of",
]

Content: TypeAlias = (
    TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink | dict[str, Any]
)
"""One block; a kind that is not known here stays a dict."""

_KNOWN = msgspec.json.Decoder(
    TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink
)
_ANY = msgspec.json.Decoder()
_NOTHING = msgspec.Raw(b"")


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool answered.

    Attributes:
        content: blocks for people and models.
        structured: the same as data, where the tool gives it; None otherwise.
        is_error: the tool itself says that it failed; ``text`` tells why.
        meta: ``_meta`` of the result.
        raw: the whole result, as it came.
    """

    content: tuple[Content, ...]
    structured: Any = None
    is_error: bool = False
    meta: dict[str, Any] = {}
    raw: bytes = b""

    @property
    def text(self) -> str:
        """All text blocks, one below the other."""
        return "\n".join(one.text for one in self.content if isinstance(one, TextContent))


class ToolInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A tool in a list; schemas are JSON Schema 2020-12."""

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] | bool | None = None
    annotations: dict[str, Any] | None = None
    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)


class ResourceInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A resource, or a template of resources, in a list; of ``uri`` and ``uri_template`` one."""

    name: str
    uri: str = ""
    uri_template: str = ""
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    annotations: dict[str, Any] | None = None
    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)


class ResourceContents(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One part of a resource: ``text``, or ``blob`` in base64."""

    uri: str
    mime_type: str | None = None
    text: str | None = None
    blob: str | None = None
    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)


class PromptInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A prompt in a list; ``arguments`` are ``{"name", "description", "required"}``."""

    name: str
    title: str | None = None
    description: str | None = None
    arguments: tuple[dict[str, Any], ...] | None = None
    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)


class PromptMessage(msgspec.Struct, frozen=True):
    """``role``: ``user`` or ``assistant``."""

    role: str
    content: dict[str, Any]


class PromptResult(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt filled in."""

    messages: tuple[PromptMessage, ...]
    description: str | None = None
    raw: bytes = b""


class Completion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Values for an argument; ``total`` may exceed what is here."""

    values: tuple[str, ...]
    total: int | None = None
    has_more: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a call is. ``progress`` only grows; ``total`` None = not known."""

    progress: float
    total: float | None = None
    message: str | None = None


class LogMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What the server logged about a call; ``data`` is any JSON value."""

    level: str
    data: Any = None
    logger: str | None = None


class ResourceUpdated(msgspec.Struct, frozen=True):
    """A resource that is subscribed to has changed: read it again."""

    uri: str


class ListChanged(msgspec.Struct, frozen=True):
    """A list has changed: ``tools``, ``prompts`` or ``resources``."""

    what: str


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """A notification of another kind."""

    method: str
    params: Any = None


Event: TypeAlias = Progress | LogMessage | ResourceUpdated | ListChanged | Other
"""What is heard beside the answer of a request."""


def decoded(raw: bytes | msgspec.Raw, kind: type[Any]) -> Any:
    """A result as a Struct.

    Raises:
        MeshCallError: ``upstream``, executed: it has another shape; the text names the member.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MeshCallError(
            ErrorKind.UPSTREAM, f"the result has another shape: {error}", outcome=Outcome.EXECUTED
        ) from None


class _ToolResult(msgspec.Struct, rename="camel"):
    content: tuple[msgspec.Raw, ...] = ()
    structured_content: Any = None
    is_error: bool | None = None
    meta: dict[str, Any] | None = msgspec.field(name="_meta", default=None)


def tool_result(raw: msgspec.Raw) -> ToolResult:
    """The result of ``tools/call``.

    Raises:
        MeshCallError: ``upstream``, executed.
    """
    found: _ToolResult = decoded(raw, _ToolResult)
    return ToolResult(
        content=tuple(_block(one) for one in found.content),
        structured=found.structured_content,
        is_error=bool(found.is_error),
        meta=found.meta or {},
        raw=bytes(raw),
    )


def _block(raw: msgspec.Raw) -> Content:
    try:
        return _KNOWN.decode(raw)
    except msgspec.DecodeError:
        value: Any = decoded(raw, object)
        return value if isinstance(value, dict) else {"value": value}


class _LogParams(msgspec.Struct):
    level: str = "info"
    data: Any = None
    logger: str | None = None


class _Uri(msgspec.Struct):
    uri: str = ""


def event_of(note: Notification) -> Event | None:
    """What a notification says; None when it cannot be read."""
    data = note.params if bytes(note.params) else msgspec.Raw(b"{}")
    try:
        match note.method:
            case "notifications/progress":
                return msgspec.json.decode(data, type=Progress)
            case "notifications/message":
                log = msgspec.json.decode(data, type=_LogParams)
                return LogMessage(level=log.level, data=log.data, logger=log.logger)
            case "notifications/resources/updated":
                return ResourceUpdated(msgspec.json.decode(data, type=_Uri).uri)
            case method if method.endswith("/list_changed"):
                return ListChanged(method.split("/")[1])
            case _:
                return Other(method=note.method, params=_ANY.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
