"""`/mcp/v/<name>` on a real broker: what is shown, what is called, who sees it, how it changes."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
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
from mcp_proto import codec, subjects
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.contracts.virtuals import (
    Argument,
    VirtualPrompt,
    VirtualResource,
    VirtualServer,
    VirtualTool,
)
from mcp_proto.endpoints import EndpointEnvelope
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.conditions import eventually

FIND = {
    "type": "object",
    "properties": {
        "repo": {"type": "string", "x-mcp-header": "Repo"},
        "q": {"type": "string"},
    },
    "required": ["repo", "q"],
}
NOTES_ONLY = Grant(permissions=frozenset({"CallTools"}), allow=("notes:*",))
WITHIN_S = 0.5


async def echo(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode())


async def prompt(call, params) -> bytes:
    name = msgspec.json.decode(params["name"])
    return msgspec.json.encode(
        {"resultType": "complete", "messages": [], "description": f"prompt {name}"}
    )


async def read(call, params) -> bytes:
    uri = msgspec.json.decode(params["uri"])
    return msgspec.json.encode({"resultType": "complete", "contents": [{"uri": uri, "text": "t"}]})


def desk(*tools: VirtualTool, **members: Any) -> VirtualServer:
    return VirtualServer(name="desk", tools=tools, **members)


FULL = desk(
    VirtualTool(server="notes", tool="read", name="look", title="Look"),
    VirtualTool(server="notes", tool="wipe", roles=("Admin",)),
    VirtualTool(server="git", tool="find", arguments={"repo": Argument(value="acme/site")}),
    prompts=(VirtualPrompt(server="notes", prompt="sum", name="sum_up"),),
    resources=(VirtualResource(server="notes", uri="note://1", shown_uri="desk://one"),),
    title="Desk",
    instructions="Be brief.",
)


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server(
            "notes",
            tool("read", description="reads"),
            tool("wipe"),
            prompts=(msgspec.Raw(b'{"name":"sum"}'),),
            resources=(msgspec.Raw(b'{"uri":"note://1","name":"one"}'),),
        )
        await parts.put_server("git", tool("find", inputSchema=FIND), tool("read"))
        parts.scripts |= {
            "notes:read": echo,
            "notes:wipe": echo,
            "git:find": echo,
            "notes:prompts/get": prompt,
            "notes:resources/read": read,
        }
        await parts.put_virtual(FULL)
        parts.allow("notes-only", NOTES_ONLY)
        parts.allow("user")
        parts.allow("stranger", tenant="other")
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http, headers=JSON_HEADERS) as client:
        yield client


async def ask(
    client: httpx.AsyncClient, method: str, key: str = "", path: str = "/mcp/v/desk", **params: Any
) -> Any:
    body, headers = modern(method, **params)
    if key:
        headers["authorization"] = f"Bearer {key}"
    answer = await client.post(path, content=body, headers=headers)
    return answer.json() | {"status": answer.status_code}


async def names(client: httpx.AsyncClient, key: str = "") -> list[str]:
    listed = await ask(client, "tools/list", key)
    return [one["name"] for one in listed["result"]["tools"]]


async def test_a_modern_client_gets_the_chosen_things_and_calls_them_by_their_shown_names(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    assert await names(client) == ["find", "look", "wipe"]
    called = await ask(client, "tools/call", name="look", arguments={"a": 1.0})
    assert called["result"]["content"][0]["text"] == '{"a":1.0}'
    assert around.seen[-1].subject.names == ("notes", "read")
    got = await ask(client, "prompts/get", name="sum_up")
    assert got["result"]["description"] == "prompt sum"
    got = await ask(client, "resources/read", uri="desk://one")
    assert got["result"]["contents"][0]["uri"] == "desk://one"
    said = (await ask(client, "server/discover"))["result"]
    assert said["instructions"] == "Be brief."
    assert said["_meta"]["io.modelcontextprotocol/serverInfo"]["title"] == "Desk"
    for hidden in ("read", "notes__read", "notes:read", "git__read"):
        refused = await ask(client, "tools/call", name=hidden)
        assert refused["error"]["code"] == -32602


async def test_a_fixed_argument_is_not_shown_not_demanded_and_always_sent(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    listed = (await ask(client, "tools/list"))["result"]["tools"]
    schema = next(one for one in listed if one["name"] == "find")["inputSchema"]
    assert schema == {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
    called = await ask(client, "tools/call", name="find", arguments={"q": "x"})
    sent = msgspec.json.decode(called["result"]["content"][0]["text"])
    assert sent == {"repo": "acme/site", "q": "x"}
    refused = await ask(client, "tools/call", name="find", arguments={"q": "x", "repo": "other/b"})
    assert refused["error"]["code"] == -32602
    assert "repo" in refused["error"]["message"]
    assert len(around.seen) == 1


async def test_a_legacy_client_calls_in_a_session_of_the_virtual_server(
    client: httpx.AsyncClient,
) -> None:
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
    begun = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    opened = await client.post("/mcp/v/desk", json=begun)
    assert opened.json()["result"]["instructions"] == "Be brief."
    session = {"mcp-session-id": opened.headers["mcp-session-id"]}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look"}}
    called = await client.post("/mcp/v/desk", json=call, headers=session)
    assert called.json()["result"]["content"][0]["text"] == "{}"
    elsewhere = await client.post("/mcp", json=call, headers=session)
    assert elsewhere.status_code == 404


async def test_an_item_for_a_role_is_hidden_from_others_and_cannot_be_called(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    assert await names(client, "user") == ["find", "look"]
    refused = await ask(client, "tools/call", "user", name="wipe")
    assert refused["error"]["code"] == -32602
    assert not around.seen


async def test_a_virtual_server_gives_no_right(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    assert await names(client, "notes-only") == ["look"]
    refused = await ask(client, "tools/call", "notes-only", name="find", arguments={"q": "x"})
    assert refused["error"]["code"] == -31003
    assert refused["error"]["data"]["missing"] == "an allow rule for git:find"
    assert not around.seen


async def test_a_tenants_virtual_server_is_not_there_for_others(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    own = VirtualServer(
        name="own", tenant="demo-tenant", tools=(VirtualTool(server="notes", tool="read"),)
    )
    await around.put_virtual(own)

    async def there() -> bool:
        return (await ask(client, "tools/list", path="/mcp/v/own"))["status"] == 200

    await eventually(there)
    theirs = await ask(client, "tools/list", "stranger", path="/mcp/v/own")
    assert theirs["status"] == 404
    assert (await ask(client, "tools/list", "stranger"))["status"] == 200


async def test_a_listening_client_hears_of_a_change_and_others_do_not(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    body, headers = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    headers["authorization"] = "Bearer notes-only"
    async with client.stream("POST", "/mcp/v/desk", content=body, headers=headers) as stream:
        lines = stream.aiter_lines()

        async def heard() -> str:
            async with asyncio.timeout(3):
                async for line in lines:
                    if line.startswith("data: "):
                        return msgspec.json.decode(line[6:])["method"]
            raise EOFError

        assert await heard() == "notifications/subscriptions/acknowledged"
        # Nothing of this is for the listener: its next notice belongs to the change after it.
        await around.put_virtual(desk(*FULL.tools, VirtualTool(server="git", tool="read")))
        began = time.monotonic()
        await around.put_virtual(desk(VirtualTool(server="notes", tool="*")))
        assert await heard() == "notifications/tools/list_changed"
        assert time.monotonic() - began < WITHIN_S
        assert await names(client, "notes-only") == ["read", "wipe"]
        await around.remove_virtual("desk")
        assert await heard() == "notifications/tools/list_changed"
        assert (await ask(client, "tools/list"))["status"] == 404


async def test_a_virtual_server_of_a_server_to_come_is_empty_until_it_comes(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    await around.put_virtual(desk(VirtualTool(server="late", tool="*")))

    async def shows(*expected: str) -> bool:
        return await names(client) == list(expected)

    await eventually(shows)
    await around.put_server("late", tool("now"))
    await eventually(lambda: shows("now"))


async def test_a_nats_client_names_the_endpoint_in_a_header(
    gateway: Running, around: Surroundings, connect_bus
) -> None:
    bus: Bus = await connect_bus("stdio", "stdio-1")
    params = modern("tools/list")[0]
    request = msgspec.json.decode(params, type=dict[str, msgspec.Raw])

    async def listed(endpoint: str) -> bytes:
        request_id = bus.new_request_id()
        return await bus.call(
            subjects.gateway("demo-tenant", "tools/list"),
            codec.encode_request("tools/list", request_id, request["params"]),
            envelope=EndpointEnvelope(
                method="tools/list", request_id=request_id, endpoint=endpoint
            ),
            timeout_s=5.0,
            tenant="demo-tenant",
        )

    def tools(body: bytes) -> list[str]:
        return [one["name"] for one in msgspec.json.decode(body)["result"]["tools"]]

    assert tools(await listed("v/desk")) == ["find", "look", "wipe"]
    assert tools(await listed("u/git")) == ["find", "read"]
    assert "git__find" in tools(await listed(""))
    for bad in ("v/missing", "nonsense"):
        with pytest.raises(MeshError) as caught:
            await listed(bad)
        assert caught.value.code == -32602


async def test_a_line_client_chooses_the_endpoint_when_it_initializes(gateway: Running) -> None:
    for endpoint, expected in (("u/git", ["find", "read"]), ("v/desk", ["find", "look", "wipe"])):
        line = await LineClient.connect(gateway.tcp)
        params = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {},
            "_meta": {"mesh/endpoint": endpoint},
        }
        assert "result" in await line.ask("initialize", 0, params)
        answer = await line.ask("tools/list", 1)
        assert [one["name"] for one in answer["result"]["tools"]] == expected
        await line.close()
    line = await LineClient.connect(gateway.tcp)
    refused = await line.ask("initialize", 0, {"_meta": {"mesh/endpoint": "x"}})
    assert refused["error"]["code"] == -32602
    await line.close()


async def test_a_virtual_server_may_list_the_search_tools_alone(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    await around.put_virtual(desk(*FULL.tools, tool_list="search"))
    search = ["tools_call", "tools_describe", "tools_search"]

    async def listed() -> bool:
        return await names(client) == search

    await eventually(listed)
    arguments = {"name": "find", "arguments": {"q": "x"}}
    called = await ask(client, "tools/call", name="tools_call", arguments=arguments)
    sent = msgspec.json.decode(called["result"]["content"][0]["text"])
    assert sent == {"repo": "acme/site", "q": "x"}
    described = await ask(
        client, "tools/call", name="tools_describe", arguments={"names": ["find", "git__read"]}
    )
    assert "repo" not in msgspec.json.encode(described).decode()
    all_tools = await ask(client, "tools/list", path="/mcp")
    assert "tools_search" not in [one["name"] for one in all_tools["result"]["tools"]]
