"""Resources: lists, templates, contents, subscriptions of the legacy era."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import CacheHints, ListResult

__all__ = [
    "BlobContents",
    "ListResourceTemplatesResult",
    "ListResourcesResult",
    "ReadResourceParams",
    "ReadResourceResult",
    "Resource",
    "ResourceTemplate",
    "ResourceUpdatedParams",
    "SubscribeParams",
    "TextContents",
]


class Resource(WithMeta, frozen=True, kw_only=True):
    """A resource in a list; ``size`` is the raw content's in bytes."""

    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    icons: msgspec.Raw = ABSENT
    annotations: msgspec.Raw = ABSENT


class ResourceTemplate(WithMeta, frozen=True, kw_only=True):
    """A family of resources; ``uri_template`` is RFC 6570."""

    uri_template: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    icons: msgspec.Raw = ABSENT
    annotations: msgspec.Raw = ABSENT


class ListResourcesResult(ListResult, frozen=True, kw_only=True):
    """Result of ``resources/list``; items are ``Resource`` objects."""

    resources: tuple[msgspec.Raw, ...]


class ListResourceTemplatesResult(ListResult, frozen=True, kw_only=True):
    """Result of ``resources/templates/list``; items are ``ResourceTemplate`` objects."""

    resource_templates: tuple[msgspec.Raw, ...]


class ReadResourceParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``resources/read``; the last two only on a retry with input (modern)."""

    uri: str
    input_responses: msgspec.Raw = ABSENT
    request_state: str | None = None


class TextContents(WithMeta, frozen=True, kw_only=True):
    """Text of a resource."""

    uri: str
    mime_type: str | None = None
    text: str


class BlobContents(WithMeta, frozen=True, kw_only=True):
    """Bytes of a resource; ``blob`` is base64."""

    uri: str
    mime_type: str | None = None
    blob: str


class ReadResourceResult(CacheHints, frozen=True, kw_only=True):
    """Result of ``resources/read``; items are ``TextContents`` or ``BlobContents``."""

    contents: tuple[msgspec.Raw, ...]


class SubscribeParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``resources/subscribe`` and ``resources/unsubscribe`` (legacy)."""

    uri: str


class ResourceUpdatedParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/resources/updated``."""

    uri: str
