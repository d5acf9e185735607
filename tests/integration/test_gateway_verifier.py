"""A real HTTP verifier before every request to a server: on every edge, honest, slow and lying."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web

from gateway.config import ListsConfig, VerifierConfig
from gateway.core.search_tools import ToolsMode
from gateway.testing import (
    ENVELOPE,
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
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.types.meta import CLIENT_CAPABILITIES, TASKS_EXTENSION
from mesh_chassis.config import ConfigError

DENIED = -31003
REASON = "not on Fridays"
LONG = tuple(f"file:///{'x' * 300}{letter}" for letter in "yz")
"""Two URIs that are too long for a header, and so for whoever reads only that."""


class Verifier:
    """Allows everything but what ``denied`` names, until ``lie`` says otherwise."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.questions: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.lie: web.StreamResponse | None = None
        self.hold: asyncio.Event | None = None
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("authorization", ""))
        self.questions.append(msgspec.json.decode(await request.read()))
        if self.hold is not None:
            await self.hold.wait()
        if self.lie is not None:
            return self.lie
        question = self.questions[-1]
        if question["name"] in self.denied:
            return web.json_response({"decision": "deny", "reason": REASON})
        return web.json_response({"decision": "allow"})


@pytest_asyncio.fixture
async def verifier() -> AsyncIterator[Verifier]:
    peer = Verifier()
    app = web.Application()
    app.router.add_post("/v1/verify", peer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/verify"
    yield peer
    if peer.hold is not None:
        peer.hold.set()
    await runner.cleanup()


async def said(call, params) -> bytes:
    return text_result("it ran")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server(
            "fs",
            tool("read"),
            tool("wipe"),
            prompts=(msgspec.Raw(b'{"name":"hello"}'),),
            resources=tuple(
                msgspec.Raw(msgspec.json.encode({"uri": uri, "name": uri[-1]}))
                for uri in ("file:///a", *LONG)
            ),
        )
        parts.scripts |= {"fs:read": said, "fs:wipe": said}
        yield parts


@asynccontextmanager
async def gateway(
    around: Surroundings, connect_bus, verifier: Verifier, **config: Any
) -> AsyncIterator[Running]:
    table = VerifierConfig(url=verifier.url, **{"timeout_s": 5.0, **config})
    async with running_gateway(around, connect_bus, verifier=table) as running:
        yield running


async def called(client: httpx.AsyncClient, name: str = "fs__wipe") -> dict[str, Any]:
    body, headers = modern("tools/call", name=name, arguments={})
    return (await client.post("/mcp", content=body, headers=headers)).json()


def is_refusal(error: dict[str, Any], reason: str = REASON) -> bool:
    return (error["code"], error["data"]["outcome"], error["data"]["verifier"]) == (
        DENIED,
        "not_executed",
        reason,
    ) and reason in error["message"]


async def over_http(running: Running) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=running.http) as client:
        return (await called(client))["error"]


async def over_legacy_http(running: Running) -> dict[str, Any]:
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}
    async with httpx.AsyncClient(base_url=running.http, headers=JSON_HEADERS) as client:
        opened = await client.post(
            "/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        )
        call = {"name": "fs__wipe", "arguments": {}}
        answer = await client.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
            headers={"mcp-session-id": opened.headers["mcp-session-id"]},
        )
    return answer.json()["error"]


async def by_path(running: Running) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=running.http) as client:
        answer = await client.post("/tools/fs__wipe", json={})
    assert answer.status_code == 403
    return answer.json()["error"]


async def over_tcp(running: Running) -> dict[str, Any]:
    client = await LineClient.connect(running.tcp)
    client.send(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "fs__wipe", "arguments": {}},
        }
    )
    answer = await client.answer()
    await client.close()
    return answer["error"]


async def over_the_bus(bus: Any) -> dict[str, Any]:
    """What the stdio edge sends, too."""
    request_id = bus.new_request_id()
    params = msgspec.json.encode({"name": "fs__wipe", "arguments": {}, "_meta": ENVELOPE})
    reply = await bus.request(
        subjects.gateway("demo-tenant", "tools/call"),
        codec.encode_request("tools/call", request_id, params),
        headers=RequestEnvelope(method="tools/call", request_id=request_id).to_headers(),
        timeout_s=5.0,
    )
    return msgspec.json.decode(reply.payload)["error"]


