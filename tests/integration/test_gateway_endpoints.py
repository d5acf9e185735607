"""`/mcp/u/<server>`: one server as it is, both eras, the same grant, scripted servers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from gateway.config import ListsConfig
from gateway.testing import (
    JSON_HEADERS,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.contracts.tenant_auth import Grant

LONG = "n" * 100
NARROW = Grant(permissions=frozenset({"CallTools"}), allow=("notes:*",))
INFO = b'{"name":"notes","version":"7"}'


async def echo(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode())


async def read(call, params) -> bytes:
    return msgspec.json.encode(
        {"resultType": "complete", "contents": [{"uri": msgspec.json.decode(params["uri"])}]}
    )


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server(
            "notes",
            tool("read", description="reads"),
            tool(LONG, description="long"),
            resources=(msgspec.Raw(b'{"uri":"note://1","name":"one"}'),),
            capabilities=msgspec.Raw(b'{"tools":{},"resources":{},"logging":{}}'),
            server_info=msgspec.Raw(INFO),
            instructions="Only notes.",
        )
        await parts.put_server("other", tool("read", description="of another"))
        await parts.put_server("empty")
        parts.scripts |= {
            "notes:read": echo,
            f"notes:{LONG}": echo,
            "other:read": echo,
            "notes:resources/read": read,
        }
        parts.allow("narrow", NARROW)
        yield parts


@pytest_asyncio.fixture
async def client(around: Surroundings, connect_bus) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running_gateway(around, connect_bus) as running,
        httpx.AsyncClient(base_url=running.http, headers=JSON_HEADERS) as client,
    ):
        yield client


async def ask(
    client: httpx.AsyncClient, path: str, method: str, key: str = "", **params: object
) -> Any:
    body, headers = modern(method, **params)
    if key:
        headers["authorization"] = f"Bearer {key}"
    answer = await client.post(path, content=body, headers=headers)
    return answer.json() | {"status": answer.status_code}


async def opened(client: httpx.AsyncClient, path: str) -> tuple[dict[str, Any], dict[str, str]]:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    answer = await client.post(
        path, json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    )
    return answer.json()["result"], {"mcp-session-id": answer.headers["mcp-session-id"]}


async def test_a_modern_client_sees_a_server_under_its_own_names(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    listed = await ask(client, "/mcp/u/notes", "tools/list")
    assert [one["name"] for one in listed["result"]["tools"]] == [LONG, "read"]
    for name in ("read", LONG):
        called = await ask(client, "/mcp/u/notes", "tools/call", name=name, arguments={"a": 1.0})
        assert called["result"]["content"][0]["text"] == '{"a":1.0}'
    assert [call.subject.names for call in around.seen] == [("notes", "read"), ("notes", LONG)]
    body = await ask(client, "/mcp/u/notes/", "resources/read", uri="note://1")
    assert body["result"]["contents"] == [{"uri": "note://1"}]
    elsewhere = await ask(client, "/mcp/u/notes", "tools/call", name="other__read")
    assert elsewhere["error"]["code"] == -32602


async def test_a_server_presents_itself_at_its_endpoint(client: httpx.AsyncClient) -> None:
    result = (await ask(client, "/mcp/u/notes", "server/discover"))["result"]
    changed = {"listChanged": True}
    assert result["instructions"] == "Only notes."
    assert {"tools", "resources", "logging"} <= result["capabilities"].keys()
    assert "prompts" not in result["capabilities"]
    assert result["capabilities"]["tools"] == changed
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mcp-mesh"
    assert result["_meta"]["mesh/upstreamInfo"] == msgspec.json.decode(INFO)
    legacy, _ = await opened(client, "/mcp/u/notes")
    assert legacy["instructions"] == "Only notes."
    assert legacy["serverInfo"]["name"] == "mcp-mesh"
    assert legacy["_meta"]["mesh/upstreamInfo"] == msgspec.json.decode(INFO)


async def test_a_legacy_client_calls_by_own_names_in_a_session_of_the_endpoint(
    client: httpx.AsyncClient,
) -> None:
    _, session = await opened(client, "/mcp/u/notes")
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}}
    called = await client.post("/mcp/u/notes", json=call, headers=session)
    assert called.json()["result"]["content"][0]["text"] == "{}"
    for path in ("/mcp", "/mcp/u/other"):
        assert (await client.post(path, json=call, headers=session)).status_code == 404
        assert (await client.get(path, headers=session)).status_code == 404
        assert (await client.delete(path, headers=session)).status_code == 404
    assert (await client.delete("/mcp/u/notes", headers=session)).status_code == 204
    assert (await client.post("/mcp/u/notes", json=call, headers=session)).status_code == 404


@pytest.mark.parametrize("path", ["/mcp/u/missing", "/mcp/u/", "/mcp/x/notes", "/mcp/u/a/b"])
async def test_an_endpoint_that_is_not_there_is_a_404_in_json(
    client: httpx.AsyncClient, path: str
) -> None:
    refused = await ask(client, path, "tools/list")
    assert refused["status"] == 404
    assert refused["error"]["code"] == -32602
    begun = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
    assert (await client.post(path, json=begun)).status_code == 404
    assert (await client.get(path)).status_code == 404


async def test_a_server_that_no_rule_allows_does_not_exist_for_the_caller(
    client: httpx.AsyncClient,
) -> None:
    for server in ("other", "empty", "missing"):
        refused = await ask(client, f"/mcp/u/{server}", "tools/list", "narrow")
        assert (refused["status"], refused["error"]["message"]) == (404, "no such endpoint")
    listed = await ask(client, "/mcp/u/notes", "tools/list", "narrow")
    assert len(listed["result"]["tools"]) == 2
    assert (await ask(client, "/mcp/u/empty", "tools/list"))["result"]["tools"] == []


async def test_a_cursor_of_one_endpoint_does_not_work_at_another(
    around: Surroundings, connect_bus
) -> None:
    async with (
        running_gateway(around, connect_bus, lists=ListsConfig(page_size=1)) as running,
        httpx.AsyncClient(base_url=running.http, headers=JSON_HEADERS) as client,
    ):
        first = await ask(client, "/mcp/u/notes", "tools/list")
        cursor = first["result"]["nextCursor"]
        second = await ask(client, "/mcp/u/notes", "tools/list", cursor=cursor)
        assert [one["name"] for one in second["result"]["tools"]] == ["read"]
        assert (await ask(client, "/mcp", "tools/list", cursor=cursor))["error"]["code"] == -32602


async def test_a_listener_at_an_endpoint_hears_of_that_server_alone(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    body, headers = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    async with client.stream("POST", "/mcp/u/notes", content=body, headers=headers) as stream:
        lines = stream.aiter_lines()

        async def heard() -> dict[str, Any]:
            async with asyncio.timeout(3):
                async for line in lines:
                    if line.startswith("data: "):
                        return msgspec.json.decode(line[6:])
            raise EOFError

        assert (await heard())["method"] == "notifications/subscriptions/acknowledged"
        await around.put_server("other", tool("read"), tool("more"))
        await around.put_server("notes", tool("read"), tool("write"))
        assert (await heard())["method"] == "notifications/tools/list_changed"
        listed = await ask(client, "/mcp/u/notes", "tools/list")
        assert [one["name"] for one in listed["result"]["tools"]] == ["read", "write"]
        await around.remove_server("notes")
        assert (await heard())["method"] == "notifications/tools/list_changed"
        assert (await ask(client, "/mcp/u/notes", "tools/list"))["status"] == 404


async def test_a_legacy_stream_hears_of_its_endpoint_alone(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    _, session = await opened(client, "/mcp/u/notes")
    headers = {**session, "accept": "text/event-stream"}
    async with client.stream("GET", "/mcp/u/notes", headers=headers) as stream:
        assert stream.status_code == 200
        lines = stream.aiter_lines()

        async def heard() -> str:
            async with asyncio.timeout(3):
                async for line in lines:
                    if line.startswith("data: "):
                        return msgspec.json.decode(line[6:])["method"]
            raise EOFError

        await around.put_server("other", tool("read"), tool("more"))
        await around.put_server("notes", prompts=(msgspec.Raw(b'{"name":"p"}'),))
        told = {await heard(), await heard(), await heard()}
    assert told == {
        f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")
    }
