"""The requirements of ``requirements.toml``, proven at every edge in every revision they name."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from tests.conformance import records
from tests.conformance.guests import (
    FIXTURES,
    RIGHT,
    Guests,
    label,
    names_of,
    seen,
    updated,
    watched_uris,
)
from tests.conformance.peers import MODERN, HttpPeer, LinePeer, Peer
from tests.conformance.records import proves
from tests.conformance.room import Room, Served

from mesh_chassis.testing.conditions import eventually

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SERVERS = {"http": "old", "tcp": "new", "stdio": "old"}
"""Which upstream a cell uses where it does not matter: both eras get their turn."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """Two gateways, two runners, good servers and bad ones."""
    made = Room(tmp_path_factory.mktemp("house"), FIXTURES, expected=RIGHT)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(house: Room) -> AsyncIterator[Guests]:
    guests = Guests(house)
    yield guests
    await guests.leave()


@pytest.fixture
def _async_leak_check() -> None:
    """Guests stay for the next test; the room looks for what is left when all have gone."""


# Lists ------------------------------------------------------------------------------------------


@proves("list-pages")
async def test_client_gets_every_entry_once_over_all_pages(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    first = await peer.result("tools/list")
    assert first.get("nextCursor")
    names = [tool["name"] for tool in await peer.everything("tools/list", "tools")]
    assert len(names) == len(set(names))
    assert sum(name.startswith("paged__tool-") for name in names) == 630


@proves("bad-cursor")
async def test_client_is_told_when_its_cursor_is_not_one(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    for method in ("tools/list", "prompts/list", "resources/list"):
        answer = await peer.ask(method, {"cursor": "no cursor of ours"})
        assert answer["error"]["code"] == -32602, answer


@proves("upstream-pages")
async def test_mesh_reads_all_pages_of_an_upstream_but_not_for_ever(
    guest: Guests, edge, revision
) -> None:
    peer = await guest(edge, revision)
    names = {tool["name"] for tool in await peer.everything("tools/list", "tools")}
    assert {"paged__tool-000-00", "paged__tool-006-89"} <= names
    for wrong in ("endless", "repeating"):
        mine = [name for name in names if name.startswith(f"{wrong}__")]
        assert len(mine) <= 200
        assert len(mine) == len(set(mine))


# Calls ------------------------------------------------------------------------------------------


@proves("cancel")
async def test_cancelled_call_ends_at_the_upstream_and_is_not_answered(
    guest: Guests, edge, revision
) -> None:
    peer = await guest(edge, revision)
    for server in ("old", "newhttp", "new", "oldhttp"):
        name = label()
        arguments = {"label": name, "seconds": 60}
        call = peer.call(f"{server}__test_wait", arguments, _meta={"progressToken": name})
        await peer.heard(lambda one: one.get("method") == "notifications/progress")
        await seen(peer, server, name, "running")
        await peer.cancel(call)
        assert await seen(peer, server, name, "cancelled", "finished") == "cancelled"
        if not call.done():
            await peer.result("tools/list")  # whatever was sent before this has arrived
            assert not call.done()
            call.cancel()


@proves("cancel-foreign")
async def test_client_cannot_cancel_the_call_of_another(guest: Guests, edge, revision) -> None:
    one, other = await guest(edge, revision), await guest(edge, revision, "b")
    server, name = SERVERS[edge], label()
    arguments = {"label": name, "seconds": 1.0}
    params = {"name": f"{server}__test_wait", "arguments": arguments}
    call = one.start("tools/call", params, request_id=f"same-{name}")
    await seen(other, server, name, "running")
    await other.notify("notifications/cancelled", {"requestId": f"same-{name}"})
    assert "result" in await call
    assert await seen(one, server, name, "finished", "cancelled") == "finished"


@proves("calls-side-by-side")
async def test_slow_call_delays_nothing_else(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    server, name = SERVERS[edge], label()
    call = peer.call(f"{server}__test_wait", {"label": name, "seconds": 30})
    await seen(peer, server, name, "running")
    async with asyncio.timeout(5):
        await peer.text(f"{server}__test_simple_text")
        await peer.result("prompts/list")
    assert not call.done()
    await peer.cancel(call)
    call.cancel()


@proves("progress")
async def test_progress_comes_with_the_clients_own_token(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    for server in ("old", "newhttp"):
        for token in (7, "7"):
            call = peer.call(f"{server}__test_tool_with_progress", _meta={"progressToken": token})
            assert "result" in await call
            notes = [one["params"] for one in peer.inbox if "progress" in one.get("method", "")]
            assert [note["progress"] for note in notes] == [0, 50, 100]
            assert all(note["progressToken"] == token for note in notes)
            assert all(type(note["progressToken"]) is type(token) for note in notes)
            peer.inbox.clear()


@proves("id-types")
async def test_answer_carries_the_id_with_its_type(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    server = SERVERS[edge]

    def wait(request_id: object, seconds: float) -> asyncio.Task[Any]:
        arguments = {"label": f"{request_id!r}", "seconds": seconds}
        params = {"name": f"{server}__test_wait", "arguments": arguments}
        return peer.start("tools/call", params, request_id=request_id)

    calls = {request_id: wait(request_id, 0.1) for request_id in (1, "1", -5, "ü")}
    for request_id, call in calls.items():
        answer = await call
        assert answer["id"] == request_id
        assert type(answer["id"]) is type(request_id)
        assert answer["result"]["content"][0]["text"] == f"waited {request_id!r}"


@proves("id-collision")
async def test_clients_with_the_same_id_get_their_own_answers(
    guest: Guests, edge, revision
) -> None:
    peers = [await guest(edge, revision, who) for who in "abc"]
    server, names = SERVERS[edge], [label() for _ in peers]

    def call(peer: Peer, name: str) -> asyncio.Task[Any]:
        params = {"name": f"{server}__test_wait", "arguments": {"label": name, "seconds": 0.2}}
        return peer.start("tools/call", params, request_id=1)

    answers = await asyncio.gather(*map(call, peers, names))
    said = [answer["result"]["content"][0]["text"] for answer in answers]
    assert said == [f"waited {name}" for name in names]


@proves("token-collision")
async def test_clients_with_the_same_token_hear_their_own_progress(
    guest: Guests, edge, revision
) -> None:
    one, other = await guest(edge, revision), await guest(edge, revision, "b")
    server = SERVERS[edge]
    meta = {"progressToken": "same"}
    slow = one.call(f"{server}__test_tool_with_progress", _meta=meta)
    short = other.call(f"{server}__test_wait", {"seconds": 0.1, "label": label()}, _meta=meta)
    await asyncio.gather(slow, short)
    assert one.count("notifications/progress") == 3
    assert other.count("notifications/progress") == 1


# Changes ----------------------------------------------------------------------------------------


@proves("resource-updated")
async def test_subscriber_is_told_under_the_uri_it_knows(guest: Guests, edge, revision) -> None:
    peer = await guest.fresh(edge, revision)
    try:
        uris = await watched_uris(peer)
        assert set(uris) == {"new", "newhttp", "old", "oldhttp"}
        await peer.hear(*uris.values())
        for server, uri in uris.items():
            await peer.text(f"{server}__test_trigger_resource_update")
            await peer.heard(updated(uri))
    finally:
        await peer.close()


@proves("resource-updated-only-subscribers")
async def test_only_subscribers_are_told(guest: Guests, edge, revision) -> None:
    one, other = await guest.fresh(edge, revision), await guest.fresh(edge, revision)
    try:
        uris = await watched_uris(one)
        await one.hear(uris["new"])
        await other.hear(uris["old"])
        await one.text("new__test_trigger_resource_update")
        await one.heard(updated(uris["new"]))
        await one.text("old__test_trigger_resource_update")
        await other.heard(updated(uris["old"]))
        if not one.modern:
            await other.result("resources/unsubscribe", {"uri": uris["old"]})
            await other.text("old__test_trigger_resource_update")
        # A change that both hear of ends the wait for what must not come.
        await one.text("new__test_trigger_tool_change")
        for peer in (one, other):
            await peer.heard(lambda note: note["method"] == "notifications/tools/list_changed")
            assert peer.count("notifications/resources/updated") == 0
    finally:
        await one.close()
        await other.close()


@proves("list-changed")
async def test_listener_is_told_of_a_changed_list(guest: Guests, edge, revision) -> None:
    peer = await guest.fresh(edge, revision)
    try:
        await peer.hear()
        for server in ("old", "newhttp"):
            for what, key in (("tool", "tools"), ("prompt", "prompts")):
                before = await names_of(peer, key)
                await peer.text(f"{server}__test_trigger_{what}_change")
                method = f"notifications/{key}/list_changed"
                await peer.heard(lambda note, method=method: note.get("method") == method)
                assert await names_of(peer, key) ^ before == {f"{server}__test_dynamic_{what}"}
    finally:
        await peer.close()


@proves("listen-tagged")
async def test_listen_on_lines_is_tagged_and_ends_when_cancelled(
    guest: Guests, edge, revision
) -> None:
    peer = await guest.fresh(edge, revision)
    try:
        for request_id in (41, "41"):
            params = {"notifications": {"toolsListChanged": True}}
            listening = peer.start("subscriptions/listen", params, request_id=request_id)
            ack = await peer.heard(lambda note: True)
            assert ack["method"] == "notifications/subscriptions/acknowledged"
            await peer.text("new__test_trigger_tool_change")
            note = await peer.heard(lambda note: True)
            assert note["method"] == "notifications/tools/list_changed"
            for frame in (ack, note):
                tag = frame["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"]
                assert tag == request_id
                assert type(tag) is type(request_id)
            await peer.cancel(listening)
            before = await names_of(peer, "tools")
            await peer.text("new__test_trigger_tool_change")

            async def changed(known: set[str] = before) -> bool:
                return await names_of(peer, "tools") != known

            await eventually(changed, timeout_s=10)
            assert peer.count("notifications/tools/list_changed") == 0
            listening.cancel()
    finally:
        await peer.close()


# Byte streams -----------------------------------------------------------------------------------


@proves("unparsable-line")
async def test_line_that_is_no_json_is_answered_and_forgotten(
    guest: Guests, edge, revision
) -> None:
    peer = await guest(edge, revision)
    assert isinstance(peer, LinePeer)
    for wrong in (b"{nonsense\n", b'"unterminated\n'):
        await peer.raw(wrong)
        answer = await peer.heard(lambda one: "error" in one)
        assert answer["error"]["code"] == -32700
        assert answer["id"] is None
    await peer.result("tools/list")


@proves("half-closed")
async def test_client_that_has_said_everything_gets_its_answers(
    guest: Guests, edge, revision
) -> None:
    peer = await guest.fresh(edge, revision)
    server = SERVERS[edge]
    calls = [
        peer.call(f"{server}__test_wait", {"seconds": 0.2, "label": label()}) for _ in range(3)
    ]
    await asyncio.sleep(0)
    ping = peer.start("tools/list")
    await asyncio.sleep(0)
    await peer.end()
    for call in (*calls, ping):
        assert "result" in await call
    async with asyncio.timeout(10):
        await peer.ended.wait()
    await peer.close()


# Eras and revisions -----------------------------------------------------------------------------


@proves("negotiation")
async def test_revision_is_negotiated(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    assert peer.opened["protocolVersion"] == revision
    stranger = await guest.fresh(edge, revision, opened=False)
    try:
        params = {"protocolVersion": "1999-01-01", "capabilities": {}}
        params["clientInfo"] = {"name": "stranger", "version": "1"}
        answer = await stranger.result("initialize", params)
        assert answer["protocolVersion"] == "2025-11-25"
    finally:
        await stranger.close()


@proves("era-of-a-request")
async def test_enveloped_request_is_modern_beside_a_legacy_client(
    guest: Guests, edge, revision
) -> None:
    peer = await guest.fresh(edge, "2025-11-25")
    try:
        await peer.result("tools/list")
        if isinstance(peer, LinePeer):
            peer.revision = MODERN
            modern = peer
        else:
            modern = HttpPeer(peer.url, MODERN)
        listed = await modern.result("tools/list")
        assert listed["resultType"] == "complete"
        assert MODERN in (await modern.result("server/discover"))["supportedVersions"]
        gone = await modern.ask("ping")
        assert gone["error"]["code"] == -32601
        if modern is not peer:
            await modern.close()
        peer.revision = "2025-11-25"
        assert "resultType" not in await peer.result("tools/list")
    finally:
        await peer.close()


@proves("era-of-an-upstream")
async def test_upstream_is_spoken_to_in_its_own_era(guest: Guests, edge, revision) -> None:
    peer = await guest(edge, revision)
    for server, modern in (("old", False), ("oldhttp", False), ("new", True), ("newhttp", True)):
        told = json.loads(await peer.text(f"{server}__test_whoami"))
        assert told["modern"] is modern, server


@proves("content-of-old-revisions")
async def test_answer_holds_nothing_the_revision_does_not_know(
    guest: Guests, edge, revision
) -> None:
    peer = await guest(edge, revision)
    for server in ("old", "newhttp"):
        params = {"name": f"{server}__test_audio_content", "arguments": {}}
        sound = await peer.result("tools/call", params)
        kind = "resource" if revision == "2024-11-05" else "audio"
        assert [part["type"] for part in sound["content"]] == [kind]
        if kind == "resource":
            assert sound["content"][0]["resource"]["mimeType"] == "audio/wav"
        structured = await peer.result("tools/call", {"name": f"{server}__test_whoami"})
        listed = await peer.result("tools/list")
        read = await peer.result("resources/read", {"uri": "test://static-text"})
        for result in (sound, structured, listed, read):
            assert ("resultType" in result) == peer.modern
            assert "mesh/parked" not in json.dumps(result)
        for result in (listed, read):
            assert ("ttlMs" in result) == peer.modern
        # O3: an object under structuredContent is kept for old peers; nothing else is.
        assert isinstance(structured.get("structuredContent", {}), dict)


@proves("capabilities-of-the-caller")
async def test_modern_upstream_sees_what_the_caller_declared(guest: Guests, edge, revision) -> None:
    for declared in ({}, {"sampling": {}}, {"roots": {"listChanged": True}, "elicitation": {}}):
        peer = await guest.fresh(edge, revision, capabilities=declared)
        try:
            for server in ("new", "newhttp"):
                told = json.loads(await peer.text(f"{server}__test_whoami"))
                known = set(declared)
                if revision < "2025-06-18":
                    known -= {"elicitation"}
                assert set(told["capabilities"]) == known, told
        finally:
            await peer.close()


# More than one gateway, and restarts ------------------------------------------------------------


@proves("any-gateway")
async def test_session_goes_on_at_another_gateway(
    guest: Guests, house: Room, edge, revision
) -> None:
    peer = await guest.fresh(edge, revision)
    try:
        for url in (*house.mesh.urls, *house.mesh.urls):
            peer.url = f"{url}/mcp"
            assert await peer.text("old__test_simple_text")
    finally:
        await peer.close()


@proves("listen-at-any-gateway")
async def test_change_through_one_gateway_is_heard_at_the_other(
    guest: Guests, edge, revision
) -> None:
    here = await guest.fresh(edge, revision, gateway=0)
    there = await guest.fresh(edge, revision, gateway=1)
    try:
        uris = await watched_uris(here)
        await here.hear(uris["old"], uris["newhttp"])
        for server in ("old", "newhttp"):
            await there.text(f"{server}__test_trigger_resource_update")
            await here.heard(updated(uris[server]))
        await there.text("old__test_trigger_tool_change")
        await here.heard(lambda note: note["method"] == "notifications/tools/list_changed")
    finally:
        await here.close()
        await there.close()


@proves("updates-after-a-restart")
async def test_subscription_outlives_the_process_of_its_server(
    guest: Guests, edge, revision
) -> None:
    peer = await guest.fresh(edge, revision)
    server = "new" if edge == "tcp" else "old"
    try:
        uri = (await watched_uris(peer))[server]
        await peer.hear(uri)
        answer = await peer.call(f"{server}__test_end")
        assert answer["error"]["data"]["outcome"] == "unknown", answer

        async def heard_again() -> None:
            while True:
                answer = await peer.call(f"{server}__test_trigger_resource_update")
                if "result" in answer:
                    with contextlib.suppress(TimeoutError):
                        await peer.heard(updated(uri), within_s=0.5)
                        return
                else:
                    await asyncio.sleep(0.1)

        async with asyncio.timeout(60):
            await heard_again()
    finally:
        await peer.close()


# Tenants ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(house: Room) -> dict[str, str]:
    """An API key for a principal of each of two tenants, and of a second principal of the first."""
    found: dict[str, str] = {}
    for tenant in ("red", "blue"):
        house.mesh.mesh("tenant", "add", tenant, "--allow", "*")
    for name, tenant in (("anna", "red"), ("otto", "red"), ("bert", "blue")):
        house.mesh.mesh("principal", "add", name, "--tenant", tenant, "--role", "User")
        made = house.mesh.mesh("key", "create", "--tenant", tenant, "--principal", name, "--json")
        found[name] = json.loads(made.stdout)["key"]
    own = house.definition(Served(name="private", era="legacy", transport="stdio"))
    words = [str(own["command"]), *map(str, own["args"])]
    env = [f"PYTHONPATH={own['env']['PYTHONPATH']}"]
    house.mesh.mesh(
        *("server", "add", "private", "--tenant", "red", "--cwd", str(own["cwd"])),
        *("--env", env[0], "--", *words),
    )
    return found


@proves("tenants-apart")
async def test_tenant_neither_sees_nor_reaches_anothers_server(
    guest: Guests, keys: dict[str, str], edge, revision
) -> None:
    red = await guest.fresh(edge, revision, key=keys["anna"], tenant="red")
    blue = await guest.fresh(edge, revision, key=keys["bert"], tenant="blue")
    try:
        assert "private__test_simple_text" in await names_of(red, "tools")
        assert await red.text("private__test_simple_text")
        assert not any("private" in name for name in await names_of(blue, "tools"))
        assert not any("private" in name for name in await names_of(blue, "prompts"))
        for name in ("private__test_simple_text", "private:test_simple_text"):
            answer = await blue.call(name)
            assert answer["error"]["code"] == -32602, answer
        mine = [one for one in (await watched_uris(red)).values() if "private" in one]
        assert mine
        answer = await blue.ask("resources/read", {"uri": mine[0]})
        assert answer["error"]["code"] in {-32602, -32002}, answer
    finally:
        await red.close()
        await blue.close()


@proves("foreign-session")
async def test_what_one_principal_was_given_is_refused_to_another(
    guest: Guests, keys: dict[str, str], edge, revision
) -> None:
    anna = await guest.fresh(edge, revision, key=keys["anna"], capabilities={"elicitation": {}})
    try:
        for name in ("otto", "bert"):
            other = await guest.fresh(
                edge, revision, key=keys[name], capabilities={"elicitation": {}}
            )
            if anna.modern:
                params = {"name": "new__test_input_required_result_request_state", "arguments": {}}
                asked = await anna.result("tools/call", params)
                assert asked["resultType"] == "input_required"
                responses = {
                    key: {"action": "accept", "content": {"ok": True}}
                    for key in asked["inputRequests"]
                }
                again = {
                    **params,
                    "inputResponses": responses,
                    "requestState": asked["requestState"],
                }
                assert (await other.ask("tools/call", again))["error"]["code"] == -32602
                assert "result" in await anna.ask("tools/call", again)
            else:
                other.session = anna.session
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
                assert (await other.post(body)).status_code == 404
                assert (await anna.post(body)).status_code == 200
            await other.close()
    finally:
        await anna.close()


# The records themselves -------------------------------------------------------------------------


async def test_every_record_has_a_test_and_every_test_a_record() -> None:
    assert set(records.requirements()) == set(records.proven)


async def test_records_say_what_does_not_hold() -> None:
    for one in records.requirements().values():
        assert one.source, one.id
        assert one.behaviour.endswith("."), one.id
        assert (one.status == "holds") == (not one.missing), one.id
        for cell in one.missing:
            edge, revision = cell.split()
            assert edge in one.edges, one.id
            assert revision in one.revisions, one.id
