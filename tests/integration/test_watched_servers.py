"""Changes of real servers, of both eras, seen by clients: every process on the way is there."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.watched_mesh import (
    WatchedMesh,
    definition,
    listening,
    over_http,
    watched_mesh,
)

from gateway.testing import LineClient, running_gateway, surrounded
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow

LATENCY_MAX_S = 0.5


@pytest_asyncio.fixture
async def mesh(broker, connect_bus, tmp_path: Path) -> AsyncIterator[WatchedMesh]:
    async with (
        surrounded(connect_bus, tmp_path) as around,
        watched_mesh(around, connect_bus) as made,
        made.runner("runner-2", definition("old", "old"), definition("new", "new")),
    ):
        await made.until_listed("old__touch", "new__touch")
        yield made


async def test_a_change_of_a_list_is_heard_in_every_era_within_half_a_second(
    mesh: WatchedMesh,
) -> None:
    peer = await LineClient.connect(mesh.gateway.tcp)
    await peer.ask("initialize", 1, {"protocolVersion": "2025-06-18", "capabilities": {}})
    async with listening(mesh.gateway.http, toolsListChanged=True) as events:
        for era in ("old", "new"):
            began = time.monotonic()
            await mesh.call(f"{era}__grow", "fresh")
            told = await events.next()
            took_s = time.monotonic() - began
            assert told["method"] == "notifications/tools/list_changed"
            assert (await peer.receive())["method"] == "notifications/tools/list_changed"
            print(f"list_changed of a server of the {era} era: {took_s * 1e3:.0f} ms")
            assert took_s < LATENCY_MAX_S
            await mesh.until_listed(f"{era}__fresh")
    await peer.close()


async def test_an_update_is_heard_at_both_gateways_and_by_nobody_else(
    mesh: WatchedMesh, connect_bus
) -> None:
    # Both servers list the same URIs: those of the second by name are listed under others.
    new, old = "watched:1", "mesh://old/watched%3A1"
    async with (
        running_gateway(mesh.around, connect_bus, "gateway-2") as second,
        listening(mesh.gateway.http, resourceSubscriptions=[new]) as new_here,
        listening(second.http, resourceSubscriptions=[new]) as new_there,
        listening(mesh.gateway.http, resourceSubscriptions=[old]) as old_here,
        listening(second.http, resourceSubscriptions=[old]) as old_there,
    ):
        for era, uri, hearing in (
            ("old", old, (old_here, old_there)),
            ("new", new, (new_here, new_there)),
        ):
            await mesh.call(f"{era}__touch", "watched:2")
            await mesh.call(f"{era}__touch", "watched:1")
            for events in hearing:
                assert (await events.next())["params"]["uri"] == uri
        for events in (new_here, new_there, old_here, old_there):
            with pytest.raises(TimeoutError):
                await events.next(0.1)


async def test_the_upstream_is_subscribed_once_and_unsubscribed_after_the_last(
    mesh: WatchedMesh,
) -> None:
    uri = "mesh://old/watched%3A0"
    async with listening(mesh.gateway.http, resourceSubscriptions=[uri]):
        async with listening(mesh.gateway.http, resourceSubscriptions=[uri]):
            assert await mesh.call("old__subscribed") == "watched:0"
        assert await mesh.call("old__subscribed") == "watched:0"

    async def none() -> bool:
        return not await mesh.call("old__subscribed")

    await eventually(none, timeout_s=10.0)


async def test_a_listen_that_the_server_ends_is_made_again(mesh: WatchedMesh) -> None:
    async with listening(mesh.gateway.http, resourceSubscriptions=["watched:1"]) as events:
        await mesh.call("new__end_listens")
        # Nobody knows what was missed, so it is told once; then updates come as before.
        assert (await events.next())["params"]["uri"] == "watched:1"
        await mesh.call("new__touch", "watched:1")
        assert (await events.next())["params"]["uri"] == "watched:1"


async def test_a_server_that_crashed_is_subscribed_again_in_its_next_life(
    mesh: WatchedMesh,
) -> None:
    for era, uri in (("old", "mesh://old/watched%3A1"), ("new", "watched:1")):
        async with listening(mesh.gateway.http, resourceSubscriptions=[uri]) as events:
            answer = await mesh.ask("tools/call", name=f"{era}__die", arguments={})
            assert answer["error"]["code"] == -31017
            assert (await events.next(15.0))["params"]["uri"] == uri
            await mesh.call(f"{era}__touch", "watched:1")
            assert (await events.next())["params"]["uri"] == uri
            with pytest.raises(TimeoutError):
                await events.next(0.1)


async def test_another_runner_subscribes_again_and_missed_updates_are_told(
    broker, connect_bus, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(surrounded(connect_bus, tmp_path))
        mesh = await stack.enter_async_context(watched_mesh(around, connect_bus))
        server = definition("old", "old")
        first = AsyncExitStack()
        await first.enter_async_context(mesh.runner("runner-2", server))
        await mesh.until_listed("old__touch")
        events = await stack.enter_async_context(
            listening(mesh.gateway.http, resourceSubscriptions=["watched:1"])
        )
        await stack.enter_async_context(mesh.runner("runner-3", server))
        await first.aclose()
        assert (await events.next(15.0))["params"]["uri"] == "watched:1"
        assert await mesh.call("old__subscribed") == "watched:1"
        await mesh.call("old__touch", "watched:1")
        assert (await events.next())["params"]["uri"] == "watched:1"
        with pytest.raises(TimeoutError):
            await events.next(0.2)


async def test_hints_of_the_servers_are_merged_and_stay_private(mesh: WatchedMesh) -> None:
    read = (await mesh.ask("resources/read", uri="watched:1"))["result"]
    assert (read["ttlMs"], read["cacheScope"]) == (5_000, "private")
    read = (await mesh.ask("resources/read", uri="mesh://old/watched%3A1"))["result"]
    assert (read["ttlMs"], read["cacheScope"]) == (0, "private")
    listed = (await mesh.ask("tools/list"))["result"]
    # The old server gives no hint: the configured default stands for it.
    assert (listed["ttlMs"], listed["cacheScope"]) == (0, "private")


async def test_a_caller_hears_the_log_at_its_own_level_with_the_servers_name(
    mesh: WatchedMesh,
) -> None:
    peer = await LineClient.connect(mesh.gateway.tcp)
    await peer.ask("initialize", 1, {"protocolVersion": "2025-06-18", "capabilities": {}})

    async def said(request_id: int, server: str) -> list[tuple[str, str]]:
        call = {"name": f"{server}__say", "arguments": {"text": "x"}}
        peer.send({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": call})
        heard: list[tuple[str, str]] = []
        while "id" not in (message := await peer.receive()):
            assert message["method"] == "notifications/message"
            heard.append((message["params"]["level"], message["params"]["logger"]))
        return heard

    assert await said(2, "old") == []
    assert (await peer.ask("logging/setLevel", 3, {"level": "warning"}))["result"] == {}
    assert await said(4, "old") == [("warning", "old/own")]
    assert await said(5, "new") == [("warning", "new/own")]
    await peer.ask("logging/setLevel", 6, {"level": "debug"})
    assert await said(7, "old") == [("debug", "old/own"), ("warning", "old/own")]
    await peer.close()


async def test_a_session_over_stdio_hears_its_resources(
    mesh: WatchedMesh, broker, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.edges.stdio",
        "--url",
        broker.url,
        "--nkey-seed-file",
        str(broker.seed_for("stdio", "stdio-1")),
        "--tenant",
        "demo-tenant",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    peer = LineClient(process.stdout, process.stdin)
    await peer.ask("initialize", 1, {"protocolVersion": "2025-06-18", "capabilities": {}})
    for number, uri in ((2, "watched:1"), (3, "watched:2")):
        answer = await peer.ask("resources/subscribe", number, {"uri": uri})
        assert answer["result"] == {}, answer
    await mesh.call("new__touch", "watched:2")
    assert (await peer.receive())["params"] == {"uri": "watched:2"}
    assert (await peer.ask("resources/unsubscribe", 4, {"uri": "watched:2"}))["result"] == {}
    missing = await peer.ask("resources/subscribe", 5, {"uri": "nothing:1"})
    assert missing["error"]["code"] == -32002
    await mesh.call("new__grow", "fresh")
    assert (await peer.receive())["method"] == "notifications/tools/list_changed"
    process.stdin.close()
    assert await process.wait() == 0


async def test_servers_over_http_are_heard_in_both_eras(
    broker, connect_bus, tmp_path: Path
) -> None:
    async with (
        over_http("old", "old") as old,
        over_http("new", "new") as new,
        surrounded(connect_bus, tmp_path) as around,
        watched_mesh(around, connect_bus) as mesh,
        mesh.runner("runner-2", old, new),
    ):
        await mesh.until_listed("old__touch", "new__touch")
        for era, uri in (("new", "watched:1"), ("old", "mesh://old/watched%3A1")):
            wanted = {"toolsListChanged": True, "resourceSubscriptions": [uri]}
            async with listening(mesh.gateway.http, **wanted) as events:
                await mesh.call(f"{era}__touch", "watched:2")
                await mesh.call(f"{era}__touch", "watched:1")
                assert (await events.next())["params"]["uri"] == uri, era
                began = time.monotonic()
                await mesh.call(f"{era}__grow", "fresh")
                told = await events.next()
                assert told["method"] == "notifications/tools/list_changed", era
                took_s = time.monotonic() - began
                print(f"list_changed of a server of the {era} era over HTTP: {took_s * 1e3:.0f} ms")
                assert took_s < LATENCY_MAX_S
