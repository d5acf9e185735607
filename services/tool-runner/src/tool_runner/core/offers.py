"""What of an upstream's lists can be listed on: names that subjects can carry, bounded schemas."""

import msgspec

from mcp_proto.codec import decode_as
from mcp_proto.contracts.registry import CatalogTool
from mcp_proto.errors import MeshError
from mcp_proto.limits import NAME_CHARS_MAX, SUBJECT_BYTES_MAX, TOOLS_PER_TENANT_MAX
from mcp_proto.subjects import encode_token

__all__ = ["TOOL_BYTES_MAX", "ListPage", "read_page", "tools_of", "ttl_ms"]

TOOL_BYTES_MAX = 128 * 1024
"""Largest definition of one tool: 64 KiB of schema and room for the rest."""
_TOKEN_CHARS_MAX = SUBJECT_BYTES_MAX - 128  # the subject also carries tenant, kind and server


_TTL_MAX_MS = 24 * 3600 * 1000


class ListPage(msgspec.Struct, frozen=True):
    """One page of a list. ``cursor`` None = the last; ``ttl_ms`` None = without a hint."""

    items: tuple[msgspec.Raw, ...]
    cursor: str | None
    ttl_ms: int | None = None


class _Cursor(msgspec.Struct, frozen=True):
    next_cursor: str | None = msgspec.field(default=None, name="nextCursor")


class _Named(msgspec.Struct, frozen=True):
    name: str


def read_page(result: msgspec.Raw, member: str) -> ListPage | None:
    """A page of ``member`` (``tools``, ``resources``, …); None when the result is malformed."""
    try:
        cursor = decode_as(result, _Cursor).next_cursor
        members = decode_as(result, dict[str, msgspec.Raw])
        items = decode_as(members.get(member, b"[]"), tuple[msgspec.Raw, ...])
    except MeshError:
        return None
    return ListPage(items, cursor, ttl_ms(members.get("ttlMs")))


def ttl_ms(raw: msgspec.Raw | None) -> int | None:
    """How long a server lets an answer be kept; None when it does not say so in a number."""
    digits = b"" if raw is None else bytes(raw)
    return min(int(digits), _TTL_MAX_MS) if digits.isdigit() and len(digits) < 20 else None


def tools_of(items: list[msgspec.Raw]) -> tuple[tuple[CatalogTool, ...], list[str]]:
    """Catalogue entries of tools, in order, and why each of the others was left out."""
    kept: dict[str, CatalogTool] = {}
    problems: list[str] = []
    for item in items:
        try:
            name = decode_as(item, _Named).name
            token = encode_token(name)
        except (MeshError, ValueError):
            problems.append("a tool without a usable name")
            continue
        shown = repr(name[:64])
        if len(name) > NAME_CHARS_MAX or len(token) > _TOKEN_CHARS_MAX:
            problems.append(f"tool {shown}: its name is too long")
        elif len(bytes(item)) > TOOL_BYTES_MAX:
            problems.append(f"tool {shown}: its definition exceeds {TOOL_BYTES_MAX} bytes")
        elif name in kept:
            problems.append(f"tool {shown}: listed twice")
        elif len(kept) >= TOOLS_PER_TENANT_MAX:
            problems.append(f"tool {shown}: over {TOOLS_PER_TENANT_MAX} tools")
        else:
            kept[name] = CatalogTool(name=name, definition=item)
    return tuple(kept.values()), problems
