"""Gateways as processes: official clients, stdio, a rolling restart that loses no call."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import fastmcp
import httpx
import mcp
import msgspec
import pytest
import pytest_asyncio
from mcp.client.stdio import StdioServerParameters, stdio_client

from gateway.testing import (
    DEMO_TENANT,
    LineClient,
    Surroundings,
    modern,
    surrounded,
    text_result,
    tool,
)
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow

CALL = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "fs__read"}}


async def echo(call, params) -> bytes:
    await asyncio.sleep(0.005)
    return text_result("hello")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server("fs", tool("read", inputSchema={"type": "object"}))
        parts.scripts["fs:read"] = echo
        yield parts


class Process:
    """A running gateway."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path) -> None:
        self.child = child
        self.log = log

    def port(self, edge: str) -> int:
        for line in self.log.read_text().splitlines():
            entry = msgspec.json.decode(line)
            if entry["msg"] == f"{edge} edge listens":
                return entry["port"]
        return 0

    async def stop(self) -> int:
        self.child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.child.wait()


@asynccontextmanager
async def process(around, broker, directory: Path, instance: str, *, reuse: int = 0):
    config = directory / f"{instance}.toml"
    config.write_text(
        f"""
[service]
instance = "{instance}"
accept_s = 0.3
drain_s = 5.0
[bus]
urls = ["{broker.url}"]
nkey_seed_file = "{broker.seed_for("gateway", instance)}"
[http]
port = 0
[tcp]
port = {reuse}
reuse_port = true
[security]
development = true
[keys]
kek_file = "{around.kek_file}"
[limits]
rate_per_second = 100000
burst = 100000
"""
    )
    log = directory / f"{instance}-{reuse}.log"
    with log.open("w") as stderr:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "--config", str(config), stderr=stderr
        )
    running = Process(child, log)
    try:
        await eventually(
            lambda: f"gateway {instance} is ready" in log.read_text(), timeout_s=15, what=str(log)
        )
        yield running
    finally:
        if child.returncode is None:
            await running.stop()


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_the_official_client_lists_and_calls(
    around: Surroundings, broker, tmp_path: Path, mode: str
) -> None:
    async with process(around, broker, tmp_path, "gateway-1") as running:
        url = f"http://127.0.0.1:{running.port('http')}/mcp"
        async with mcp.Client(url, mode=mode) as client:
            assert [one.name for one in (await client.list_tools()).tools] == ["fs__read"]
            result = await client.call_tool("fs__read", {})
            assert result.content[0].text == "hello"
        async with fastmcp.Client(url) as client:
            assert (await client.call_tool("fs__read", {})).content[0].text == "hello"
        assert await running.stop() == 0
        assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_the_official_client_speaks_through_the_stdio_edge(
    around: Surroundings, broker, tmp_path: Path, mode: str
) -> None:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[
            *("-m", "gateway.edges.stdio", "--url", broker.url, "--tenant", DEMO_TENANT),
            *("--nkey-seed-file", broker.seed_for("stdio", "stdio-1"), "--instance", "stdio-1"),
        ],
    )
    async with (
        process(around, broker, tmp_path, "gateway-1"),
        mcp.Client(stdio_client(parameters), mode=mode) as client,
    ):
        assert [one.name for one in (await client.list_tools()).tools] == ["fs__read"]
        assert (await client.call_tool("fs__read", {})).content[0].text == "hello"


@pytest.mark.parametrize("how", ["nobody reads its output", "it is terminated"])
async def test_the_stdio_edge_ends_though_its_input_stays_open(
    around: Surroundings, broker, tmp_path: Path, how: str
) -> None:
    ours, theirs = os.pipe()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.edges.stdio", "--url", broker.url),
        *("--tenant", DEMO_TENANT, "--instance", "stdio-1"),
        *("--nkey-seed-file", broker.seed_for("stdio", "stdio-1")),
        stdin=asyncio.subprocess.PIPE,
        stdout=theirs,
    )
    os.close(theirs)
    assert child.stdin is not None
    reader = asyncio.StreamReader()
    output, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0)
    )
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    try:
        async with process(around, broker, tmp_path, "gateway-1"):
            client = LineClient(reader, child.stdin)
            assert "result" in await client.ask("initialize", 1, asked)
            if how == "it is terminated":
                child.terminate()
            else:
                output.close()
            async with asyncio.timeout(10):
                assert await child.wait() == 0
    finally:
        output.close()
        child.stdin.close()
        if child.returncode is None:
            child.kill()


async def test_the_stdio_edge_survives_its_gateway_and_ends_with_its_input(
    around: Surroundings, broker, tmp_path: Path
) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.edges.stdio", "--url", broker.url),
        *("--tenant", DEMO_TENANT, "--instance", "stdio-1"),
        *("--nkey-seed-file", broker.seed_for("stdio", "stdio-1")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    client = LineClient(child.stdout, child.stdin)
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    async with process(around, broker, tmp_path, "gateway-1") as first:
        assert (await client.ask("tools/list", 0))["error"]["code"] == -32602
        assert "result" in await client.ask("initialize", 1, asked)
        assert "result" in await client.ask("tools/call", 2, {"name": "fs__read"})
        await first.stop()
    client.send({**CALL, "id": 3})
    refused = await client.answer()
    assert refused["error"]["code"] == -31011
    assert refused["error"]["data"]["outcome"] == "not_executed"
    async with process(around, broker, tmp_path, "gateway-2"):
        client.send({**CALL, "id": 4})
        assert "result" in await client.answer()
        client.send({**CALL, "id": 5})
        client.writer.write_eof()
        assert "result" in await client.answer()
        async with asyncio.timeout(5):
            assert await child.wait() == 0


async def test_a_rolling_restart_under_load_loses_no_call(
    around: Surroundings, broker, tmp_path: Path
) -> None:
    async with process(around, broker, tmp_path, "gateway-1") as first:
        port = first.port("tcp")
        bases = [f"http://127.0.0.1:{first.port('http')}"]
        stop = asyncio.Event()
        calls = failures = 0
        body, headers = modern("tools/call", 1, name="fs__read", arguments={})

        async def over_http() -> None:
            nonlocal calls, failures
            async with httpx.AsyncClient() as client:
                while not stop.is_set():
                    answer = await client.post(f"{bases[-1]}/mcp", content=body, headers=headers)
                    calls += 1
                    failures += "result" not in answer.json()
                    await asyncio.sleep(0.01)

        async def over_tcp() -> None:
            nonlocal calls, failures
            while not stop.is_set():
                client = await LineClient.connect(port)
                answer = await client.ask("tools/call", 1, {"name": "fs__read"})
                calls += 1
                failures += "result" not in answer
                await client.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(over_http())
                group.create_task(over_tcp())
            async with process(around, broker, tmp_path, "gateway-2", reuse=port) as second:
                bases.append(f"http://127.0.0.1:{second.port('http')}")
                before = calls
                await eventually(lambda: calls > before + 50)
                assert await first.stop() == 0
                before = calls
                await eventually(lambda: calls > before + 50)
                stop.set()
        assert failures == 0
        assert calls > 100
