"""The first call through every edge of a gateway: real broker, real sockets, scripted servers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest_asyncio

from gateway.testing import (
    JSON_HEADERS,
    LineClient,
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)


async def echo(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode(), said="it")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server("echo", tool("echo"), prefixed=False)
        await parts.put_server("fs", tool("read", description="reads"))
        parts.scripts |= {"echo:echo": echo, "fs:read": echo}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


async def lines(port: int, *messages: object) -> list[dict[str, Any]]:
    client = await LineClient.connect(port)
    for message in messages:
        client.send(message)
    client.writer.write_eof()
    answers = [msgspec.json.decode(line) async for line in client.reader]
    await client.close()
    return answers


async def test_a_modern_client_lists_and_calls_over_http(gateway: Running) -> None:
    async with httpx.AsyncClient(base_url=gateway.http) as client:
        body, headers = modern("tools/list")
        listed = (await client.post("/mcp", content=body, headers=headers)).json()
        body, headers = modern("tools/call", "a", name="fs__read", arguments={"k": [1.0, "é"]})
        called = await client.post("/mcp", content=body, headers=headers)
    assert [one["name"] for one in listed["result"]["tools"]] == ["echo", "fs__read"]
    assert listed["result"]["tools"][0]["description"]
    assert called.status_code == 200
    answer = called.json()
    assert answer["id"] == "a"
    assert answer["result"]["content"][0]["text"] == '{"k":[1.0,"é"]}'
    assert answer["result"]["resultType"] == "complete"
    assert answer["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mcp-mesh"


async def test_a_legacy_client_opens_a_session_and_calls_over_http(gateway: Running) -> None:
    async with httpx.AsyncClient(base_url=gateway.http, headers=JSON_HEADERS) as client:
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
        opened = await client.post(
            "/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        )
        session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        noted = await client.post(
            "/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session
        )
        call = {"name": "echo", "arguments": {"a": 1}}
        called = await client.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
            headers=session,
        )
        ended = await client.delete("/mcp", headers=session)
        gone = await client.post(
            "/mcp", json={"jsonrpc": "2.0", "id": 2, "method": "ping"}, headers=session
        )
    assert opened.json()["result"]["protocolVersion"] == "2025-06-18"
    assert noted.status_code == 202
    assert called.json()["result"] == {
        "content": [{"type": "text", "text": '{"a":1}'}],
        "isError": False,
        "structuredContent": {"said": "it"},
    }
    assert ended.status_code == 204
    assert gone.status_code == 404


async def test_a_script_calls_a_tool_by_its_path(gateway: Running) -> None:
    async with httpx.AsyncClient(base_url=gateway.http) as client:
        called = await client.post("/tools/echo", json={"key": "a"})
        alias = await client.post("/tools/fs:read", json={})
        unknown = await client.post("/tools/none", json={})
        health = await client.get("/health")
        metrics = await client.get("/metrics")
    assert called.json()["content"][0]["text"] == '{"key":"a"}'
    assert alias.status_code == 200
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == -32602
    assert health.json()["status"] == "healthy"
    assert 'mesh_calls_total{edge="http",method="tools/call",outcome="ok"} 2.0' in metrics.text
    assert 'mesh_sessions{edge="http"}' in metrics.text
    assert 'mesh_sessions{edge="tcp"}' in metrics.text


async def test_one_line_through_a_half_closed_socket_is_answered(gateway: Running) -> None:
    ping, called = await lines(
        gateway.tcp,
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}},
        {
            "jsonrpc": "2.0",
            "id": "1",
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {}},
        },
    )
    assert ping["result"]["status"] == "ok"
    assert called["id"] == "1"
    assert called["result"]["said"] == "it"
