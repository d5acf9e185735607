"""A server whose tools this runner runs itself, hosted like any other: started, watched, restarted.

It has no process and no peer that speaks MCP; what it has of a connection (to an engine, an API,
a module in memory) is opened by ``_open`` and closed by ``_close``.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from mcp_proto.asked import TOOLS_CALL
from mcp_proto.codec import decode_as, pick
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.toolbox import Toolbox, ToolResult, failure
from tool_runner.upstreams.http_failures import failed
from tool_runner.upstreams.upstream import Offer, Request

__all__ = ["ServedTool", "ToolServer"]

START_S = 30.0
"""Longest start, from the first contact with what is behind it to the list of tools."""

_encode = msgspec.json.Encoder().encode


class ServedTool(msgspec.Struct, frozen=True):
    """A tool and what it does: ``handler(request, arguments)``.

    The arguments are JSON bytes that fit the input schema. A ``MeshError`` is a fault of what is
    behind the server (kind ``upstream``, with its outcome); what the caller did wrong, or what
    the thing itself refuses, is a ``failure`` that a model can act on.
    """

    spec: ToolSpec
    handler: Callable[[Request, msgspec.Raw], Awaitable[ToolResult]]


class ToolServer(ABC):
    """``Life`` of a server of one of our types.

    Args:
        definition: passed ``server_types.server_problem``.
        version: of what answers; shown as ``serverInfo``.
    """

    pid = 0
    spoke = True
    handshake = None

    def __init__(self, definition: ServerDefinition, *, version: str = "1") -> None:
        self._definition = definition
        self._version = version
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tools: Mapping[str, ServedTool] = {}
        self._toolbox = Toolbox(())

    async def start(self) -> Offer:
        """See ``Upstream``."""
        try:
            async with asyncio.timeout(START_S):
                await self._open()
                return await self.read_offer()
        except TimeoutError:
            raise self._error(f"did not start within {START_S:.3g} s") from None

    async def read_offer(self) -> Offer:
        """See ``Upstream``."""
        tools = await self._list()
        # Compiling the schemas of hundreds of tools would hold up every other call.
        self._toolbox = await asyncio.to_thread(Toolbox, [tool.spec for tool in tools])
        self._tools = {tool.spec.name: tool for tool in tools}
        info = {"name": f"mesh-{self._definition.type}", "version": self._version}
        return Offer(
            tools=tuple(tool.spec.catalog_tool() for tool in tools),
            capabilities=msgspec.Raw(b'{"tools":{}}'),
            server_info=msgspec.Raw(_encode(info)),
        )

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream``."""
        if request.method != TOOLS_CALL:
            name = self._definition.name
            raise MeshError(ErrorKind.METHOD, f"server {name} does not serve {request.method}")
        found = pick(request.params, "name", "arguments")
        name = decode_as(found["name"], str) if "name" in found else ""
        arguments = found.get("arguments", msgspec.Raw(b"{}"))
        problem = self._toolbox.problem(name, arguments)
        if problem is not None:
            return _encode(failure(problem))
        try:
            async with asyncio.timeout(request.timeout_s):
                return _encode(await self._tools[name].handler(request, arguments))
        except TimeoutError:
            raise MeshError(
                ErrorKind.DEADLINE,
                f"{name} did not end within {request.timeout_s:.3g} s",
                data={"upstream": self._definition.name},
                outcome=Outcome.UNKNOWN,
            ) from None

    async def watch(self, uris: frozenset[str]) -> dict[str, str]:
        """See ``Upstream``: there is nothing to watch."""
        return dict.fromkeys(uris, "the server has no resources")

    async def wait_ended(self) -> str:
        """See ``Upstream``."""
        return await asyncio.shield(self._ended)

    def log_tail(self, lines: int = 20) -> list[str]:
        """It has no log of its own."""
        del lines
        return []

    def kill(self) -> None:
        """End it at once; ``close`` must still follow."""
        self._end("was stopped")

    async def close(self) -> None:
        """See ``Upstream``."""
        self._end("was stopped")
        await self._close()

    # Of the type

    @abstractmethod
    async def _open(self) -> None:
        """Open what is behind it.

        Raises:
            MeshError: ``upstream``, not executed, with the reason as public text.
        """

    @abstractmethod
    async def _list(self) -> Sequence[ServedTool]:
        """Its tools, in listing order."""

    @abstractmethod
    async def _close(self) -> None:
        """Close what ``_open`` opened, also when that failed half-way."""

    # For types

    def _end(self, reason: str) -> None:
        """This life is over: what is behind it is gone."""
        if not self._ended.done():
            self._ended.set_result(reason)

    def _error(self, what: str, outcome: Outcome = Outcome.NOT_EXECUTED) -> MeshError:
        return failed(self._definition.name, what, outcome)
