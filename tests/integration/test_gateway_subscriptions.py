"""Updated resources from a server to every client that subscribed, and to nobody else.

Real broker and gateways; the runner's part is scripted, so a test decides when a server says
that a resource changed, refuses one, or begins a new life.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from gateway.config import LimitsConfig
from gateway.testing import (
    ENVELOPE,
    JSON_HEADERS,
    LineClient,
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    tool,
)
from mcp_proto import subjects
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.contracts.watching import Updated, Verdict, read_asked
from mesh_chassis.testing.conditions import eventually

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
NOTES = {
    "resources": tuple(
        msgspec.Raw(msgspec.json.encode({"uri": f"note:{n}", "name": f"note {n}"}))
        for n in range(4)
    ),
    "resource_templates": (msgspec.Raw(b'{"uriTemplate":"dir://{+path}","name":"dir"}'),),
    "capabilities": msgspec.Raw(b'{"resources":{"subscribe":true},"tools":{}}'),
}


class Watched:
    """The runner's part of one server: who subscribed to what."""

    def __init__(self, around: Surroundings, server: str) -> None:
        self.around = around
        self.server = server
        self.uris: dict[str, set[str]] = {}
        self.refused: dict[str, str] = {}
        self.asked = 0
        around.scripts[f"{server}:resources/subscribe"] = self.subscribe
        around.scripts[f"{server}:resources/unsubscribe"] = self.unsubscribe

    async def subscribe(self, call, params) -> bytes:
        asked = read_asked(msgspec.json.encode(params), "")
        self.asked += 1
        fresh = [uri for uri in asked.uris if uri not in self.uris and uri not in self.refused]
        for uri in fresh:
            self.uris[uri] = set()
        for uri in set(asked.uris) & self.uris.keys():
            self.uris[uri].add(asked.subscriber)
        refused = {uri: self.refused[uri] for uri in asked.uris if uri in self.refused}
        return msgspec.json.encode(Verdict(fresh=tuple(fresh), refused=refused))

    async def unsubscribe(self, call, params) -> bytes:
        asked = read_asked(msgspec.json.encode(params), "")
        for uri in asked.uris:
            known = self.uris.get(uri, set())
            known.discard(asked.subscriber)
            if not known:
                self.uris.pop(uri, None)
        return msgspec.json.encode(Verdict())

    async def update(self, uri: str, *, tenant: str = "_", anew: bool = False) -> None:
        subject = subjects.event(tenant, "updated", self.server)
        event = Updated(uri=uri, anew=anew)
        await self.around.runner.publish(subject, msgspec.json.encode(event))


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server("notes", tool("echo"), **NOTES)
        yield parts


@pytest.fixture
def notes(around: Surroundings) -> Watched:
    return Watched(around, "notes")


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as opened:
        yield opened


