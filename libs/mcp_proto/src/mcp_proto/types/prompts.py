"""Prompts: list and get."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import ListResult, Result

__all__ = [
    "GetPromptParams",
    "GetPromptResult",
    "ListPromptsResult",
    "Prompt",
    "PromptArgument",
    "PromptMessage",
]


class PromptArgument(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One argument a prompt takes."""

    name: str
    title: str | None = None
    description: str | None = None
    required: bool | None = None


class Prompt(WithMeta, frozen=True, kw_only=True):
    """A prompt in a list."""

    name: str
    title: str | None = None
    description: str | None = None
    arguments: tuple[PromptArgument, ...] | None = None
    icons: msgspec.Raw = ABSENT


class ListPromptsResult(ListResult, frozen=True, kw_only=True):
    """Result of ``prompts/list``; items are ``Prompt`` objects."""

    prompts: tuple[msgspec.Raw, ...]


class GetPromptParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``prompts/get``; the last two only on a retry with input (modern)."""

    name: str
    arguments: dict[str, str] | None = None
    input_responses: msgspec.Raw = ABSENT
    request_state: str | None = None


class PromptMessage(msgspec.Struct, frozen=True, kw_only=True):
    """``role``: ``user`` or ``assistant``; ``content`` is one content block."""

    role: str
    content: msgspec.Raw


class GetPromptResult(Result, frozen=True, kw_only=True):
    """Result of ``prompts/get``."""

    description: str | None = None
    messages: tuple[PromptMessage, ...]
