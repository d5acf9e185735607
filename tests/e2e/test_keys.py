"""A mesh that asks for keys: who may do what, and how fast a key ends."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx2
import msgspec
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.conftest import LAB, run
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import HttpAnswer, Lines, http, lines, request_bytes, stdio_lines

import mesh_sdk

pytestmark = pytest.mark.slow

CONFIG = f"""
[security]
auth_enabled = true

[[mcp_servers]]
name = "lab"
command = "{sys.executable}"
args = ["{LAB}"]
"""
CUT_S = 1.0


class Key(msgspec.Struct, frozen=True):
    id: str
    key: str


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that serves nobody without a key; two tenants, with people of each role."""
    mesh = RunningMesh(tmp_path_factory.mktemp("keys") / "room", config=CONFIG)
    for running in run(mesh):
        running.mesh("tenant", "add", "acme", "--allow", "*", "--deny", "lab:pid")
        running.mesh("tenant", "add", "other")
        for tenant, name, role in (
            ("acme", "ann", "User"),
            ("acme", "vic", "Viewer"),
            ("other", "otto", "User"),
        ):
            running.mesh("principal", "add", name, "--tenant", tenant, "--role", role)
        yield running


def make_key(mesh: RunningMesh, tenant: str, principal: str) -> Key:
    done = mesh.mesh("key", "create", "--tenant", tenant, "--principal", principal, "--json")
    return msgspec.json.decode(done.stdout, type=Key)


@pytest.fixture(scope="module")
def ann(closed: RunningMesh) -> Key:
    return make_key(closed, "acme", "ann")


@pytest.fixture(scope="module")
def vic(closed: RunningMesh) -> Key:
    return make_key(closed, "acme", "vic")


@pytest.fixture(scope="module")
def otto(closed: RunningMesh) -> Key:
    return make_key(closed, "other", "otto")


async def tool(mesh: RunningMesh, key: str, name: str, /, **arguments: object) -> HttpAnswer:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = json.dumps(arguments).encode()
    return await http(mesh.http, request_bytes(mesh.http, f"/tools/{name}", body, headers))


@asynccontextmanager
async def line_of(mesh: RunningMesh, key: str) -> AsyncIterator[Lines]:
    async with lines(mesh.tcp) as peer:
        answer = await peer.request("authenticate", {"token": key})
        assert "result" in answer, answer
        yield peer


@asynccontextmanager
async def client_of(mesh: RunningMesh, key: str, mode: str = "auto") -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}) as web:
        transport = streamable_http_client(mesh.mcp, http_client=web)
        async with Client(transport, mode=mode, read_timeout_seconds=20) as client:
            yield client


# Without a key ------------------------------------------------------------------------------


async def test_http_without_a_key_is_401_with_a_challenge(closed: RunningMesh) -> None:
    for answer in (
        await tool(closed, "", "kv_get", key="a"),
        await wire.post_modern(closed.http, "tools/list"),
        await wire.post_mcp(closed.http, {"jsonrpc": "2.0", "id": 1, "method": "initialize"}),
    ):
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json["error"]["code"] == -31001
    health = await http(closed.http, request_bytes(closed.http, "/health", b"", method="GET"))
    assert health.status == 200


