"""Agents outside the mesh become servers and go again: real etcd, registry, runner and agents."""

import asyncio
import base64
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from mcp.server import MCPServer
from tests.etcd_peer import Etcd, running_etcd

from mcp_proto.contracts import registry as contract
from mcp_proto.contracts.registry import (
    LeftOut,
    ServerDefinition,
    ServerPut,
    ServerRemove,
    ServerStatus,
)
from mcp_proto.discovery import AgentsTable, DiscoveryTable, KnownAgent
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ServiceSection
from mesh_chassis.health import Status
from mesh_chassis.service import Service
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from registry import discovery
from registry.config import RegistryConfig
from registry.service import build as build_registry
from tool_runner.config import RunnerSection, ToolRunnerConfig
from tool_runner.service import build as build_runner

ConnectBus = Callable[..., Awaitable[Bus]]

QUICK = {"registry_ttl_seconds": 2.0, "heartbeat_interval_seconds": 1.0}


@pytest.fixture(scope="module")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory):
    with running_etcd(tmp_path_factory.mktemp("etcd")) as one:
        yield one


@pytest.fixture
def etcd(shared_etcd: Etcd) -> Etcd:
    everything = {"key": coded("a"), "range_end": coded("z")}
    httpx.post(f"{shared_etcd.url}/v3/kv/deleterange", json=everything).raise_for_status()
    return shared_etcd


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def announce(etcd: Etcd, name: str, url: str) -> None:
    value = json.dumps({"name": name, "url": url, "capabilities": ["sums"]})
    body = {"key": coded(f"mcp:agents/{name}"), "value": coded(value)}
    httpx.post(f"{etcd.url}/v3/kv/put", json=body).raise_for_status()


def withdraw(etcd: Etcd, name: str) -> None:
    body = {"key": coded(f"mcp:agents/{name}")}
    httpx.post(f"{etcd.url}/v3/kv/deleterange", json=body).raise_for_status()


def announced(etcd: Etcd, name: str) -> Any:
    body = {"key": coded(f"mcp:agents/{name}")}
    found = httpx.post(f"{etcd.url}/v3/kv/range", json=body).json().get("kvs", [])
    return json.loads(base64.b64decode(found[0]["value"])) if found else None


