"""Servers of type ``command``: each call runs one program with a fixed command line.

What a value may do is decided by the template alone: it fills its place in one element and cannot
begin an option there. The process is a child of the reaper like any server over stdio, in a
session of its own with limits; at a time-out, a cancel or the end of the server everything it
started is killed.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from mcp_proto.codec import encode
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.command import CommandSettings, CommandTool
from mcp_proto.tool_spec import ToolSpec
from mesh_chassis.children import Child, ChildLimits, Children
from tool_runner.core.command_lines import RefusedValueError, command_line, standard_input
from tool_runner.core.promises import Promise
from tool_runner.core.toolbox import Toolbox, ToolResult, failure, success, told
from tool_runner.server_types.tool_server import ServedTool, ToolServer
from tool_runner.upstreams.programs import Reading, Said, follow, secrets_read
from tool_runner.upstreams.upstream import Request
from tool_runner.upstreams.walls import Walls

__all__ = ["CommandServer"]

TAIL_BYTES = 4 * 1024
"""How much of the end of standard error an error shows."""
HEAD_CHARS = 1_000
"""How much of an output that is not what it should be an error shows."""
GONE_S = 5.0
"""Longest wait for a killed group to be gone."""

_LINES_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"lines": {"type": "array", "items": {"type": "string"}}},
    "required": ["lines"],
}


class CommandServer(ToolServer):
    """``Life`` of a server of type ``command``.

    Args:
        definition: of the server.
        children: ends processes.
        walls: starts them.
        limits: of each process, where the settings have none.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        children: Children,
        walls: Walls,
        *,
        limits: ChildLimits,
    ) -> None:
        super().__init__(definition)
        self._children = children
        self._walls = walls
        self._settings = settings_of(definition, CommandSettings)
        memory = self._settings.memory_bytes or limits.memory_bytes
        self._limits = msgspec.structs.replace(limits, memory_bytes=memory)
        self._places = asyncio.Semaphore(self._settings.processes)
        self._running: set[Child] = set()
        self._promises: dict[str, Promise] = {}
        self._closed = False

    async def _open(self) -> None:
        for at, tool in enumerate(self._settings.tools):
            where = f"settings.tools[{at}]"
            # A look at the disk of a definition's own making: shorter than a thread's start.
            if tool.cwd and not Path(tool.cwd).is_dir():  # noqa: ASYNC240
                raise self._error(f"{where}.cwd: {tool.cwd} is no directory")
            try:
                self._promises[tool.name] = Promise(tool.result)
                Toolbox((_spec(tool),))
            except ValueError as error:
                raise self._error(f"{where}: {str(error).splitlines()[0]}") from None
            path = self._walls.search(self._variables(tool))
            if shutil.which(tool.argv[0], path=path) is None:
                raise self._error(f"{where}.argv[0]: no program {tool.argv[0]} can be run")

    async def _list(self) -> Sequence[ServedTool]:
        return [ServedTool(_spec(tool), partial(self._run, tool)) for tool in self._settings.tools]

    async def _close(self) -> None:
        self._closed = True
        for child in self._running:
            self._children.kill(child)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_S):
                for child in tuple(self._running):
                    await asyncio.shield(child.exited)

    async def _run(self, tool: CommandTool, request: Request, arguments: msgspec.Raw) -> ToolResult:
        del request
        values: dict[str, Any] = msgspec.json.decode(arguments)
        try:
            argv = command_line(tool, values)
            fed = standard_input(tool, values)
        except RefusedValueError as error:
            return failure(str(error))
        async with self._places:
            if self._closed:
                raise self._error("was stopped")
            child = await self._walls.spawn(
                argv, declared=self._variables(tool), cwd=tool.cwd, limits=self._limits
            )
            self._running.add(child)
            child.exited.add_done_callback(lambda _: self._running.discard(child))
            try:
                return await self._follow(tool, child, fed)
            finally:
                self._children.kill(child)

    async def _follow(self, tool: CommandTool, child: Child, fed: bytes) -> ToolResult:
        said = Said(Reading(output_bytes=tool.output_bytes, errors_bytes=TAIL_BYTES))
        if not await follow(child, fed, said, tool.timeout_s):
            return failure(
                f"{tool.name} ran for {tool.timeout_s:.3g} s and was ended; what it did until "
                f"then is done.{_said(said.errors)}"
            )
        if said.status is None:
            return failure(
                f"{tool.name} printed more than {tool.output_bytes} bytes and was ended; ask it "
                f"for less. It began: {_head(said.output)}"
            )
        return _result(tool, self._promises[tool.name], said.status, said.output, said.errors)

    def _variables(self, tool: CommandTool) -> dict[str, str]:
        return secrets_read(tool.env, self._definition.name)


def _spec(tool: CommandTool) -> ToolSpec:
    schema: dict[str, object] = {"type": "object", "properties": {}, **tool.parameters}
    schema.setdefault("additionalProperties", False)
    return ToolSpec(
        name=tool.name,
        title=tool.title or tool.name,
        description=tool.description,
        input_schema=schema,
        output_schema=_LINES_SCHEMA if tool.output == "lines" else tool.result,
        read_only=tool.read_only,
        destructive=tool.destructive and not tool.read_only,
        idempotent=tool.idempotent,
        open_world=tool.open_world,
    )


def _result(
    tool: CommandTool, promise: Promise, status: int, output: bytes, errors: str
) -> ToolResult:
    if status not in tool.exit_ok:
        how = f"with status {status}" if status >= 0 else f"by signal {-status}"
        return failure(f"{tool.name} ended {how}.{_said(errors) or _printed(output)}")
    text = output.decode(errors="replace")
    if tool.output == "lines":
        return success(encode({"lines": text.splitlines()}))
    if tool.output == "text":
        return told(text)
    try:
        value: object = msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return failure(f"{tool.name} ran, but printed no JSON ({error}): {_head(output)}")
    problem = promise.problem(value)
    if problem is not None:
        return failure(f"{tool.name} ran, but its output is not as promised ({problem}): {text}")
    return success(output.strip()) if isinstance(value, dict) else told(text)


def _said(errors: str) -> str:
    return f" It said: {errors}" if errors else ""


def _printed(output: bytes) -> str:
    return f" It printed: {_head(output)}" if output.strip() else ""


def _head(output: bytes) -> str:
    text = output[: 4 * HEAD_CHARS].decode(errors="replace").strip()
    return text if len(text) <= HEAD_CHARS else text[:HEAD_CHARS] + "…"
