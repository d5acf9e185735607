"""Tools that are not in the list are found, described and called, by old and new clients alike."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.integration.task_rig import Peer, task_runner

from gateway.config import ListsConfig
from gateway.core.search_tools import ToolsMode
from gateway.testing import (
    LineClient,
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.contracts.virtuals import VirtualServer, VirtualTool
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.types.meta import CLIENT_CAPABILITIES

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


async def said(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode(), said="it")


async def fails(call, params) -> bytes:
    raise MeshError(ErrorKind.UPSTREAM, "it broke")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server(
            "fs",
            tool("read_file", description="Reads a file from disk.", inputSchema=SCHEMA),
            tool("write_file", description="Writes text to a file.", inputSchema=SCHEMA),
        )
        await parts.put_server("mail", tool("send", description="Sends an e-mail to somebody."))
        parts.scripts |= {"fs:read_file": said, "fs:write_file": fails, "mail:send": said}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    lists = ListsConfig(tools=ToolsMode.SEARCH)
    async with running_gateway(around, connect_bus, lists=lists) as running:
        yield running


async def ask(running: Running, method: str, token: str = "", **params: object) -> Any:
    body, headers = modern(method, **params)
    if token:
        headers["authorization"] = f"Bearer {token}"
    async with httpx.AsyncClient(base_url=running.http) as client:
        return (await client.post("/mcp", content=body, headers=headers)).json()


async def use(running: Running, asked: str, token: str = "", /, **arguments: object) -> Any:
    answer = await ask(running, "tools/call", token, name=asked, arguments=arguments)
    return answer.get("result", answer)


async def test_a_client_sees_three_tools_and_finds_the_rest(gateway: Running) -> None:
    listed = (await ask(gateway, "tools/list"))["result"]["tools"]
    assert [one["name"] for one in listed] == ["tools_call", "tools_describe", "tools_search"]
    found = await use(gateway, "tools_search", query="reading files", limit=1)
    assert found["structuredContent"]["tools"] == [
        {
            "name": "fs__read_file",
            "server": "fs",
            "description": "Reads a file from disk.",
            "score": found["structuredContent"]["tools"][0]["score"],
            "requiredArguments": ["path"],
        }
    ]
    assert "fs__read_file (needs path)" in found["content"][0]["text"]
    assert found["resultType"] == "complete"
    addressed = await use(gateway, "mesh:tools_search", query="reading files", limit=1)
    assert addressed == found  # as agents name it: server and tool
    described = await use(gateway, "tools_describe", names=["fs__read_file", "nope"])
    assert described["structuredContent"]["tools"][0]["inputSchema"] == SCHEMA
    assert described["structuredContent"]["unknown"] == ["nope"]
    called = await use(gateway, "tools_call", name="fs__read_file", arguments={"path": "/a"})
    assert called["content"][0]["text"] == '{"path":"/a"}'
    discovered = (await ask(gateway, "server/discover"))["result"]
    assert "tools_search" in discovered["instructions"]


async def test_a_definition_is_described_byte_for_byte(
    gateway: Running, around: Surroundings
) -> None:
    odd = msgspec.Raw(b'{"name":"odd","inputSchema":{"type":"object","x":1.50,"y":"\\u00e9"}}')
    await around.put_server("odd", msgspec.structs.replace(tool("odd"), definition=odd))
    body, headers = modern("tools/call", name="tools_describe", arguments={"names": ["odd__odd"]})
    async with httpx.AsyncClient(base_url=gateway.http) as client:
        for _ in range(100):
            answer = await client.post("/mcp", content=body, headers=headers)
            if b'"unknown"' not in answer.content:
                break
    assert b'"inputSchema":{"type":"object","x":1.50,"y":"\\u00e9"}' in answer.content


async def test_search_shows_and_calls_only_what_the_grant_covers(
    gateway: Running, around: Surroundings
) -> None:
    grant = Grant(permissions=frozenset({"CallTools"}), allow=("fs:*",), deny=("fs:write*",))
    around.allow("limited", grant)
    found = await use(gateway, "tools_search", "limited", query="send write read file", limit=20)
    assert [one["name"] for one in found["structuredContent"]["tools"]] == ["fs__read_file"]
    described = await use(gateway, "tools_describe", "limited", names=["mail__send"])
    assert described["structuredContent"] == {"tools": [], "unknown": ["mail__send"]}
    refused = await use(gateway, "tools_call", "limited", name="mail__send")
    assert refused["error"]["code"] == -31003
    assert refused["error"]["data"]["missing"]


async def test_tools_call_answers_errors_exactly_as_a_direct_call(gateway: Running) -> None:
    arguments = {"path": "/a"}
    direct = await use(gateway, "fs__write_file", **arguments)
    routed = await use(gateway, "tools_call", name="fs__write_file", arguments=arguments)
    assert routed["error"] == direct["error"]
    unknown = await use(gateway, "tools_call", name="nope")
    assert unknown["error"]["code"] == -32602
    itself = await use(gateway, "tools_call", name="tools_call", arguments={"name": "fs__x"})
    assert itself["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tools_search", {}),
        ("tools_search", {"query": "the"}),
        ("tools_search", {"query": "x", "limit": 21}),
        ("tools_search", {"query": "x", "limit": 1.5}),
        ("tools_search", {"query": "x", "other": 1}),
        ("tools_search", {"query": "x" * 1_001}),
        ("tools_describe", {"names": []}),
        ("tools_describe", {"names": [str(n) for n in range(21)]}),
        ("tools_call", {"arguments": {}}),
        ("tools_call", {"name": "fs__read_file", "arguments": []}),
    ],
)
async def test_arguments_that_do_not_fit_are_a_tool_error(
    gateway: Running, name: str, arguments: dict[str, object]
) -> None:
    answer = (await ask(gateway, "tools/call", name=name, arguments=arguments))["result"]
    assert answer["isError"] is True
    assert answer["content"][0]["text"]


async def test_an_old_client_on_tcp_searches_and_calls_with_progress(
    gateway: Running, around: Surroundings
) -> None:
    async def slow(call, params) -> bytes:
        meta = msgspec.json.decode(params["_meta"])
        token = meta["progressToken"]
        notice = {"progressToken": token, "progress": 1}
        await call.emit(
            msgspec.json.encode(
                {"jsonrpc": "2.0", "method": "notifications/progress", "params": notice}
            )
        )
        return text_result("done")

    around.scripts["mail:send"] = slow
    client = await LineClient.connect(gateway.tcp)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    await client.ask("initialize", 0, hello)
    query = {"name": "tools_search", "arguments": {"query": "send", "server": "mail"}}
    found = (await client.ask("tools/call", 1, query))["result"]
    assert [one["name"] for one in found["structuredContent"]["tools"]] == ["mail__send"]
    call = {"name": "tools_call", "arguments": {"name": "mail:send"}, "_meta": {"progressToken": 7}}
    client.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
    progress = await client.receive()
    assert progress["params"] == {"progressToken": 7, "progress": 1}
    assert (await client.receive())["result"]["content"][0]["text"] == "done"
    await client.close()


async def test_both_lists_everything_and_the_three(around: Surroundings, connect_bus) -> None:
    async with running_gateway(
        around, connect_bus, lists=ListsConfig(tools=ToolsMode.BOTH)
    ) as running:
        listed = (await ask(running, "tools/list"))["result"]["tools"]
        assert len(listed) == 6
        assert (await use(running, "tools_search", query="file"))["structuredContent"]["tools"]
        async with httpx.AsyncClient(base_url=running.http) as client:
            plain = await client.post("/tools/tools_search", json={"query": "file"})
        assert plain.json()["structuredContent"]["tools"]


async def test_full_has_no_search_tools_at_all(around: Surroundings, connect_bus) -> None:
    async with running_gateway(around, connect_bus) as running:
        listed = (await ask(running, "tools/list"))["result"]["tools"]
        assert [one["name"] for one in listed] == ["fs__read_file", "fs__write_file", "mail__send"]
        refused = await use(running, "tools_search", query="file")
        assert refused["error"]["code"] == -32602


async def test_a_tool_of_the_same_bare_name_loses(around: Surroundings, connect_bus) -> None:
    await around.put_server("native", tool("tools_search"), prefixed=False)
    around.scripts["native:tools_search"] = said
    async with running_gateway(
        around, connect_bus, lists=ListsConfig(tools=ToolsMode.BOTH)
    ) as running:
        listed = (await ask(running, "tools/list"))["result"]["tools"]
        assert [one["name"] for one in listed].count("tools_search") == 1
        found = await use(running, "tools_search", query="file")
        assert "tools" in found["structuredContent"]
    async with running_gateway(around, connect_bus, "gateway-2") as running:
        assert (await use(running, "tools_search"))["structuredContent"] == {"said": "it"}


async def test_a_changed_catalogue_is_searched_at_once(
    gateway: Running, around: Surroundings
) -> None:
    async def names() -> list[str]:
        found = await use(gateway, "tools_search", query="translate")
        return [one["name"] for one in found["structuredContent"]["tools"]]

    assert await names() == []
    await around.put_server("words", tool("translate"))
    for _ in range(200):
        if await names() == ["words__translate"]:
            break
    else:
        raise AssertionError("the new tool was not found")


async def test_a_virtual_server_chooses_for_itself_and_bounds_the_search(
    around: Surroundings, connect_bus
) -> None:
    chosen = (VirtualTool(server="fs", tool="read_file", name="look"),)
    await around.put_virtual(VirtualServer(name="desk", tools=chosen, tool_list="search"))
    async with (
        running_gateway(around, connect_bus) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):

        async def there(asked: str, /, **arguments: object) -> Any:
            body, headers = modern("tools/call", name=asked, arguments=arguments)
            answer = await client.post("/mcp/v/desk", content=body, headers=headers)
            return answer.json().get("result", answer.json())

        body, headers = modern("tools/list")
        listed = (await client.post("/mcp/v/desk", content=body, headers=headers)).json()
        assert len(listed["result"]["tools"]) == 3
        found = await there("tools_search", query="file mail send write look", limit=20)
        assert [one["name"] for one in found["structuredContent"]["tools"]] == ["look"]
        called = await there("tools_call", name="look", arguments={"path": "/a"})
        assert called["content"][0]["text"] == '{"path":"/a"}'
        assert "error" in await there("tools_call", name="mail__send")


async def test_a_call_that_asks_for_input_goes_on_through_tools_call(
    gateway: Running, around: Surroundings
) -> None:
    form = {
        "mode": "form",
        "message": "Sure?",
        "requestedSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
    }
    asks = {"ask": {"method": "elicitation/create", "params": form}}

    async def asking(call, params) -> bytes:
        if "inputResponses" not in params:
            body = {"resultType": "input_required", "inputRequests": asks, "requestState": "own"}
            return msgspec.json.encode(body)
        return text_result("done", state=msgspec.json.decode(params["requestState"]))

    around.scripts["mail:send"] = asking
    can = {CLIENT_CAPABILITIES: {"elicitation": {"form": {}}}}
    call = {"name": "tools_call", "arguments": {"name": "mail__send", "arguments": {"to": "x"}}}
    first = (await ask(gateway, "tools/call", meta=can, **call))["result"]
    assert first["resultType"] == "input_required"
    answers = {"ask": {"action": "accept", "content": {"ok": True}}}
    again = {"inputResponses": answers, "requestState": first["requestState"]}
    second = (await ask(gateway, "tools/call", meta=can, **call, **again))["result"]
    assert second["structuredContent"] == {"state": "own"}
    call["arguments"]["arguments"] = {"to": "y"}
    other = await ask(gateway, "tools/call", meta=can, **call, **again)
    assert "error" in other


async def test_a_task_is_made_of_the_called_tool(
    gateway: Running, around: Surroundings, connect_bus
) -> None:
    async with task_runner(connect_bus), httpx.AsyncClient() as client:
        peer = Peer(client, gateway.http)
        made = await peer.call("tools_call", name="mail__send", arguments={"to": "x"})
        assert made["resultType"] == "task"
        task = await peer.until(made["taskId"], "completed", "failed")
        assert task["result"]["content"][0]["text"] == '{"to":"x"}'
