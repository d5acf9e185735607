"""``completion/complete``: values for an argument of a prompt or a resource template."""

import msgspec

from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import Result

__all__ = [
    "VALUES_MAX",
    "Argument",
    "CompleteParams",
    "CompleteResult",
    "Completion",
    "Context",
    "PromptReference",
    "ResourceReference",
]

VALUES_MAX = 100
"""Values one answer may hold (MCP)."""


class PromptReference(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="ref/prompt",
    omit_defaults=True,
):
    """Names a prompt."""

    name: str
    title: str | None = None


class ResourceReference(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ref/resource"
):
    """Names a resource or template by URI."""

    uri: str


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """The argument to complete and what has been typed."""

    name: str
    value: str


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Arguments already chosen. Since 2025-06-18."""

    arguments: dict[str, str] | None = None


class CompleteParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``completion/complete``."""

    ref: PromptReference | ResourceReference
    argument: Argument
    context: Context | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Values found; ``total`` may exceed what is sent."""

    values: tuple[str, ...]
    total: int | None = None
    has_more: bool | None = None


class CompleteResult(Result, frozen=True, kw_only=True):
    """Result of ``completion/complete``."""

    completion: Completion
