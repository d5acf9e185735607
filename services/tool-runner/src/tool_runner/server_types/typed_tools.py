"""Tools written as functions over Structs: schemas, decoding and encoding follow from the types.

What is listed is what is decoded and what is answered, because all three are one Struct. A tool
function raises ``Refused`` for what its caller can mend; the model reads the text and tries again.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.toolbox import ToolResult, failure, success
from tool_runner.server_types.tool_server import ServedTool
from tool_runner.upstreams.upstream import Request

__all__ = ["READS", "Hints", "Refused", "schema_of", "typed_tool"]

A = TypeVar("A", bound=msgspec.Struct)
G = TypeVar("G", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """What was asked for cannot be had; the text says what, where and what was expected."""


class Hints(msgspec.Struct, frozen=True, kw_only=True):
    """Annotations of a tool; see ``ToolSpec``."""

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False


READS = Hints(read_only=True, idempotent=True)
"""Of a tool that changes nothing."""


def typed_tool(
    name: str,
    title: str,
    description: str,
    function: Callable[[A], Awaitable[G]],
    *,
    asks: type[A],
    gives: type[G],
    hints: Hints = READS,
) -> ServedTool:
    """Make a tool of a function.

    Args:
        name: bare name.
        title: for people.
        description: for models.
        function: takes the decoded arguments.
        asks: Struct of the arguments, ``forbid_unknown_fields``; optional ones have defaults.
        gives: Struct of the structured content.
        hints: annotations.
    """
    # Not strict: JSON Schema calls 60.0 an integer too, and the schema has been checked.
    decode = msgspec.json.Decoder(asks, strict=False).decode

    async def handle(_request: Request, arguments: msgspec.Raw) -> ToolResult:
        try:
            asked = decode(arguments or b"{}")
        except msgspec.ValidationError as error:
            return failure(f"Invalid arguments for {name}: {error}")
        try:
            return success(_encode(await function(asked)))
        except Refused as refused:
            return failure(str(refused))

    spec = ToolSpec(
        name=name,
        title=title,
        description=description,
        input_schema=schema_of(asks),
        output_schema=schema_of(gives),
        read_only=hints.read_only,
        destructive=hints.destructive,
        idempotent=hints.idempotent,
        open_world=True,
    )
    return ServedTool(spec, handle)


def schema_of(kind: type[msgspec.Struct]) -> Mapping[str, object]:
    """JSON Schema of a Struct, its root an object as MCP wants it."""
    _, parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    for part in parts.values():
        part.pop("title", None)
        if "description" in part:  # of a docstring: its first paragraph
            part["description"] = part["description"].partition("\n\n")[0].replace("\n", " ")
    root: dict[str, Any] = parts.pop(kind.__name__)
    root.pop("description", None)
    return {**root, "$defs": parts} if parts else root
