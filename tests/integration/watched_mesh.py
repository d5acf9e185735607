"""Registry, runners and gateways around real servers that have something to tell."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.testing import Connect, Running, Surroundings, modern, running_gateway
from mcp_proto.contracts.registry import ServerDefinition
from mesh_chassis.config import ServiceSection
from mesh_chassis.service import Service
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tool_runner.config import RunnerSection, ToolRunnerConfig
from tool_runner.service import build as build_runner

__all__ = ["WATCHED", "Events", "WatchedMesh", "listening", "over_http", "watched_mesh"]

WATCHED = Path(__file__).parents[1] / "e2e" / "servers" / "watched.py"


def definition(name: str, mode: str, **fields: Any) -> ServerDefinition:
    return ServerDefinition(name=name, command=sys.executable, args=(str(WATCHED), mode), **fields)


@asynccontextmanager
async def over_http(name: str, mode: str) -> AsyncIterator[ServerDefinition]:
    """The same server behind an address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(WATCHED), mode, "http", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield ServerDefinition(
            name=name,
            transport="http",
            url=f"http://127.0.0.1:{port}/mcp",
            allow_private=("127.0.0.1",),
        )
    finally:
        process.kill()
        await process.wait()


class Events:
    """The events of an open stream, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, timeout_s: float = 8.0) -> Any:
        async with asyncio.timeout(timeout_s):
            async for line in self._lines:
                if line.startswith("data: "):
                    return msgspec.json.decode(line[6:])
        return None


@asynccontextmanager
async def listening(base: str, **wanted: object) -> AsyncIterator[Events]:
    """A listen over HTTP whose acknowledgement has come."""
    body, headers = modern("subscriptions/listen", 1, notifications=wanted)
    async with (
        httpx.AsyncClient(base_url=base) as client,
        client.stream("POST", "/mcp", content=body, headers=headers) as response,
    ):
        events = Events(response)
        first = await events.next()
        assert first["params"]["notifications"] == wanted
        yield events


class WatchedMesh:
    """What a test holds."""

    def __init__(self, around: Surroundings, connect: Connect, gateway: Running) -> None:
        self.around = around
        self.gateway = gateway
        self._connect = connect
        self._client = httpx.AsyncClient()
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def runner(self, instance: str, *servers: ServerDefinition) -> AsyncIterator[Service]:
        """A runner with these servers."""
        config = ToolRunnerConfig(
            service=ServiceSection(instance=instance, drain_s=4.0, accept_s=0.0),
            runner=RunnerSection(toolsets=()),
            mcp_servers=servers,
        )
        bus = await self._connect("tool-runner", instance)
        async with in_process(build_runner, config, bus) as service:
            yield service

    async def ask(self, method: str, *, base: str = "", **params: object) -> Any:
        body, headers = modern(method, 1, **params)
        url = f"{base or self.gateway.http}/mcp"
        return (await self._client.post(url, content=body, headers=headers)).json()

    async def call(self, tool: str, text: str = "") -> str:
        answer = await self.ask("tools/call", name=tool, arguments={"text": text})
        assert "result" in answer, answer
        return answer["result"]["content"][0]["text"]

    async def until_listed(self, *tools: str) -> None:
        async def there() -> bool:
            listed = (await self.ask("tools/list"))["result"]["tools"]
            return set(tools) <= {one["name"] for one in listed}

        await eventually(there, timeout_s=20.0)

    async def close(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def watched_mesh(around: Surroundings, connect: Connect) -> AsyncIterator[WatchedMesh]:
    """A registry and a gateway; runners are the test's."""
    await around.leave_calls()
    config = RegistryConfig(service=ServiceSection(instance="registry-2"))
    bus = await connect("registry", "registry-2")
    async with (
        in_process(build_registry, config, bus),
        running_gateway(around, connect) as gateway,
    ):
        mesh = WatchedMesh(around, connect, gateway)
        try:
            yield mesh
        finally:
            with contextlib.suppress(httpx.HTTPError):
                await mesh.close()
