"""Pieces of JSON Schema that the toolsets share, and their answer to a full quota."""

from typing import Any

from mcp_proto.errors import MeshError
from tool_runner.core.toolbox import ToolResult, failure
from tool_runner.drivers.storage import is_full

__all__ = [
    "CURSOR",
    "CURSOR_CHARS_MAX",
    "LIST_DEFAULT",
    "LIST_MAX",
    "full_or_raise",
    "limit",
    "obj",
]

LIST_MAX = 1000
LIST_DEFAULT = 100
CURSOR_CHARS_MAX = 3072

CURSOR = {
    "type": "string",
    "maxLength": CURSOR_CHARS_MAX,
    "description": "From the last answer, to go on behind it.",
}


def obj(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def limit(most: int = LIST_MAX, usual: int = LIST_DEFAULT) -> dict[str, Any]:
    """How many at most."""
    return {"type": "integer", "minimum": 1, "maximum": most, "default": usual}


def full_or_raise(error: MeshError) -> ToolResult:
    """A full quota is something that a model can act on; any other error goes on as it is."""
    if not is_full(error):
        raise error
    text = error.message
    return failure(f"{text[:1].upper()}{text[1:]}.")