async def test_a_denial_holds_on_every_edge_and_nothing_reaches_the_server(
    around: Surroundings, connect_bus, verifier: Verifier
) -> None:
    verifier.denied = {"wipe"}
    stdio = await connect_bus("stdio", "stdio-1")
    async with gateway(around, connect_bus, verifier, cache_s=0.0) as running:
        for edge in (over_http, over_legacy_http, by_path, over_tcp):
            assert is_refusal(await edge(running)), edge
        assert is_refusal(await over_the_bus(stdio))
        async with httpx.AsyncClient(base_url=running.http) as client:
            allowed = await called(client, "fs__read")
            text = (await client.get("/metrics")).text
    assert allowed["result"]["content"][0]["text"] == "it ran"
    assert [one.subject.names for one in around.seen] == [("fs", "read")]
    assert 'mesh_verifier_decisions_total{decision="deny",source="answer"} 5.0' in text
    assert 'mesh_verifier_decisions_total{decision="allow",source="answer"} 1.0' in text
    assert "mesh_verifier_seconds_count 6.0" in text
    assert verifier.questions[0] == {
        "tenant": "demo-tenant",
        "principal": "user-demo-123",
        "roles": ["Admin"],
        "method": "tools/call",
        "server": "fs",
        "name": "wipe",
    }