@asynccontextmanager
async def an_agent() -> AsyncIterator[str]:
    """An MCP agent over HTTP, on the official SDK."""
    server = MCPServer("calc")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Add."""
        return str(a + b)

    app = server.streamable_http_app(host="127.0.0.1")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
    running = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # A loop of its own: the SDK's streams leave a watcher behind in theirs.
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        try:
            await eventually(lambda: running.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            await asyncio.to_thread(thread.join, 10.0)


class Mesh:
    """A registry and a runner; more registries on request."""

    def __init__(self, connect: ConnectBus, stack: AsyncExitStack) -> None:
        self._connect = connect
        self._stack = stack
        self.registries: list[Service] = []
        self.operator: Bus

    async def start(
        self,
        table: DiscoveryTable,
        *known: KnownAgent,
        configured: tuple[ServerDefinition, ...] = (),
    ) -> None:
        self.operator = await self._connect("operator", "operator")
        await self.registry(table, *known)
        config = ToolRunnerConfig(
            service=ServiceSection(instance="runner-1", drain_s=2.0, accept_s=0.0),
            runner=RunnerSection(toolsets=("echo",), allow_unsigned=True),
            mcp_servers=configured,
        )
        bus = await self._connect("tool-runner", "runner-1")
        await self._stack.enter_async_context(in_process(build_runner, config, bus))

    async def registry(
        self, table: DiscoveryTable, *known: KnownAgent, stack: AsyncExitStack | None = None
    ) -> Service:
        name = f"registry-{len(self.registries) + 1}"
        config = RegistryConfig(
            service=ServiceSection(instance=name),
            discovery=table,
            agents=AgentsTable(known=known),
        )
        bus = await self._connect("registry", name)
        made = in_process(build_registry, config, bus)
        self.registries.append(await (stack or self._stack).enter_async_context(made))
        return self.registries[-1]

    async def row(self, server: str) -> ServerStatus | None:
        answer = await self.operator.operation(contract.list_servers, contract.ListServers())
        return next((one for one in answer.servers if one.server == server), None)

    async def left_out(self) -> tuple[LeftOut, ...]:
        answer = await self.operator.operation(contract.list_servers, contract.ListServers())
        return answer.left_out

    async def runs(self, server: str, defined: str) -> None:
        async def there() -> bool:
            row = await self.row(server)
            return row is not None and (row.state, row.defined) == ("running", defined)

        await eventually(there, timeout_s=15, what=f"{server} runs")

    async def offers(self, server: str, tools: int) -> None:
        async def listed() -> bool:
            row = await self.row(server)
            return row is not None and row.tools == tools

        await eventually(listed, timeout_s=15, what=f"{server} offers {tools} tools")

    async def gone(self, server: str) -> None:
        async def away() -> bool:
            return await self.row(server) is None

        await eventually(away, timeout_s=15, what=f"{server} is gone")

    async def says(self, server: str, reason: str) -> None:
        async def said() -> bool:
            return any(one.name == server and reason in one.reason for one in await self.left_out())

        await eventually(said, timeout_s=15, what=f"{server} is left out")


@pytest.fixture
async def mesh(
    broker: object, connect_bus: ConnectBus, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Mesh]:
    monkeypatch.setattr(discovery, "_TICK_MAX_S", 0.3)
    async with AsyncExitStack() as stack:
        yield Mesh(connect_bus, stack)


def looking(etcd: Etcd, **more: Any) -> DiscoveryTable:
    fields = {"enabled": True, "type": "etcd", "etcd_endpoints": (etcd.url,), **QUICK, **more}
    return DiscoveryTable(**fields)


async def test_agent_in_etcd_becomes_a_server_and_goes_after_its_time(
    mesh: Mesh, etcd: Etcd
) -> None:
    async with an_agent() as url:
        announce(etcd, "calc", url)
        await mesh.start(looking(etcd, allow_networks=("127.0.0.1",)))
        await mesh.runs("calc", "etcd")
        row = await mesh.row("calc")
        assert row is not None
        assert row.tenant == "_"
        await mesh.offers("calc", tools=1)
        with pytest.raises(MeshError, match=r"was found \(etcd\)"):
            await mesh.operator.operation(contract.server_remove, ServerRemove(name="calc"))
        withdraw(etcd, "calc")
        await mesh.gone("calc")


async def test_agent_at_a_private_address_is_never_connected_to(mesh: Mesh, etcd: Etcd) -> None:
    asked: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    trap = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = trap.sockets[0].getsockname()[1]
    async with trap, an_agent() as url:
        announce(etcd, "bad", f"http://127.0.0.1:{port}/latest/meta-data")
        await mesh.start(looking(etcd), KnownAgent(name="good", url=url))
        # The operator's own list may name this machine; what others announce may not.
        await mesh.runs("good", "static")

        async def there() -> bool:
            return await mesh.row("bad") is not None

        await eventually(there, timeout_s=10)
        row = await mesh.row("bad")
        assert row is not None
        assert (row.state, row.tools, row.defined) == ("down", 0, "etcd")
    assert asked == []


async def test_agent_never_takes_the_name_of_a_server(mesh: Mesh, etcd: Etcd) -> None:
    async with an_agent() as url:
        for name in ("calc", "echo", "desk", "no__name"):
            announce(etcd, name, url)
        own = ServerDefinition(name="calc", transport="http", url=f"{url}/mcp")
        await mesh.start(looking(etcd, allow_networks=("127.0.0.1",)), configured=(own,))
        await mesh.says("calc", "a runner's own file")
        await mesh.says("echo", "already")
        await mesh.says("no__name", "server names")
        await mesh.runs("calc", "config")
        await mesh.runs("desk", "etcd")
        # An operator takes the name over; the agent is left out from then on.
        definition = ServerDefinition(name="desk", transport="http", url=f"{url}/mcp")
        put = ServerPut(definition=definition, replace=True)
        await mesh.operator.operation(contract.server_put, put)
        await mesh.says("desk", "added at run time")
        await mesh.runs("desk", "runtime")
        withdraw(etcd, "desk")
        await eventually(lambda: _not_named(mesh, "desk"), timeout_s=10)
        await mesh.runs("desk", "runtime")


async def _not_named(mesh: Mesh, name: str) -> bool:
    return all(one.name != name for one in await mesh.left_out())


@pytest.mark.slow
async def test_etcd_that_is_away_breaks_nothing(mesh: Mesh, tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    try:
        async with an_agent() as url:
            table = looking(etcd, allow_networks=("127.0.0.1",), registry_ttl_seconds=4.0)
            await mesh.start(table, KnownAgent(name="known", url=url))
            await mesh.runs("known", "static")
            (registry,) = mesh.registries
            await eventually(
                lambda: registry.health.report().checks["discovery"] is Status.DEGRADED
            )
            await asyncio.to_thread(etcd.start)
            announce(etcd, "calc", url)
            await mesh.runs("calc", "etcd")
            await asyncio.to_thread(etcd.stop)
            await eventually(
                lambda: registry.health.report().checks["discovery"] is Status.DEGRADED,
                timeout_s=10,
            )
            assert await mesh.row("calc") is not None
            await mesh.gone("calc")
            await mesh.runs("known", "static")
            await asyncio.to_thread(etcd.start)
            await mesh.runs("calc", "etcd")
    finally:
        etcd.stop()


async def test_gateway_is_announced_as_long_as_the_registry_runs(mesh: Mesh, etcd: Etcd) -> None:
    mesh.operator = await mesh._connect("operator", "operator")
    table = looking(etcd, announce_url="http://gateway.example:3000", announce_name="lab")
    async with AsyncExitStack() as stack:
        await mesh.registry(table, stack=stack)
        await eventually(lambda: announced(etcd, "lab") is not None, timeout_s=10)
        assert announced(etcd, "lab")["url"] == "http://gateway.example:3000/mcp"
        # It does not find itself.
        assert await mesh.row("lab") is None
    assert announced(etcd, "lab") is None


async def test_of_two_registries_one_writes_and_the_other_goes_on(
    mesh: Mesh, etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LEASE_S", 2.0)
    mesh.operator = await mesh._connect("operator", "operator")
    table = looking(etcd, announce_url="http://gateway.example:3000", announce_name="lab")
    announce(etcd, "one", "http://agent.example")
    async with AsyncExitStack() as stack:
        await mesh.registry(table, stack=stack)
        await eventually(lambda: _has(mesh, "one"), timeout_s=10)
        await mesh.registry(table)
    announce(etcd, "two", "http://agent.example")
    await eventually(lambda: _has(mesh, "two"), timeout_s=10)
    assert await mesh.row("one") is not None
    await eventually(lambda: announced(etcd, "lab") is not None, timeout_s=10)


async def _has(mesh: Mesh, server: str) -> bool:
    row = await mesh.row(server)
    return row is not None and row.definition is not None and row.definition.generation == 0


async def test_discovery_that_was_switched_off_takes_its_servers_along(
    mesh: Mesh, etcd: Etcd
) -> None:
    mesh.operator = await mesh._connect("operator", "operator")
    announce(etcd, "one", "http://agent.example")
    async with AsyncExitStack() as stack:
        await mesh.registry(looking(etcd), stack=stack)
        await eventually(lambda: _has(mesh, "one"), timeout_s=10)
    await mesh.registry(DiscoveryTable(**QUICK))
    assert await mesh.row("one") is not None
    await mesh.gone("one")
