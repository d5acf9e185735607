"""What the tests of durable tasks share: a scripted server, real runners for tasks, a client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.testing import Connect, Running, modern
from mcp_proto.types.meta import CLIENT_CAPABILITIES, TASKS_EXTENSION
from mesh_chassis.config import ServiceSection
from mesh_chassis.service import Service
from mesh_chassis.testing.in_process import in_process
from tool_runner.config import RunnerSection, TasksConfig, ToolRunnerConfig
from tool_runner.service import build

__all__ = ["DECLARED", "Peer", "task_runner"]

DECLARED: dict[str, object] = {
    CLIENT_CAPABILITIES: {"elicitation": {}, "extensions": {TASKS_EXTENSION: {}}}
}


@asynccontextmanager
async def task_runner(
    connect: Connect, instance: str = "runner-2", **tables: object
) -> AsyncIterator[Service]:
    """A runner that serves nothing but tasks."""
    made: dict[str, object] = {
        "service": ServiceSection(instance=instance, drain_s=3.0, accept_s=0.0),
        "runner": RunnerSection(toolsets=()),
        "tasks": TasksConfig(check_every_s=0.5),
    }
    config = ToolRunnerConfig(**{**made, **tables})  # type: ignore[arg-type]
    async with in_process(build, config, await connect("tool-runner", instance)) as service:
        yield service


class Peer:
    """A modern client over HTTP that declares tasks, unless told otherwise."""

    def __init__(self, client: httpx.AsyncClient, base: str, credential: str = "") -> None:
        self._client = client
        self.base = base
        self._headers = {"authorization": f"Bearer {credential}"} if credential else {}

    async def ask(
        self,
        method: str,
        *,
        meta: dict[str, object] | None = None,
        declared: bool = True,
        gateway: Running | None = None,
        **params: object,
    ) -> dict[str, Any]:
        """One request; the whole JSON-RPC answer."""
        known = {**(DECLARED if declared else {}), **(meta or {})}
        body, headers = modern(method, meta=known, **params)
        base = gateway.http if gateway is not None else self.base
        answer = await self._client.post(
            f"{base}/mcp", content=body, headers={**headers, **self._headers}
        )
        return answer.json()

    async def call(self, tool: str, *, wish: object = True, **arguments: object) -> dict[str, Any]:
        """A call that asks for a task; its result."""
        answer = await self.ask(
            "tools/call", meta={"mesh/task": wish}, name=tool, arguments=arguments
        )
        assert "result" in answer, answer
        return answer["result"]

    async def get(self, task_id: str, gateway: Running | None = None) -> dict[str, Any]:
        """``tasks/get``; its result."""
        answer = await self.ask("tasks/get", taskId=task_id, gateway=gateway)
        assert "result" in answer, answer
        return answer["result"]

    async def until(
        self, task_id: str, *statuses: str, gateway: Running | None = None, timeout_s: float = 8.0
    ) -> dict[str, Any]:
        """Ask until the task has one of these; the task."""
        async with asyncio.timeout(timeout_s):
            while (task := await self.get(task_id, gateway))["status"] not in statuses:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return task