class Events:
    """The events of an open stream, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, timeout_s: float = 5.0) -> Any:
        async with asyncio.timeout(timeout_s):
            async for line in self._lines:
                if line.startswith("data: "):
                    return msgspec.json.decode(line[6:])
        return None


@contextlib.asynccontextmanager
async def listening(client: httpx.AsyncClient, request_id: object, *uris: str, **wanted: bool):
    filters: dict[str, object] = dict(wanted)
    if uris:
        filters["resourceSubscriptions"] = uris
    body, headers = modern("subscriptions/listen", 1, notifications=filters)
    message = {**msgspec.json.decode(body), "id": request_id}
    async with client.stream(
        "POST", "/mcp", content=msgspec.json.encode(message), headers=headers
    ) as response:
        yield Events(response)


async def ask(client: httpx.AsyncClient, method: str, **params: object) -> Any:
    body, headers = modern(method, 1, **params)
    return (await client.post("/mcp", content=body, headers=headers)).json()


async def old(
    client: httpx.AsyncClient, method: str, params: object = None, session: str = ""
) -> httpx.Response:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
    headers = {**JSON_HEADERS, **({"mcp-session-id": session} if session else {})}
    return await client.post("/mcp", json=body, headers=headers)


async def open_session(client: httpx.AsyncClient) -> str:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    return (await old(client, "initialize", params)).headers["mcp-session-id"]


def stream_of(client: httpx.AsyncClient, session: str):
    headers = {"mcp-session-id": session, "accept": "text/event-stream"}
    return client.stream("GET", "/mcp", headers=headers)


async def test_a_listener_is_told_of_the_resources_it_named_under_its_own_id(
    client: httpx.AsyncClient, notes: Watched
) -> None:
    async with listening(client, 7, "note:1", "note:2") as events:
        first = await events.next()
        assert first["params"] == {
            "notifications": {"resourceSubscriptions": ["note:1", "note:2"]},
            "_meta": {SUBSCRIPTION_ID: 7},
        }
        assert notes.uris == {"note:1": {"gateway-1"}, "note:2": {"gateway-1"}}
        await notes.update("note:3")
        await notes.update("note:2")
        told = await events.next()
        assert told["method"] == "notifications/resources/updated"
        assert told["params"] == {"uri": "note:2", "_meta": {SUBSCRIPTION_ID: 7}}


async def test_an_acknowledgement_names_what_the_servers_took(
    client: httpx.AsyncClient, notes: Watched, around: Surroundings
) -> None:
    await around.put_server("mute", resources=(msgspec.Raw(b'{"uri":"mute:1","name":"m"}'),))
    await around.put_server(
        "gone",
        resources=(msgspec.Raw(b'{"uri":"gone:1","name":"g"}'),),
        capabilities=msgspec.Raw(b'{"resources":{"subscribe":true}}'),
    )
    notes.refused["note:3"] = "not this one"

    async def known() -> bool:
        listed = (await ask(client, "resources/list"))["result"]["resources"]
        return {"mute:1", "gone:1"} <= {one["uri"] for one in listed}

    await eventually(known)
    wanted = ("note:0", "note:3", "mute:1", "gone:1", "unknown:1")
    async with listening(client, "a", *wanted, toolsListChanged=True) as events:
        first = await events.next()
        assert first["params"]["notifications"] == {
            "toolsListChanged": True,
            "resourceSubscriptions": ["note:0"],
        }


async def test_updates_that_follow_closely_are_told_once(
    client: httpx.AsyncClient, notes: Watched
) -> None:
    async with listening(client, 1, "note:0", "note:1") as events:
        await events.next()
        for _ in range(50):
            await notes.update("note:0")
        await notes.update("note:1")
        seen = [(await events.next())["params"]["uri"] for _ in range(2)]
        assert sorted(seen) == ["note:0", "note:1"]
        await notes.update("note:1")
        assert (await events.next())["params"]["uri"] == "note:1"


async def test_a_part_of_a_watched_resource_is_told_by_its_own_name(
    client: httpx.AsyncClient, notes: Watched
) -> None:
    async with listening(client, 1, "dir://a/b") as events:
        assert (await events.next())["params"]["notifications"]["resourceSubscriptions"]
        await notes.update("dir://a/bc")
        await notes.update("dir://a/b/c/d")
        assert (await events.next())["params"]["uri"] == "dir://a/b/c/d"


async def test_a_renamed_resource_is_told_under_the_uri_that_is_listed(
    client: httpx.AsyncClient, around: Surroundings, notes: Watched
) -> None:
    second = Watched(around, "other")
    await around.put_server("other", **NOTES)
    listed = "mesh://other/note%3A1"

    async def known() -> bool:
        resources = (await ask(client, "resources/list"))["result"]["resources"]
        return listed in {one["uri"] for one in resources}

    await eventually(known)
    async with listening(client, 1, listed, "note:1") as events:
        await events.next()
        assert second.uris.keys() == notes.uris.keys() == {"note:1"}
        await second.update("note:1")
        assert (await events.next())["params"]["uri"] == listed
        await notes.update("note:1")
        assert (await events.next())["params"]["uri"] == "note:1"


async def test_who_may_not_read_a_resource_is_not_told_of_it(
    client: httpx.AsyncClient, gateway: Running, around: Surroundings, notes: Watched
) -> None:
    grant = Grant(permissions=frozenset({"CallTools"}), allow=("notes:note:1",))
    around.allow("narrow", grant)
    headers = {"authorization": "Bearer narrow"}
    async with (
        httpx.AsyncClient(base_url=gateway.http, headers=headers) as narrow,
        listening(client, 1, "note:1", "note:2") as full,
        listening(narrow, 2, "note:1", "note:2") as some,
    ):
        await full.next()
        first = await some.next()
        assert first["params"]["notifications"]["resourceSubscriptions"] == ["note:1"]
        await notes.update("note:2")
        assert (await full.next())["params"]["uri"] == "note:2"
        await notes.update("note:1")
        assert (await some.next())["params"]["uri"] == "note:1"


async def test_a_tenants_own_resource_is_not_told_to_another_tenant(
    client: httpx.AsyncClient, gateway: Running, around: Surroundings
) -> None:
    for tenant in ("one", "two"):
        await around.put_server("own", tenant=tenant, **NOTES)
        around.allow(tenant, tenant=tenant)
    own = Watched(around, "own")
    first, second = ({"authorization": f"Bearer {who}"} for who in ("one", "two"))
    async with (
        httpx.AsyncClient(base_url=gateway.http, headers=first) as one,
        httpx.AsyncClient(base_url=gateway.http, headers=second) as two,
    ):
        uri = "mesh://own/note%3A1"
        async with listening(one, 1, uri) as ours, listening(two, 2, uri) as theirs:
            assert (await ours.next())["params"]["notifications"]["resourceSubscriptions"]
            assert (await theirs.next())["params"]["notifications"]["resourceSubscriptions"]
            await own.update("note:1", tenant="one")
            assert (await ours.next())["params"]["uri"] == uri
            await own.update("note:1", tenant="two")
            assert (await theirs.next())["params"]["uri"] == uri
            with pytest.raises(TimeoutError):
                await ours.next(0.2)


async def test_a_session_is_told_on_its_newest_stream_until_it_unsubscribes(
    client: httpx.AsyncClient, notes: Watched
) -> None:
    session = await open_session(client)
    async with stream_of(client, session) as response:
        events = Events(response)
        for uri in ("note:1", "note:2"):
            answer = await old(client, "resources/subscribe", {"uri": uri}, session)
            assert answer.json()["result"] == {}
        await notes.update("note:1")
        told = await events.next()
        assert told == {
            "jsonrpc": "2.0",
            "method": "notifications/resources/updated",
            "params": {"uri": "note:1"},
        }
        await old(client, "resources/unsubscribe", {"uri": "note:1"}, session)
        await notes.update("note:1")
        await notes.update("note:2")
        assert (await events.next())["params"]["uri"] == "note:2"
        await eventually(lambda: "note:1" not in notes.uris)


async def test_a_session_subscribes_at_one_gateway_and_hears_at_another(
    client: httpx.AsyncClient, around: Surroundings, notes: Watched, connect_bus
) -> None:
    session = await open_session(client)
    async with (
        running_gateway(around, connect_bus, "gateway-2") as second,
        httpx.AsyncClient(base_url=second.http) as other,
        stream_of(client, session) as response,
    ):
        here = Events(response)
        await old(other, "resources/subscribe", {"uri": "note:1"}, session)
        await eventually(lambda: "gateway-1" in notes.uris.get("note:1", ()))
        await notes.update("note:1")
        assert (await here.next())["params"]["uri"] == "note:1"
        async with stream_of(other, session) as newer:
            there = Events(newer)
            await eventually(lambda: "gateway-2" in notes.uris.get("note:1", ()))
            await eventually(lambda: "gateway-1" not in notes.uris.get("note:1", ()))
            await notes.update("note:1")
            assert (await there.next())["params"]["uri"] == "note:1"
        await eventually(lambda: "gateway-1" in notes.uris.get("note:1", ()))
        await notes.update("note:1")
        assert (await here.next())["params"]["uri"] == "note:1"


async def test_a_subscribe_that_cannot_be_says_why(
    client: httpx.AsyncClient, around: Surroundings, notes: Watched
) -> None:
    session = await open_session(client)
    await around.put_server("mute", resources=(msgspec.Raw(b'{"uri":"mute:1","name":"m"}'),))
    unknown = (await old(client, "resources/subscribe", {"uri": "x:1"}, session)).json()["error"]
    assert (unknown["code"], unknown["data"]["uri"]) == (-32002, "x:1")

    async def mute() -> bool:
        answer = await old(client, "resources/subscribe", {"uri": "mute:1"}, session)
        error = answer.json()["error"]
        return error["code"] == -32601 and "mute" in error["message"]

    await eventually(mute)
    notes.refused["note:1"] = "not this one"
    refused = (await old(client, "resources/subscribe", {"uri": "note:1"}, session)).json()
    assert "not this one" in refused["error"]["message"]


async def test_a_line_hears_of_its_resources_in_both_eras(gateway: Running, notes: Watched) -> None:
    peer = await LineClient.connect(gateway.tcp)
    wanted = {"resourceSubscriptions": ["note:1"]}
    first = await peer.ask(
        "subscriptions/listen", "x", {"notifications": wanted, "_meta": ENVELOPE}
    )
    assert first["params"]["notifications"] == wanted
    await notes.update("note:1")
    told = await peer.receive()
    assert told["params"] == {"uri": "note:1", "_meta": {SUBSCRIPTION_ID: "x"}}
    peer.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}})
    assert (await peer.ask("tools/list", 2, {"_meta": ENVELOPE}))["id"] == 2
    await notes.update("note:1")
    assert (await peer.ask("tools/list", 3, {"_meta": ENVELOPE}))["id"] == 3
    await peer.close()
    older = await LineClient.connect(gateway.tcp)
    await older.ask("initialize", 1, {"protocolVersion": "2025-06-18", "capabilities": {}})
    assert (await older.ask("resources/subscribe", 2, {"uri": "note:2"}))["result"] == {}
    await notes.update("note:2")
    assert (await older.receive())["params"] == {"uri": "note:2"}
    assert (await older.ask("resources/unsubscribe", 3, {"uri": "note:2"}))["result"] == {}
    missing = await older.ask("resources/subscribe", 4, {"uri": "x:1"})
    assert missing["error"]["code"] == -32002
    await older.close()


async def test_another_runner_is_asked_at_once_and_missed_updates_are_told_once(
    client: httpx.AsyncClient, notes: Watched
) -> None:
    async with listening(client, 1, "note:1") as events:
        await events.next()
        notes.uris.clear()
        await notes.update("", anew=True)
        assert (await events.next())["params"]["uri"] == "note:1"
        assert "note:1" in notes.uris
        with pytest.raises(TimeoutError):
            await events.next(0.2)


async def test_a_listener_whose_credential_ends_gets_its_result_and_no_more(
    gateway: Running, around: Surroundings, notes: Watched
) -> None:
    around.allow("good")
    headers = {"authorization": "Bearer good"}
    async with (
        httpx.AsyncClient(base_url=gateway.http, headers=headers) as client,
        listening(client, "id", "note:1") as events,
    ):
        await events.next()
        await around.revoke("good")
        last = await events.next()
        assert last["id"] == last["result"]["_meta"][SUBSCRIPTION_ID] == "id"
        assert await events.next() is None


async def test_a_listener_that_comes_back_hears_nothing_old_and_nothing_twice(
    client: httpx.AsyncClient, notes: Watched
) -> None:
    async with listening(client, 1, "note:1") as events:
        await events.next()
    await notes.update("note:1")
    asked = notes.asked
    async with listening(client, 2, "note:1") as events:
        assert (await events.next())["params"]["notifications"]["resourceSubscriptions"]
        await notes.update("note:1")
        assert (await events.next())["params"]["_meta"] == {SUBSCRIPTION_ID: 2}
        with pytest.raises(TimeoutError):
            await events.next(0.2)
    assert notes.asked <= asked + 1
    await eventually(lambda: not notes.uris)


async def test_a_server_that_comes_back_is_watched_again(
    client: httpx.AsyncClient, around: Surroundings, notes: Watched
) -> None:
    async with listening(client, 1, "note:1") as events:
        await events.next()
        await around.remove_server("notes")
        await eventually(lambda: not notes.uris)
        await around.put_server("notes", tool("echo"), **NOTES)
        assert (await events.next())["params"]["uri"] == "note:1"
        await eventually(lambda: "note:1" in notes.uris)
        await notes.update("note:1")
        assert (await events.next())["params"]["uri"] == "note:1"


async def test_subscriptions_are_promised_where_a_visible_server_takes_them(
    client: httpx.AsyncClient, gateway: Running, around: Surroundings
) -> None:
    found = (await ask(client, "server/discover"))["result"]["capabilities"]
    assert found["resources"] == {"listChanged": True, "subscribe": True}
    around.allow("blind", Grant(permissions=frozenset({"CallTools"}), allow=("other:*",)))
    client.headers["authorization"] = "Bearer blind"
    found = (await ask(client, "server/discover"))["result"]["capabilities"]
    assert found["resources"] == {"listChanged": True}


@pytest.mark.slow
async def test_a_thousand_listeners_are_told_by_one_subscription(
    around: Surroundings, notes: Watched, connect_bus
) -> None:
    count = 1_000
    limits = LimitsConfig(connections_per_source=4_000, connections=4_000, rate_per_second=1e6)
    async with running_gateway(around, connect_bus, limits=limits) as running:
        peers = [await LineClient.connect(running.tcp) for _ in range(count)]
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["note:1"]}
        params = {"notifications": wanted, "_meta": ENVELOPE}
        for peer in peers:
            peer.send(
                {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
            )
        for peer in peers:
            assert "acknowledged" in (await peer.receive(20.0))["method"]
        asked = notes.asked
        assert asked <= 2
        began = time.monotonic()
        await notes.update("note:1")
        for peer in peers:
            assert (await peer.receive(20.0))["params"]["uri"] == "note:1"
        updated = time.monotonic()
        assert notes.asked == asked
        await around.put_server("more", tool("one"))
        for peer in peers:
            assert "tools/list_changed" in (await peer.receive(20.0))["method"]
        changed = time.monotonic()
        print(
            f"{count} listeners: updated {(updated - began) * 1e3:.0f} ms, "
            f"list_changed {(changed - updated) * 1e3:.0f} ms"
        )
        for peer in peers:
            await peer.close()
        await eventually(lambda: not notes.uris)