@pytest.mark.parametrize("wrong", ["x", "mk_dev_aaaaaaaaaaaa_bbbb_00000000", "ü", "a b", "'--"])
async def test_wrong_key_is_refused_at_every_edge(closed: RunningMesh, wrong: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        answer = await tool(closed, wrong, "kv_get", key="a")
        assert (answer.status, answer.json["error"]["code"]) == (401, -31001)
    async with lines(closed.tcp) as peer:
        refused = await peer.request("authenticate", {"token": wrong})
        assert refused["error"]["code"] == -31001
        listed = await peer.request("tools/list")
        assert listed["error"]["code"] == -31001
        assert "result" in await peer.request("ping")


async def test_key_with_one_character_changed_is_refused(closed: RunningMesh, ann: Key) -> None:
    for at in (-1, -9, 8, len(ann.key) // 2):
        other = "a" if ann.key[at] != "a" else "b"
        changed = ann.key[:at] + other + (ann.key[at + 1 :] if at != -1 else "")
        assert (await tool(closed, changed, "kv_get", key="a")).status == 401


# With one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_key_works_over_http(closed: RunningMesh, ann: Key, mode: str) -> None:
    async with client_of(closed, ann.key, mode) as client:
        names = {one.name for one in (await client.list_tools()).tools}
        assert {"kv_set", "lab__echo"} <= names
        await client.call_tool("kv_set", {"key": mode, "value": 1})
        got = await client.call_tool("kv_get", {"key": mode})
        assert got.structured_content is not None
        assert got.structured_content["value"] == 1


async def test_key_works_over_tcp_and_stdio(closed: RunningMesh, ann: Key) -> None:
    async with line_of(closed, ann.key) as peer:
        assert (await peer.call("echo", message=1))["structuredContent"] == {"message": 1}
    async with stdio_lines(closed, "--tenant", "acme", MESH_CREDENTIAL=ann.key) as peer:
        await peer.initialize()
        assert (await peer.call("echo", message=2))["structuredContent"] == {"message": 2}


async def test_owner_of_the_folder_needs_no_key_of_his_own(closed: RunningMesh) -> None:
    assert "kv_get" in closed.mesh("tools").stdout
    async with stdio_lines(closed) as peer:
        await peer.initialize()
        assert "result" in await peer.request("tools/list")


# Rights -------------------------------------------------------------------------------------


async def test_viewer_neither_sees_nor_calls_what_writes(closed: RunningMesh, vic: Key) -> None:
    async with client_of(closed, vic.key) as client:
        names = {one.name for one in (await client.list_tools()).tools}
    assert "kv_get" in names
    assert not {"kv_set", "kv_delete", "echo", "lab__echo"} & names
    assert (await tool(closed, vic.key, "kv_get", key="a")).status == 200
    refused = await tool(closed, vic.key, "kv_set", key="a", value=1)
    assert (refused.status, refused.json["error"]["code"]) == (403, -31003)
    assert "WriteKV" in json.dumps(refused.json)
    async with line_of(closed, vic.key) as peer:
        answer = await peer.request(
            "tools/call", {"name": "kv:kv_set", "arguments": {"key": "a", "value": 1}}
        )
        assert answer["error"]["code"] == -31003
        assert answer["error"]["data"]["outcome"] == "not_executed"


async def test_denied_tool_is_denied_whatever_allows_it_and_however_it_is_spelt(
    closed: RunningMesh, ann: Key
) -> None:
    async with client_of(closed, ann.key) as client:
        names = {one.name for one in (await client.list_tools()).tools}
    assert "lab__echo" in names
    assert "lab__pid" not in names
    async with line_of(closed, ann.key) as peer:
        for name in ("lab__pid", "lab:pid"):
            answer = await peer.request("tools/call", {"name": name, "arguments": {}})
            assert answer["error"]["code"] in (-31003, -32602), name
        for name in ("lab:PID", "LAB:pid", "lab:pid ", "lab=3Apid", "lab:=70id", "lab.pid"):
            answer = await peer.request("tools/call", {"name": name, "arguments": {}})
            assert answer["error"]["code"] == -32602, name


async def test_values_of_one_tenant_are_not_there_for_another(
    closed: RunningMesh, ann: Key, otto: Key
) -> None:
    await tool(closed, ann.key, "kv_set", key="secret", value="of acme")
    await tool(closed, otto.key, "kv_set", key="secret", value="of other")
    for key, value in ((ann, "of acme"), (otto, "of other")):
        got = await tool(closed, key.key, "kv_get", key="secret")
        assert got.json["structuredContent"]["value"] == value
    await tool(closed, otto.key, "kv_set", key="only-other", value=1)
    listed = await tool(closed, ann.key, "kv_list")
    assert "only-other" not in listed.json["structuredContent"]["keys"]
    await tool(closed, otto.key, "kv_delete", key="secret")
    got = await tool(closed, ann.key, "kv_get", key="secret")
    assert got.json["structuredContent"]["value"] == "of acme"
    # A tenant without rules of its own has the built-in tools and nothing else.
    async with client_of(closed, otto.key) as client:
        names = {one.name for one in (await client.list_tools()).tools}
    assert {one.partition("_")[0] for one in names} == {"kv", "artifacts", "events", "echo"}


async def test_credential_does_not_reach_into_another_tenant(
    closed: RunningMesh, ann: Key, otto: Key
) -> None:
    async with line_of(closed, otto.key) as peer:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "tenant_id": "acme"}
        await peer.send(json.dumps(body).encode() + b"\n")
        assert (await peer.answer(1))["error"]["code"] == -31003
    async with client_of(closed, ann.key, "legacy"):
        pass
    # A session belongs to its principal: to any other it does not exist.
    info = {"protocolVersion": "2025-11-25", "capabilities": {}}
    info["clientInfo"] = {"name": "x", "version": "1"}  # type: ignore[assignment]
    begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
    mine = {"authorization": f"Bearer {ann.key}"}
    session = (await wire.post_mcp(closed.http, begin, mine)).headers["mcp-session-id"]
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    for key, status in ((ann, 200), (otto, 404)):
        headers = {"authorization": f"Bearer {key.key}", "mcp-session-id": session}
        assert (await wire.post_mcp(closed.http, listing, headers)).status == status


# The end of a key ---------------------------------------------------------------------------


async def cut_within(attempt, limit_s: float = CUT_S) -> float:
    """Seconds until ``attempt`` is refused."""
    began = time.monotonic()
    while await attempt():
        assert time.monotonic() - began < limit_s, "the key still works"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_revoked_key_is_cut_within_a_second_also_on_open_connections(
    closed: RunningMesh,
) -> None:
    key = make_key(closed, "acme", "ann")
    async with (
        line_of(closed, key.key) as peer,
        stdio_lines(closed, "--tenant", "acme", MESH_CREDENTIAL=key.key) as pipe,
    ):
        await pipe.initialize()
        for one in (peer, pipe):
            assert "result" in await one.request("tools/list")
        assert (await tool(closed, key.key, "echo")).status == 200

        await asyncio.to_thread(closed.mesh, "key", "revoke", key.id)

        async def over_tcp() -> bool:
            answer = await peer.request("tools/call", {"name": "echo", "arguments": {}})
            assert answer.get("error", {"code": -31001})["code"] == -31001
            return "result" in answer

        async def over_stdio() -> bool:
            return "result" in await pipe.request("tools/list")

        async def over_http() -> bool:
            return (await tool(closed, key.key, "echo")).status == 200

        await asyncio.gather(cut_within(over_tcp), cut_within(over_stdio), cut_within(over_http))
    async with lines(closed.tcp) as peer:
        refused = await peer.request("authenticate", {"token": key.key})
        assert refused["error"]["code"] == -31001


async def test_key_ends_by_itself_when_its_time_is_over(closed: RunningMesh) -> None:
    done = closed.mesh(
        *("key", "create", "--tenant", "acme", "--principal", "ann", "--ttl", "1s", "--json")
    )
    key = msgspec.json.decode(done.stdout, type=Key).key
    assert (await tool(closed, key, "echo")).status == 200

    async def works() -> bool:
        return (await tool(closed, key, "echo")).status == 200

    await cut_within(works, 3.0)


async def test_disabled_principal_is_cut_and_a_changed_role_counts_at_once(
    closed: RunningMesh,
) -> None:
    closed.mesh("principal", "add", "tmp", "--tenant", "acme", "--role", "User")
    key = make_key(closed, "acme", "tmp").key
    assert (await tool(closed, key, "kv_set", key="t", value=1)).status == 200
    closed.mesh("principal", "add", "tmp", "--tenant", "acme", "--role", "Viewer")

    async def may_write() -> bool:
        return (await tool(closed, key, "kv_set", key="t", value=2)).status == 200

    await cut_within(may_write)
    assert (await tool(closed, key, "kv_get", key="t")).status == 200
    closed.mesh("principal", "add", "tmp", "--tenant", "acme", "--disabled")

    async def may_read() -> bool:
        return (await tool(closed, key, "kv_get", key="t")).status == 200

    await cut_within(may_read)


def test_secrets_are_shown_once_and_are_nowhere_in_the_state_folder(
    closed: RunningMesh, ann: Key
) -> None:
    assert ann.key not in closed.mesh("key", "list").stdout
    assert ann.key not in closed.mesh("key", "list", "--json").stdout
    secret = ann.key.rsplit("_", 2)[1].encode()
    for path in closed.state.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path


async def test_sdk_client_of_the_folder_s_owner_needs_no_key_and_others_need_theirs(
    closed: RunningMesh, ann: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(closed.room)
    async with mesh_sdk.Client() as own, mesh_sdk.Client(closed.http, key=ann.key) as hers:
        assert not (await own.call_tool("echo", {"message": "x"})).is_error
        assert not (await hers.call_tool("echo", {"message": "x"})).is_error
        with pytest.raises(mesh_sdk.MeshCallError) as denied:
            await hers.call_tool("lab", "pid")
        assert denied.value.code in {-31003, -32602}
    async with mesh_sdk.Manager({"tenant": "acme", "key": ann.key}) as manager:
        assert not (await manager.execute_tool("echo", "echo", {"message": "x"})).is_error
    monkeypatch.chdir("/")
    host, port = closed.tcp
    for url in (closed.http, f"tcp://{host}:{port}"):
        with pytest.raises(mesh_sdk.MeshCallError) as refused:
            await mesh_sdk.Client(url).open()
        assert refused.value.kind == "unauthenticated"
