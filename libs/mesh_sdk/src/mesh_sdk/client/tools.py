"""Tools: list, call, stream, many at once, as durable tasks."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mcp_proto.endpoints import of_server
from mcp_proto.errors import ErrorKind
from mcp_proto.param_headers import read_annotations
from mcp_proto.types.meta import TASKS_EXTENSION
from mcp_proto.types.paging import TASK
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.hearing import OnLog, OnProgress, hearing
from mesh_sdk.client.opened import Opened
from mesh_sdk.client.requests import Arguments, Asked
from mesh_sdk.client.results import ToolInfo, ToolResult, decoded, tool_result
from mesh_sdk.client.streaming import ToolStream
from mesh_sdk.client.tasks import Task, TaskStatus
from mesh_sdk.client.transports.transport import Hear

__all__ = ["BATCH_MAX", "Call", "ToolMethods"]

BATCH_MAX = 100_000
"""Calls of one ``batch``."""


class Call(msgspec.Struct, frozen=True):
    """One call of a batch.

    Attributes:
        name: tool, as listed or as ``agent:tool``.
        args: its arguments.
        timeout_s: None = the client's.
        idempotency_key: "" = none.
    """

    name: str
    args: Mapping[str, Any] = {}
    timeout_s: float | None = None
    idempotency_key: str = ""


class ToolMethods(Opened):
    """The part of ``Client`` that is about tools."""

    async def list_tools(self, agent: str = "") -> tuple[ToolInfo, ...]:
        """Every tool the caller may use; with ``agent`` those of one server, by its own names.

        Raises:
            MeshCallError: ``not_found``: no such agent for this caller.
        """
        endpoint = of_server(agent) if agent else ""
        found: list[ToolInfo] = []
        mirrored: dict[tuple[str, str], Any] = {}
        for raw in await self._pages("tools/list", "tools", endpoint):
            rules = read_annotations(raw)
            tool: ToolInfo = decoded(raw, ToolInfo)
            if rules is None:
                continue  # its annotation is invalid: this revision has clients drop it
            if rules:
                mirrored[endpoint, tool.name] = rules
            found.append(tool)
        known = self._ready.mirrored
        for one in [one for one in known if one[0] == endpoint]:
            del known[one]
        known.update(mirrored)
        return tuple(found)

    async def call_tool(
        self,
        name: str,
        tool: str | Arguments | None = None,
        args: Arguments | None = None,
        *,
        timeout_s: float | None = None,
        progress: OnProgress | None = None,
        log: OnLog | None = None,
        log_level: str = "info",
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> ToolResult:
        """Call a tool: ``call_tool(name, args)``, or ``call_tool(agent, tool, args)``.

        When the awaiting task is cancelled, the call is cancelled in the mesh.

        Args:
            name: as listed, or ``agent:tool``; of three arguments the agent.
            tool: the agent's own name of the tool.
            args: a mapping, or a msgspec Struct or pydantic model.
            timeout_s: budget, repeats included (answers to questions are not); None = the
                client's. Over TCP the server's own limit holds besides.
            progress: called with each ``Progress``, in order; may be ``async``. What it raises
                is logged.
            log: the same with each ``LogMessage`` of the server.
            log_level: least severity of those.
            idempotency_key: up to 128 characters; a repeat of the call under the same key, by
                whomever of the principal, has no second effect.
            meta: further members of ``_meta``.

        Raises:
            MeshCallError: the call failed; ``outcome`` says whether it may have run. A tool that
                ran and failed raises nothing: see ``ToolResult.is_error``.
        """
        target, arguments = _target(name, tool, args)
        asked = Asked(
            timeout_s=timeout_s or self.timeout_s,
            meta=meta or {},
            progress=progress is not None,
            log_level=log_level if log is not None else "",
            idempotency_key=idempotency_key,
        )
        async with hearing(progress, log) as hear:
            return await self._call(target, arguments, asked, hear)

    def stream_tool(
        self,
        name: str,
        tool: str | Arguments | None = None,
        args: Arguments | None = None,
        *,
        timeout_s: float | None = None,
        log_level: str = "info",
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> ToolStream:
        """Call a tool and read what it says on the way: an async iterator.

        Gives ``Progress`` and ``LogMessage`` (of at least ``log_level``; "" = none) as they come,
        the ``ToolResult`` last. Arguments as in ``call_tool``; its errors are raised by the
        iterator.
        """
        target, arguments = _target(name, tool, args)
        asked = Asked(
            timeout_s=timeout_s or self.timeout_s,
            meta=meta or {},
            progress=True,
            log_level=log_level,
            idempotency_key=idempotency_key,
        )
        self._check_open()
        return ToolStream(self._tasks, lambda hear: self._call(target, arguments, asked, hear))

    async def batch(
        self, calls: Iterable[Call | tuple[str, Mapping[str, Any]]]
    ) -> list[ToolResult | MeshCallError]:
        """Many calls, ``MCP_POOL_SIZE`` at a time.

        Args:
            calls: ``Call`` or ``(name, args)``; at most ``BATCH_MAX``.

        Returns:
            In their order the result of each, or the error with which it failed: the others go
            on, since each may have had its effect.
        """
        wanted = [one if isinstance(one, Call) else Call(*one) for one in calls]
        if len(wanted) > BATCH_MAX:
            raise MeshCallError(ErrorKind.PARAMS, f"a batch holds at most {BATCH_MAX} calls")
        done: list[ToolResult | MeshCallError | None] = [None] * len(wanted)
        queue = iter(range(len(wanted)))

        async def work() -> None:
            for index in queue:
                done[index] = await self._one(wanted[index])

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.pool_size, len(wanted))):
                group.create_task(work())
        return [one for one in done if one is not None]

    async def call_tool_as_task(
        self,
        name: str,
        tool: str | Arguments | None = None,
        args: Arguments | None = None,
        *,
        ttl_s: float = 0.0,
        timeout_s: float | None = None,
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Task:
        """Start a call that outlives this client; its result is kept and fetched by a handle.

        Args:
            name: as in ``call_tool``.
            tool: as in ``call_tool``.
            args: as in ``call_tool``.
            ttl_s: how long the task is kept; 0 = as long as the mesh usually does.
            timeout_s: budget for starting it.
            idempotency_key: as in ``call_tool``.
            meta: as in ``call_tool``.

        Raises:
            MeshCallError: ``method`` when the tool does not run as a task; ``capability`` when
                the mesh has no tasks.
        """
        target, arguments = _target(name, tool, args)
        asked = Asked(
            timeout_s=timeout_s or self.timeout_s,
            meta=meta or {},
            idempotency_key=idempotency_key,
            task=int(ttl_s * 1000),
        )
        return await self._started(target, arguments, asked)

    def task(self, task_id: str) -> Task:
        """The handle of a task that was made earlier, by this principal."""
        return Task(task_id, self._ready, self._inputs, timeout_s=self.timeout_s)

    # Inside

    async def _one(self, call: Call) -> ToolResult | MeshCallError:
        asked = Asked(
            timeout_s=call.timeout_s or self.timeout_s, idempotency_key=call.idempotency_key
        )
        try:
            return await self._call(call.name, call.args, asked)
        except MeshCallError as error:
            return error

    async def _call(
        self, name: str, args: Arguments, asked: Asked, hear: Hear | None = None
    ) -> ToolResult:
        caller = self._ready
        params: dict[str, Any] = {"name": name, "arguments": args}
        try:
            return tool_result(await caller.ask("tools/call", params, asked, hear))
        except MeshCallError as error:
            if error.kind is ErrorKind.HEADER_MISMATCH and not caller.mirrored.get(("", name)):
                await self._learn_headers(name)
                return tool_result(await caller.ask("tools/call", params, asked, hear))
            if error.kind is not ErrorKind.CAPABILITY or not _needs_tasks(error):
                raise
        # The tool runs as a task only.
        task = await self._started(name, args, msgspec.structs.replace(asked, task=0))
        return await task.result(asked.timeout_s)

    async def _learn_headers(self, name: str) -> None:
        """Learn from a tool's schema which of its arguments stand in headers too."""
        agent, colon, tool = name.partition(":")
        if not colon:
            await self.list_tools()
            return
        await self.list_tools(agent)
        known = self._ready.mirrored
        rules = known.get((of_server(agent), tool))
        if rules:
            known["", name] = rules

    async def _started(self, name: str, args: Arguments, asked: Asked) -> Task:
        caller = self._ready
        raw = await caller.ask("tools/call", {"name": name, "arguments": args}, asked)
        if decoded(raw, _Typed).result_type != TASK:
            return Task.done(tool_result(raw), caller, self._inputs)
        status: TaskStatus = decoded(raw, TaskStatus)
        return Task(status.task_id, caller, self._inputs, timeout_s=self.timeout_s)


class _Typed(msgspec.Struct):
    result_type: str = msgspec.field(name="resultType", default="")


def _needs_tasks(error: MeshCallError) -> bool:
    needed = error.data.get("requiredCapabilities")
    extensions = needed.get("extensions") if isinstance(needed, dict) else None
    return isinstance(extensions, dict) and TASKS_EXTENSION in extensions


def _target(
    name: str, tool: str | Arguments | None, args: Arguments | None
) -> tuple[str, Arguments]:
    """The name on the wire and the arguments, from either form of a call."""
    if isinstance(tool, str):
        return f"{name}:{tool}", args if args is not None else {}
    if tool is not None and args is not None:
        raise MeshCallError(ErrorKind.PARAMS, "call_tool takes (name, args) or (agent, tool, args)")
    return name, tool or args or {}
