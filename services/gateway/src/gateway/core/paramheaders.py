"""``Mcp-Param-*``: arguments that a tool's schema mirrors into HTTP headers, checked at the rim.

Which arguments those are is read by ``mcp_proto.param_headers``, as for upstream servers.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.header_values import decode_value
from mcp_proto.param_headers import PREFIX, ParamHeader, param_headers

__all__ = ["PREFIX", "ParamHeader", "check", "param_headers"]


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
