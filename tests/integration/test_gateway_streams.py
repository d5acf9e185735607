"""Streams, sessions, cancel and change over HTTP and the bus: two gateways, scripted servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import pytest
import pytest_asyncio

from gateway.config import ListsConfig, SecurityConfig
from gateway.edges import mcp_legacy
from gateway.edges.sse import LateReply
from gateway.testing import (
    DEMO_TENANT,
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
from mcp_proto.codec import encode_notification, encode_request
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.envelope import Header, RequestEnvelope
from mesh_chassis.testing.conditions import eventually

INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}


async def echo(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode())


async def forever(call, params) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def progress(call, params) -> bytes:
    token = msgspec.json.decode(params["_meta"])["progressToken"]
    for step in (1, 2):
        body = msgspec.json.encode({"progressToken": token, "progress": step})
        await call.emit(encode_notification("notifications/progress", body))
    return text_result("done")


async def level(call, params) -> bytes:
    meta = msgspec.json.decode(params["_meta"])
    return text_result(str(meta.get("io.modelcontextprotocol/logLevel")))


async def read(call, params) -> bytes:
    uri = msgspec.json.decode(params["uri"])
    return msgspec.json.encode(
        {"resultType": "complete", "ttlMs": 5, "contents": [{"uri": uri, "text": "x"}]}
    )


async def prompt(call, params) -> bytes:
    return msgspec.json.encode({"resultType": "complete", "messages": [], "name": params["name"]})


async def huge(call, params) -> bytes:
    return text_result("x" * 3_000_000)


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        scripts = {
            "echo": echo,
            "forever": forever,
            "progress": progress,
            "level": level,
            "huge": huge,
        }
        await parts.put_server("t", *(tool(name) for name in scripts), prefixed=False)
        parts.scripts |= {f"t:{name}": script for name, script in scripts.items()}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as opened:
        yield opened


async def ask(client: httpx.AsyncClient, method: str, **params: object) -> Any:
    body, headers = modern(method, 1, **params)
    return (await client.post("/mcp", content=body, headers=headers)).json()


async def old(
    client: httpx.AsyncClient,
    method: str,
    params: object = None,
    *,
    session: str = "",
    **extra: str,
) -> httpx.Response:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
    headers = {**JSON_HEADERS, **extra, **({"mcp-session-id": session} if session else {})}
    return await client.post("/mcp", json=body, headers=headers)


async def open_session(client: httpx.AsyncClient, **extra: str) -> str:
    return (await old(client, "initialize", INITIALIZE, **extra)).headers["mcp-session-id"]


class Events:
    """The events of an open stream, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Any:
        async with asyncio.timeout(5):
            async for line in self._lines:
                if line.startswith("data: "):
                    return msgspec.json.decode(line[6:])
        return None


@contextlib.asynccontextmanager
async def listening(client: httpx.AsyncClient, request_id: object, **wanted: bool):
    body, headers = modern("subscriptions/listen", 1, notifications=wanted)
    message = msgspec.json.decode(body)
    message["id"] = request_id
    async with client.stream(
        "POST", "/mcp", content=msgspec.json.encode(message), headers=headers
    ) as response:
        yield Events(response)