async def test_all_that_reaches_a_server_is_verified_and_lists_are_not(
    around: Surroundings, connect_bus, verifier: Verifier
) -> None:
    verifier.denied = {"file:///a", "hello"}
    asked = (
        ("resources/read", {"uri": "file:///a"}, "file:///a"),
        ("prompts/get", {"name": "fs__hello"}, "hello"),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "fs__hello"},
                "argument": {"name": "a", "value": ""},
            },
            "hello",
        ),
    )
    async with (
        gateway(around, connect_bus, verifier) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        for method in ("tools/list", "prompts/list", "resources/list", "server/discover"):
            body, headers = modern(method)
            assert "result" in (await client.post("/mcp", content=body, headers=headers)).json()
        assert verifier.questions == []
        for method, params, _ in asked:
            body, headers = modern(method, **params)
            answer = (await client.post("/mcp", content=body, headers=headers)).json()
            assert is_refusal(answer["error"]), method
    assert around.seen == []
    assert [(one["method"], one["name"]) for one in verifier.questions] == [
        (method, name) for method, _, name in asked
    ]


async def test_a_task_and_a_call_through_tool_search_are_verified_before_they_begin(
    around: Surroundings, connect_bus, verifier: Verifier
) -> None:
    verifier.denied = {"wipe"}
    table = VerifierConfig(url=verifier.url)
    lists = ListsConfig(tools=ToolsMode.BOTH)
    tasks = {CLIENT_CAPABILITIES: {"extensions": {TASKS_EXTENSION: {}}}, "mesh/task": {}}
    async with (
        running_gateway(around, connect_bus, verifier=table, lists=lists) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        body, headers = modern("tools/call", meta=tasks, name="fs__wipe", arguments={})
        answer = (await client.post("/mcp", content=body, headers=headers)).json()
        assert is_refusal(answer["error"])
        body, headers = modern(
            "tools/call", name="tools_call", arguments={"name": "fs__wipe", "arguments": {}}
        )
        found = (await client.post("/mcp", content=body, headers=headers)).text
    assert REASON in found
    assert around.seen == []


async def test_long_names_are_told_whole_and_share_no_decision(
    around: Surroundings, connect_bus, verifier: Verifier
) -> None:
    verifier.denied = {LONG[1]}
    async with (
        gateway(around, connect_bus, verifier, cache_s=60.0) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        answers = []
        for uri in LONG:
            body, headers = modern("resources/read", uri=uri)
            answers.append((await client.post("/mcp", content=body, headers=headers)).json())
    assert answers[0]["error"]["code"] != DENIED  # the scripted server has no such script
    assert is_refusal(answers[1]["error"])


async def test_a_decision_is_asked_once_for_calls_at_once_and_after(
    around: Surroundings, connect_bus, verifier: Verifier
) -> None:
    async with (
        gateway(around, connect_bus, verifier, cache_s=60.0) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        answers = await asyncio.gather(*(called(client) for _ in range(10)))
        assert all("result" in one for one in answers)
        await called(client)
    assert len(verifier.questions) == 1


@pytest.mark.parametrize("policy", ["deny", "allow"])
async def test_a_verifier_that_hangs_costs_its_time_out_and_then_nothing(
    around: Surroundings, connect_bus, verifier: Verifier, policy: str
) -> None:
    verifier.hold = asyncio.Event()
    async with (
        gateway(around, connect_bus, verifier, timeout_s=0.05, on_timeout=policy) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        for _ in range(8):
            answer = await called(client)
            if policy == "allow":
                assert answer["result"]["content"][0]["text"] == "it ran"
            else:
                assert is_refusal(answer["error"], "the verifier does not answer")
                assert answer["error"]["data"]["retryAfterMs"] > 0
    assert len(verifier.questions) == 5
    assert len(around.seen) == (8 if policy == "allow" else 0)


async def test_a_verifier_that_is_not_there_is_as_one_that_hangs(
    around: Surroundings, connect_bus, verifier: Verifier, unused_tcp_port: int
) -> None:
    verifier.url = f"http://127.0.0.1:{unused_tcp_port}/"
    async with (
        gateway(around, connect_bus, verifier, on_timeout="allow") as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        assert "result" in await called(client)


LIES = {
    "text": lambda: web.Response(text="sure, go on"),
    "another shape": lambda: web.json_response({"allow": True}),
    "created": lambda: web.json_response({"decision": "allow"}, status=201),
    "redirect": lambda: web.Response(status=302, headers={"location": "http://127.0.0.1:1/"}),
    "our key is refused": lambda: web.json_response({"decision": "allow"}, status=401),
    "huge": lambda: web.json_response({"decision": "allow", "reason": "x" * 2**20}),
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_is_no_decision_denies_even_where_silence_allows(
    around: Surroundings, connect_bus, verifier: Verifier, lie: str
) -> None:
    verifier.lie = LIES[lie]()
    async with (
        gateway(around, connect_bus, verifier, on_timeout="allow") as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        error = (await called(client))["error"]
    assert is_refusal(error, "the verifier gave no valid answer")
    assert around.seen == []


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_verifier_that_fails_is_silent(
    around: Surroundings, connect_bus, verifier: Verifier, status: int
) -> None:
    verifier.lie = web.Response(status=status)
    async with (
        gateway(around, connect_bus, verifier) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        error = (await called(client))["error"]
    assert is_refusal(error, "the verifier does not answer")


async def test_the_key_is_read_from_its_file_and_sent(
    around: Surroundings, connect_bus, verifier: Verifier, tmp_path: Path
) -> None:
    key = tmp_path / "verifier.key"
    key.write_text("s3cret\n")
    async with (
        gateway(around, connect_bus, verifier, api_key=f"file:{key}") as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        assert "result" in await called(client)
    assert verifier.keys == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"url": ""}, "verifier.url"),
        ({"url": "ftp://verifier"}, "verifier.url"),
        ({"url": "http://me:pw@verifier"}, "verifier.url"),
        ({"api_key": "env:MESH_TEST_NO_SUCH_KEY"}, "verifier.api_key"),
        ({"tls_ca_file": "no-such-file"}, "verifier.tls_ca_file"),
    ],
)
async def test_a_verifier_that_cannot_be_ends_the_start(
    around: Surroundings, connect_bus, verifier: Verifier, config: dict[str, Any], key: str
) -> None:
    verifier.url = config.pop("url", verifier.url)
    with pytest.raises(ConfigError) as caught:
        async with gateway(around, connect_bus, verifier, on_timeout="allow", **config):
            pass
    assert caught.value.key == key
