"""What a native toolset is: a server name, tools, and perhaps resources, each with its function."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from mcp_proto.contracts.registry import Catalog
from mcp_proto.subjects import PLATFORM
from mcp_proto.tool_spec import ToolSpec
from mesh_chassis.bus.endpoint import Intake, LargeBody
from tool_runner.core.toolbox import ToolResult
from tool_runner.upstreams.upstream import Request

__all__ = [
    "Arrives",
    "AskedHandler",
    "ReadArguments",
    "Resources",
    "Tell",
    "Tool",
    "ToolHandler",
    "Toolset",
    "Watched",
]

ToolHandler = Callable[[str, msgspec.Raw], Awaitable[ToolResult]]
"""``handler(tenant, arguments)``: arguments are JSON bytes that fit the input schema."""
AskedHandler = Callable[[Request, msgspec.Raw], Awaitable[ToolResult]]
"""``handler(request, arguments)``: for what needs the caller, the time or the caller's stream."""
Tell = Callable[[str, str], None]
"""``tell(tenant, uri)``: that resource of that tenant changed; never blocks."""


ReadArguments = Callable[[bytes], msgspec.Raw]
"""Makes the body of a call into its arguments; raises ``MeshError``."""
Arrives = Callable[[str, ReadArguments], Intake]
"""``arrives(tenant, read)``: uses the large body of a permitted call while it comes."""


class Tool(msgspec.Struct, frozen=True):
    """A tool and what it does: exactly one of ``handler`` and ``asked``.

    With ``arrives`` the handler of a large call may get what that left of the arguments.
    """

    spec: ToolSpec
    handler: ToolHandler | None = None
    asked: AskedHandler | None = None
    arrives: Arrives | None = None


class Watched(msgspec.Struct, frozen=True):
    """What became of a wish to hear of changes.

    Attributes:
        refused: why not, as public text; "" = it is watched.
        fresh: watched now, but not by this runner before: what changed until now was not heard.
    """

    refused: str = ""
    fresh: bool = False


class Resources(Protocol):
    """Resources of a toolset. They differ by tenant, so only their templates are listed."""

    @property
    def templates(self) -> tuple[msgspec.Raw, ...]:
        """``ResourceTemplate`` objects."""
        ...

    @property
    def permission(self) -> str:
        """What a caller needs to read or watch one."""
        ...

    async def read(self, tenant: str, uri: str, room: int) -> bytes | LargeBody:
        """One ``TextResourceContents`` or ``BlobResourceContents`` object as JSON.

        Args:
            tenant: whose.
            uri: as it was asked for.
            room: bytes that the answer may have.

        Raises:
            MeshError: ``not_found``, ``params``, ``too_large`` for what has to be read in ranges.
        """
        ...

    async def watch(self, tenant: str, uri: str, subscriber: str) -> "Watched":
        """Somebody wants to hear of changes from now on."""
        ...

    def unwatch(self, tenant: str, uri: str, subscriber: str) -> None:
        """They no longer want to."""
        ...


class Toolset(msgspec.Struct, frozen=True, kw_only=True):
    """Native tools that are listed and called as one server.

    Attributes:
        server: server name (``kv``), for addressing; the tools keep their bare names.
        tools: in listing order.
        resources: what it has beside tools; None = nothing.
        instructions: for models; "" = none.
    """

    server: str
    tools: tuple[Tool, ...]
    resources: Resources | None = None
    instructions: str = ""

    def catalog(self, version: str) -> Catalog:
        """The catalogue entry, without its hash."""
        resources = self.resources
        capabilities = b'{"tools":{}}'
        if resources is not None:
            capabilities = b'{"tools":{},"resources":{"subscribe":true}}'
        return Catalog(
            tenant=PLATFORM,
            server=self.server,
            prefixed=False,
            tools=tuple(tool.spec.catalog_tool() for tool in self.tools),
            resource_templates=() if resources is None else resources.templates,
            resource_permission="" if resources is None else resources.permission,
            capabilities=msgspec.Raw(capabilities),
            server_info=msgspec.Raw(
                msgspec.json.encode({"name": f"mesh-{self.server}", "version": version})
            ),
            instructions=self.instructions,
        )
