"""What a native toolset is: a server name, and tools with the function behind each."""

from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.contracts.registry import Catalog
from mcp_proto.subjects import PLATFORM
from tool_runner.core.toolbox import ToolResult, ToolSpec

__all__ = ["Tool", "ToolHandler", "Toolset"]

ToolHandler = Callable[[str, msgspec.Raw], Awaitable[ToolResult]]
"""``handler(tenant, arguments)``: arguments are JSON bytes that fit the input schema."""


class Tool(msgspec.Struct, frozen=True):
    """A tool and what it does."""

    spec: ToolSpec
    handler: ToolHandler


class Toolset(msgspec.Struct, frozen=True, kw_only=True):
    """Native tools that are listed and called as one server.

    Attributes:
        server: server name (``kv``), for addressing; the tools keep their bare names.
        tools: in listing order.
        instructions: for models; "" = none.
    """

    server: str
    tools: tuple[Tool, ...]
    instructions: str = ""

    def catalog(self, version: str) -> Catalog:
        """The catalogue entry, without its hash."""
        return Catalog(
            tenant=PLATFORM,
            server=self.server,
            prefixed=False,
            tools=tuple(tool.spec.catalog_tool() for tool in self.tools),
            capabilities=msgspec.Raw(b'{"tools":{}}'),
            server_info=msgspec.Raw(
                msgspec.json.encode({"name": f"mesh-{self.server}", "version": version})
            ),
            instructions=self.instructions,
        )
