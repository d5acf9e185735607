"""``x-mcp-header``: which arguments of a tool are mirrored into ``Mcp-Param-*`` headers.

Only tools whose schema carries the annotation pay for it; for all others arguments stay bytes.
Edges compare headers with arguments, upstream adapters write them.
Rules: MCP 2026-07-28, "Streamable HTTP", custom headers from tool parameters.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from mcp_proto.header_values import encode_value

__all__ = ["PREFIX", "ParamHeader", "param_headers", "read_annotations", "written_headers"]

PREFIX = "mcp-param-"
SCHEMA_DEPTH_MAX = 16
"""Nesting of ``properties`` searched for annotations; deeper ones are not mirrored by anyone."""

_MARK = "x-mcp-header"
_MARK_BYTES = b'"x-mcp-header"'
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TYPES = frozenset({"string", "integer", "boolean"})
_MAPS = ("patternProperties", "$defs", "definitions", "dependentSchemas")
_ONES = (
    "items",
    "additionalProperties",
    "additionalItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "contentSchema",
    "not",
    "if",
    "then",
    "else",
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")


class ParamHeader(msgspec.Struct, frozen=True):
    """One annotated argument: lower-case header name, path in the arguments, JSON type."""

    header: str
    path: tuple[str, ...]
    type: str


def param_headers(definition: msgspec.Raw | bytes) -> tuple[ParamHeader, ...]:
    """The annotated arguments of a tool; () for nearly every tool, without decoding it.

    A schema with one invalid annotation counts as having none: clients must drop such a tool,
    so what they send for it cannot be judged.
    """
    return read_annotations(definition) or ()


def read_annotations(definition: msgspec.Raw | bytes) -> tuple[ParamHeader, ...] | None:
    """The annotated arguments of a tool; None when one annotation is invalid.

    Valid is an RFC 9110 token, unique without regard to case, on a ``string``, ``integer`` or
    ``boolean`` property that is reached through ``properties`` alone.
    """
    if _MARK_BYTES not in bytes(definition):
        return ()
    try:
        schema: Any = msgspec.json.decode(definition).get("inputSchema")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return ()
    found: list[ParamHeader] = []
    if not _collect(schema, (), found, named=True):
        return None
    names = {one.header for one in found}
    return tuple(found) if len(names) == len(found) else None


def _collect(
    schema: Any, path: tuple[str, ...], found: list[ParamHeader], *, named: bool, depth: int = 0
) -> bool:
    """Gather annotations; False for an invalid one.

    ``named``: the schema is reached through ``properties`` alone.
    """
    if not isinstance(schema, dict) or depth > SCHEMA_DEPTH_MAX:
        return True
    if _MARK in schema:
        mark, kind = schema[_MARK], schema.get("type")
        valid = isinstance(mark, str) and _TOKEN.fullmatch(mark) is not None
        if not (valid and named and path and isinstance(kind, str) and kind in _TYPES):
            return False
        found.append(ParamHeader(PREFIX + mark.lower(), path, kind))
    properties: Any = schema.get("properties")
    if isinstance(properties, dict):
        for name, inner in properties.items():
            if not _collect(inner, (*path, name), found, named=named, depth=depth + 1):
                return False
    return all(
        _collect(inner, path, found, named=False, depth=depth + 1) for inner in _others(schema)
    )


def _others(schema: dict[str, Any]) -> list[Any]:
    """Subschemas of every keyword but ``properties``."""
    inner: list[Any] = [schema[name] for name in _ONES if isinstance(schema.get(name), dict)]
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            inner += schema[name]
    for name in _MAPS:
        if isinstance(schema.get(name), dict):
            inner += schema[name].values()
    return inner


def written_headers(
    rules: Iterable[ParamHeader], arguments: msgspec.Raw | bytes
) -> list[tuple[str, str]]:
    """Headers for a call, name and encoded value; none for an argument that is absent or null.

    Raises:
        ValueError: the arguments hold text that no header can carry (half surrogate pairs), or
            are nested too deep.
    """
    values: Any = {}
    if bytes(arguments):
        try:
            values = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError("arguments cannot be read") from None
    headers: list[tuple[str, str]] = []
    for rule in rules:
        value: Any = values
        for step in rule.path:
            value = value.get(step) if isinstance(value, dict) else None
        text = _text(value)
        if text is not None:
            headers.append((rule.header, encode_value(text)))
    return headers


def _text(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case str():
            return value
        case _:
            return None  # absent or null; of another type the server itself will complain
