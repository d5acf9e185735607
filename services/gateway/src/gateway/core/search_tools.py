"""The three tools with which a client finds and calls tools that are not in its list.

They belong to the gateway itself (server name ``mesh``) and are another form of ``tools/list`` and
``tools/call``: they show what the caller may call and nothing else, so no rule is needed for them.
Here is what is listed; what they answer is in ``search_answers``.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from gateway.core.routing import Tool
from mcp_proto.names import MESH_SERVER

__all__ = [
    "CALL",
    "DEFINITIONS",
    "DESCRIBE",
    "DESCRIBE_MAX",
    "LIMIT_DEFAULT",
    "LIMIT_MAX",
    "NAMES",
    "QUERY_CHARS_MAX",
    "SEARCH",
    "SERVER",
    "ToolsMode",
    "hint",
    "tool_entries",
]

SERVER = MESH_SERVER
SEARCH, DESCRIBE, CALL = "tools_search", "tools_describe", "tools_call"
NAMES = frozenset((SEARCH, DESCRIBE, CALL))

LIMIT_DEFAULT = 5
LIMIT_MAX = 20
QUERY_CHARS_MAX = 1_000
DESCRIBE_MAX = 20

HINT = (
    "This endpoint does not list every tool. Find tools with tools_search (a few words about the "
    "task), read their input schemas with tools_describe, and call them with tools_call."
)


class ToolsMode(StrEnum):
    """What the tool list of an endpoint holds."""

    FULL = "full"
    """Every tool the caller may call, and not the three tools of this module."""
    SEARCH = "search"
    """The three tools and nothing else; every other tool is still callable by its name."""
    BOTH = "both"
    """Every tool, and the three."""


def _definition(name: str, title: str, text: str, schema: object, **members: object) -> bytes:
    annotations = {"title": title, "readOnlyHint": name != CALL, "openWorldHint": name == CALL}
    return msgspec.json.encode(
        {
            "name": name,
            "title": title,
            "description": text,
            "inputSchema": schema,
            **members,
            "annotations": annotations,
        }
    )


def _object(required: tuple[str, ...], **properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_NAME_SCHEMA = {"type": "string", "description": "As tools_search gives it."}
_STRING = {"type": "string"}

DEFINITIONS: dict[str, bytes] = {
    SEARCH: _definition(
        SEARCH,
        "Find tools",
        "Finds tools by what they do. Returns the best matches with name, server, a short "
        "description and required arguments. Say the task in a few words, such as "
        "'create github issue'. Then read the schema with tools_describe and call with tools_call.",
        _object(
            ("query",),
            query={
                "type": "string",
                "minLength": 1,
                "maxLength": QUERY_CHARS_MAX,
                "description": "A few words: what to do, and with what.",
            },
            limit={
                "type": "integer",
                "minimum": 1,
                "maximum": LIMIT_MAX,
                "default": LIMIT_DEFAULT,
            },
            server={"type": "string", "description": "Only tools of this server."},
        ),
        outputSchema={
            "type": "object",
            "properties": {
                "tools": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": _STRING,
                            "server": _STRING,
                            "description": _STRING,
                            "score": {"type": "number"},
                            "requiredArguments": {"type": "array", "items": _STRING},
                        },
                        "required": ["name", "server", "description", "score"],
                    },
                }
            },
            "required": ["tools"],
        },
    ),
    DESCRIBE: _definition(
        DESCRIBE,
        "Describe tools",
        "Returns the complete definitions of tools, with input schemas, as a tool list would.",
        _object(
            ("names",),
            names={
                "type": "array",
                "items": _NAME_SCHEMA,
                "minItems": 1,
                "maxItems": DESCRIBE_MAX,
            },
        ),
        outputSchema={
            "type": "object",
            "properties": {
                "tools": {"type": "array", "items": {"type": "object"}},
                "unknown": {"type": "array", "items": _STRING},
                "omitted": {"type": "array", "items": _STRING},
            },
            "required": ["tools"],
        },
    ),
    CALL: _definition(
        CALL,
        "Call a tool",
        "Calls a tool by name, exactly as a direct call would, and returns its result.",
        _object(
            ("name",),
            name=_NAME_SCHEMA,
            arguments={"type": "object", "description": "As the tool's input schema says."},
        ),
    ),
}
"""The definitions as they are listed."""


def tool_entries(mode: ToolsMode, tools: Callable[[], Sequence[Tool]]) -> list[tuple[str, bytes]]:
    """What a tool list holds, by listed name; a tool named like one of the three loses."""
    if mode is ToolsMode.SEARCH:
        return list(DEFINITIONS.items())
    listed = {tool.listed: tool.entry for tool in tools()}
    if mode is ToolsMode.BOTH:
        listed |= DEFINITIONS
    return list(listed.items())


def hint(mode: ToolsMode) -> str:
    """First words of the instructions, where a client cannot see every tool."""
    return f"{HINT}\n\n" if mode is ToolsMode.SEARCH else ""
