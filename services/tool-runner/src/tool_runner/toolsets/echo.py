"""``echo``: answers what it is sent. For probes and benchmarks; it touches nothing."""

import msgspec

from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.toolbox import ToolResult, success
from tool_runner.toolsets.toolset import Tool, Toolset

__all__ = ["toolset"]

_SCHEMA = {
    "type": "object",
    "properties": {"message": {"description": "Any JSON value; null when left out."}},
    "additionalProperties": False,
}
_SPEC = ToolSpec(
    name="echo",
    title="Echo",
    description="Returns the message it is given, unchanged. Use it to see whether the mesh works.",
    input_schema=_SCHEMA,
    output_schema={**_SCHEMA, "required": ["message"]},
    read_only=True,
    idempotent=True,
)


class _Arguments(msgspec.Struct, frozen=True):
    message: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Arguments).decode


async def _echo(_tenant: str, arguments: msgspec.Raw) -> ToolResult:
    return success(b'{"message":' + bytes(_decode(arguments).message) + b"}")


def toolset() -> Toolset:
    """The toolset ``echo``."""
    return Toolset(server="echo", tools=(Tool(_SPEC, _echo),))
