"""``Mcp-Param-*``: arguments that a tool's schema mirrors into HTTP headers, checked at the rim.

Only tools whose schema carries ``x-mcp-header`` pay for it; for all others arguments stay bytes.
Rules: MCP 2026-07-28, "Streamable HTTP", custom headers from tool parameters.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.header_values import decode_value

__all__ = ["PREFIX", "ParamHeader", "check", "param_headers"]

PREFIX = "mcp-param-"
SCHEMA_DEPTH_MAX = 16
"""Nesting of ``properties`` searched for annotations; deeper ones are not mirrored by anyone."""

_MARK = b'"x-mcp-header"'
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TYPES = frozenset({"string", "integer", "boolean"})


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
    if _MARK not in bytes(definition):
        return ()
    try:
        schema: Any = msgspec.json.decode(definition).get("inputSchema")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        return ()
    found: list[ParamHeader] = []
    if not _collect(schema, (), found):
        return ()
    names = {one.header for one in found}
    return tuple(found) if len(names) == len(found) else ()


def _collect(schema: Any, path: tuple[str, ...], found: list[ParamHeader]) -> bool:
    if not isinstance(schema, dict) or len(path) > SCHEMA_DEPTH_MAX:
        return True
    properties: Any = schema.get("properties")
    if not isinstance(properties, dict):
        return True
    for name, inner in properties.items():
        if not isinstance(inner, dict):
            continue
        mark: Any = inner.get("x-mcp-header")
        if mark is not None:
            valid = isinstance(mark, str) and _TOKEN.fullmatch(mark) and inner.get("type") in _TYPES
            if not valid:
                return False
            found.append(ParamHeader(PREFIX + mark.lower(), (*path, name), inner["type"]))
        if not _collect(inner, (*path, name), found):
            return False
    return True


def check(
    rules: tuple[ParamHeader, ...], arguments: msgspec.Raw | bytes, headers: Mapping[str, str]
) -> None:
    """Compare headers with arguments.

    Args:
        rules: annotations of the tool.
        arguments: JSON object, b"" when absent.
        headers: ``mcp-param-*`` headers, lower-case names, stripped values.

    Raises:
        MeshError: ``header_mismatch`` naming the header.
    """
    values: Any = {}
    if bytes(arguments):
        try:
            values = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            values = {}
    for rule in rules:
        value: Any = values
        for step in rule.path:
            value = value.get(step) if isinstance(value, dict) else None
        if not _agrees(headers.get(rule.header), value):
            raise MeshError(
                ErrorKind.HEADER_MISMATCH, f"header {rule.header} does not match the argument"
            )


def _agrees(header: str | None, value: Any) -> bool:
    if value is None or header is None:
        return value is None and header is None
    try:
        text = decode_value(header)
    except ValueError:
        return False
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, int | float):
        try:
            return float(text) == float(value)
        except (ValueError, OverflowError):
            return False
    return isinstance(value, str) and text == value