async def test_progress_turns_the_answer_into_a_stream_that_ends_with_it(
    client: httpx.AsyncClient,
) -> None:
    body, headers = modern(
        "tools/call", 9, meta={"progressToken": 5}, name="progress", arguments={}
    )
    async with client.stream("POST", "/mcp", content=body, headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-accel-buffering"] == "no"
        events = Events(response)
        seen = [await events.next() for _ in range(4)]
    assert [one["params"]["progress"] for one in seen[:2]] == [1, 2]
    assert seen[0]["params"]["progressToken"] == 5
    assert seen[2]["id"] == 9
    assert seen[3] is None


async def test_a_listener_hears_what_it_asked_for_with_its_own_id(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    async with listening(client, 7, toolsListChanged=True) as events:
        first = await events.next()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"]["notifications"] == {"toolsListChanged": True}
        assert first["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
        await around.put_server("p", prompts=(msgspec.Raw(b'{"name":"hello"}'),), prefixed=True)
        await around.put_server("n", tool("new"))
        changed = await events.next()
        assert changed["method"] == "notifications/tools/list_changed"
        assert changed["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
        names = [one["name"] for one in (await ask(client, "tools/list"))["result"]["tools"]]
        assert "n__new" in names


async def test_a_listener_is_not_told_of_what_its_grant_hides(
    around: Surroundings, gateway: Running
) -> None:
    around.allow("narrow", Grant(permissions=frozenset({"CallTools"}), allow=("t:*", "seen:*")))
    headers = {"authorization": "Bearer narrow"}
    async with (
        httpx.AsyncClient(base_url=gateway.http, headers=headers) as client,
        listening(client, "a", toolsListChanged=True) as events,
    ):
        await events.next()
        await around.put_server("hidden", tool("x"))
        denied = await ask(client, "tools/call", name="hidden__x", arguments={})
        while denied["error"]["code"] == -32602:
            denied = await ask(client, "tools/call", name="hidden__x", arguments={})
        assert denied["error"]["code"] == -31003
        assert "hidden:x" in denied["error"]["data"]["missing"]
        names = [one["name"] for one in (await ask(client, "tools/list"))["result"]["tools"]]
        assert "hidden__x" not in names
        await around.put_server("seen", tool("y"))
        assert (await events.next())["params"]["_meta"] == {
            "io.modelcontextprotocol/subscriptionId": "a"
        }


async def test_a_closed_response_cancels_a_modern_call_and_not_an_old_one(
    client: httpx.AsyncClient, gateway: Running, around: Surroundings
) -> None:
    body, headers = modern("tools/call", 1, name="forever", arguments={})
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/mcp", content=body, headers=headers, timeout=0.2)
    await eventually(lambda: bool(around.seen) and around.seen[0].cancelled.is_set())
    session = await open_session(client)
    call = {"name": "forever", "arguments": {}}
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": call})
    own = {**JSON_HEADERS, "mcp-session-id": session}
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/mcp", content=body, headers=own, timeout=0.2)
    await around.called(2)
    assert not around.seen[1].cancelled.is_set()
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4}}
    noted = await client.post("/mcp", json=note, headers=own)
    assert noted.status_code == 202
    await eventually(around.seen[1].cancelled.is_set)


async def test_a_session_continues_and_ends_on_another_gateway(
    client: httpx.AsyncClient, around: Surroundings, connect_bus
) -> None:
    session = await open_session(client)
    async with (
        running_gateway(around, connect_bus, "gateway-2") as second,
        httpx.AsyncClient(base_url=second.http) as other,
    ):
        called = await old(other, "tools/call", {"name": "echo", "arguments": {}}, session=session)
        assert called.json()["result"]["content"]
        await old(other, "logging/setLevel", {"level": "debug"}, session=session)

        async def heard() -> bool:
            answer = await old(client, "tools/call", {"name": "level"}, session=session)
            return answer.json()["result"]["content"][0]["text"] == "debug"

        await eventually(heard)
        await other.delete("/mcp", headers={"mcp-session-id": session})

        async def gone() -> bool:
            return (await old(client, "ping", session=session)).status_code == 404

        await eventually(gone)


async def test_a_refused_post_leaves_no_answer_that_begins_later(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned: list[LateReply] = []

    class Watched(LateReply):
        async def abandon(self) -> None:
            abandoned.append(self)
            await super().abandon()

    monkeypatch.setattr(mcp_legacy, "LateReply", Watched)
    assert (await old(client, "ping", session="x" * 43)).status_code == 404
    assert (await old(client, "ping")).status_code == 400
    assert len(abandoned) == 2


async def test_a_session_is_bound_to_its_principal(
    around: Surroundings, client: httpx.AsyncClient
) -> None:
    around.allow("ann")
    around.allow("bob")
    ann, bob = ({"authorization": f"Bearer {who}"} for who in ("ann", "bob"))
    session = await open_session(client, **ann)
    assert (await old(client, "ping", session=session, **ann)).status_code == 200
    assert (await old(client, "ping", session=session, **bob)).status_code == 404
    assert (await old(client, "ping", session="x" * 43, **ann)).status_code == 404
    assert (await old(client, "ping", session="../../etc", **ann)).status_code == 404
    assert (await old(client, "ping", **ann)).status_code == 400


async def test_the_newest_stream_of_a_session_gets_the_notices(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    session = await open_session(client)
    headers = {"mcp-session-id": session, "accept": "text/event-stream"}
    async with (
        client.stream("GET", "/mcp", headers=headers) as first,
        client.stream("GET", "/mcp", headers=headers) as second,
    ):
        assert (first.status_code, second.status_code) == (200, 200)
        await around.put_server("n", tool("new"))
        notice = await Events(second).next()
        assert notice == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        await client.delete("/mcp", headers={"mcp-session-id": session})
        assert await Events(first).next() is None


async def test_legacy_errors_travel_with_status_200(client: httpx.AsyncClient) -> None:
    session = await open_session(client)
    unknown = await old(client, "nonsense", session=session)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (200, -32601)
    missing = await old(client, "resources/read", {"uri": "x:y"}, session=session)
    assert (missing.status_code, missing.json()["error"]["code"]) == (200, -32002)
    assert missing.json()["error"]["data"]["uri"] == "x:y"
    again = await old(client, "initialize", INITIALIZE)
    assert again.status_code == 200
    bad = await client.post("/mcp", content=b"{", headers=JSON_HEADERS)
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, -32700)


async def test_a_revoked_key_is_refused_within_a_second_and_its_streams_end(
    around: Surroundings, connect_bus
) -> None:
    around.allow("good")
    security = SecurityConfig(development=False)
    token = {"authorization": "Bearer good"}
    async with (
        running_gateway(around, connect_bus, "gateway-2", security=security) as closed,
        httpx.AsyncClient(base_url=closed.http, headers=token) as client,
        listening(client, 1, toolsListChanged=True) as events,
    ):
        await events.next()
        assert "result" in await ask(client, "tools/list")
        asked = around.asked
        for _ in range(20):
            await ask(client, "tools/list")
        assert around.asked == asked
        await around.revoke("good")

        async def refused() -> bool:
            body, headers = modern("tools/list")
            return (await client.post("/mcp", content=body, headers=headers)).status_code == 401

        await eventually(refused, timeout_s=1.0)
        assert (await events.next())["result"]["resultType"] == "complete"
        assert await events.next() is None


async def test_cursors_walk_all_pages_and_belong_to_their_caller(
    around: Surroundings, connect_bus
) -> None:
    await around.put_server("many", *(tool(f"t{n:02}") for n in range(25)))
    around.allow("other", Grant(permissions=frozenset({"CallTools"}), allow=("many:*",)))
    async with (
        running_gateway(around, connect_bus, lists=ListsConfig(page_size=10)) as running,
        httpx.AsyncClient(base_url=running.http) as client,
    ):
        names: list[str] = []
        cursors: list[str] = []
        page: dict[str, object] = {}
        while True:
            result = (await ask(client, "tools/list", **page))["result"]
            names += [one["name"] for one in result["tools"]]
            if "nextCursor" not in result:
                break
            cursors.append(result["nextCursor"])
            page = {"cursor": cursors[-1]}
        assert names == sorted(names)
        assert len(names) == len(set(names)) == 30
        client.headers["authorization"] = "Bearer other"
        foreign = await ask(client, "tools/list", cursor=cursors[0])
        assert foreign["error"]["code"] == -32602


async def test_resources_prompts_and_completions_find_their_server(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    def server(name: str) -> dict[str, Any]:
        return {
            "resources": (msgspec.Raw(b'{"uri":"note:1","name":"n"}'),),
            "resource_templates": (
                msgspec.Raw(b'{"uriTemplate":"%b:{path}","name":"n"}' % name.encode()),
            ),
            "prompts": (msgspec.Raw(b'{"name":"hello"}'),),
            "capabilities": msgspec.Raw(b'{"completions":{}}'),
        }

    for name in ("one", "two"):
        await around.put_server(name, **server(name))
        around.scripts |= {
            f"{name}:resources/read": read,
            f"{name}:prompts/get": prompt,
            f"{name}:completion/complete": prompt_completion,
        }

    async def listed() -> bool:
        return len((await ask(client, "prompts/list"))["result"]["prompts"]) == 2

    await eventually(listed)
    resources = (await ask(client, "resources/list"))["result"]["resources"]
    uris = [one["uri"] for one in resources]
    assert uris == ["mesh://two/note%3A1", "note:1"]
    got = (await ask(client, "resources/read", uri=uris[0]))["result"]
    assert got["contents"][0]["uri"] == uris[0]
    assert around.seen[-1].subject.names[0] == "two"
    assert (await ask(client, "resources/read", uri="two:abc"))["result"]["ttlMs"] == 5
    assert around.seen[-1].subject.names[0] == "two"
    assert (await ask(client, "prompts/get", name="two__hello"))["result"]["name"] == "hello"
    templates = (await ask(client, "resources/templates/list"))["result"]["resourceTemplates"]
    assert len(templates) == 2
    reference = {"type": "ref/prompt", "name": "one__hello"}
    done = await ask(client, "completion/complete", ref=reference, argument={"name": "a"})
    assert done["result"]["completion"]["values"] == ["hello"]
    capabilities = (await ask(client, "server/discover"))["result"]["capabilities"]
    assert "completions" in capabilities


async def prompt_completion(call, params) -> bytes:
    reference = msgspec.json.decode(params["ref"])
    return msgspec.json.encode(
        {"resultType": "complete", "completion": {"values": [reference["name"]]}}
    )


async def test_a_large_result_arrives_whole(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "tools/call", name="huge", arguments={})
    assert len(answer["result"]["content"][0]["text"]) == 3_000_000


async def test_a_bare_nats_client_uses_the_gateway_by_subject(
    gateway: Running, around: Surroundings, broker
) -> None:
    client = await nats.connect(broker.url, nkeys_seed=broker.seed_for("client", DEMO_TENANT))
    params = msgspec.json.encode({"name": "echo", "arguments": {"a": 1}, "_meta": ENVELOPE})
    subject = f"mesh.v1.{DEMO_TENANT}.gw.tools.call"
    reply = await client.request(subject, encode_request("tools/call", 5, params), timeout=5)
    answer = msgspec.json.decode(reply.data)
    assert answer["id"] == 5
    assert answer["result"]["content"][0]["text"] == '{"a":1}'
    refused = await client.request(
        subject,
        encode_request("tools/call", 6, params),
        headers={Header.CREDENTIAL: "wrong"},
        timeout=5,
    )
    assert msgspec.json.decode(refused.data)["error"]["code"] == -31001
    await client.close()


async def test_frames_come_to_a_bus_client_that_asks_for_them(
    gateway: Running, connect_bus
) -> None:
    bus = await connect_bus("stdio", "stdio-1")
    frames: list[bytes] = []
    meta = {**ENVELOPE, "progressToken": "p"}
    params = msgspec.json.encode({"name": "progress", "_meta": meta})
    await bus.call(
        f"mesh.v1.{DEMO_TENANT}.gw.tools.call",
        encode_request("tools/call", "x", params),
        envelope=RequestEnvelope(method="tools/call"),
        timeout_s=5,
        tenant=DEMO_TENANT,
        on_frame=frames.append,
    )
    assert len(frames) == 2


async def test_a_gateway_without_a_broker_refuses_at_once_and_recovers(
    client: httpx.AsyncClient, gateway: Running, broker
) -> None:
    assert "result" in await ask(client, "tools/call", name="echo", arguments={})
    await broker.stop()

    async def refused() -> bool:
        answer = await ask(client, "tools/call", name="echo", arguments={})
        return answer.get("error", {}).get("code") in {-31018, -31010}

    await eventually(refused)
    assert "result" in await ask(client, "tools/list")
    assert (await client.get("/ready")).status_code == 503
    line = await LineClient.connect(gateway.tcp)
    answer = await line.ask("tools/call", 1, {"name": "echo"})
    assert answer["error"]["data"]["outcome"] == "not_executed"
    await broker.start()

    async def served() -> bool:
        return "result" in await ask(client, "tools/call", name="echo", arguments={})

    await eventually(served, timeout_s=10)
    assert "result" in await line.ask("tools/call", 2, {"name": "echo"})
    await line.close()


async def test_a_catalogue_of_many_parts_is_listed_whole(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    await around.put_server("big", *(tool(f"t{n}", description="d" * 5_000) for n in range(200)))

    async def listed() -> bool:
        return len((await ask(client, "tools/list"))["result"]["tools"]) > 200

    await eventually(listed)
    await around.remove_server("big")

    async def gone() -> bool:
        return len((await ask(client, "tools/list"))["result"]["tools"]) < 10

    await eventually(gone)


async def test_a_listen_over_the_bus_ends_when_its_credential_is_revoked(
    around: Surroundings, gateway: Running, connect_bus
) -> None:
    around.allow("short")
    bus = await connect_bus("stdio", "stdio-1")
    heard = asyncio.Event()
    headers = {Header.CREDENTIAL.value: "short", **RequestEnvelope(stream="1").to_headers()}
    params = msgspec.json.encode({"notifications": {"toolsListChanged": True}, "_meta": ENVELOPE})
    method = "subscriptions/listen"

    class Envelope(RequestEnvelope, frozen=True, kw_only=True):
        def to_headers(self) -> dict[str, str]:
            return {**RequestEnvelope.to_headers(self), **headers}

    listen = asyncio.create_task(
        bus.call(
            f"mesh.v1.{DEMO_TENANT}.gw.subscriptions.listen",
            encode_request(method, "L", params),
            envelope=Envelope(method=method),
            timeout_s=30,
            tenant=DEMO_TENANT,
            on_frame=lambda _: heard.set(),
        )
    )
    async with asyncio.timeout(5):
        await heard.wait()
        await around.revoke("short")
        answer = msgspec.json.decode(await listen)
    assert answer["id"] == "L"
    assert answer["result"]["resultType"] == "complete"
