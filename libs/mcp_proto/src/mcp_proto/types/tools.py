"""Tools: list and call."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import ListResult, Result

__all__ = [
    "CallToolParams",
    "CallToolResult",
    "ListToolsResult",
    "Tool",
    "ToolAnnotations",
    "ToolExecution",
]


class ToolAnnotations(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """Hints from the server about itself; an untrusted party's words. Since 2025-03-26."""

    title: str | None = None
    read_only_hint: bool | None = None
    destructive_hint: bool | None = None
    idempotent_hint: bool | None = None
    open_world_hint: bool | None = None


class ToolExecution(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``task_support``: ``forbidden``, ``optional`` or ``required`` (2025-11-25)."""

    task_support: str | None = None


class Tool(WithMeta, frozen=True, kw_only=True):
    """A tool in a list. Schemas are JSON Schema 2020-12, kept as the server wrote them."""

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw
    output_schema: msgspec.Raw = ABSENT
    annotations: ToolAnnotations | None = None
    execution: ToolExecution | None = None
    icons: msgspec.Raw = ABSENT


class ListToolsResult(ListResult, frozen=True, kw_only=True):
    """Result of ``tools/list``; items are ``Tool`` objects."""

    tools: tuple[msgspec.Raw, ...]


class CallToolParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``tools/call``.

    Attributes:
        name: tool name.
        arguments: an object; ``ABSENT`` = none.
        input_responses: answers to input requests, on a modern retry.
        request_state: the state that came with them, unchanged.
        task: core-task metadata (2025-11-25); ignored in the modern era.
    """

    name: str
    arguments: msgspec.Raw = ABSENT
    input_responses: msgspec.Raw = ABSENT
    request_state: str | None = None
    task: msgspec.Raw = ABSENT


class CallToolResult(Result, frozen=True, kw_only=True):
    """Result of ``tools/call``; items of ``content`` are content blocks."""

    content: tuple[msgspec.Raw, ...]
    structured_content: msgspec.Raw = ABSENT
    is_error: bool | None = None
