"""Nothing lives in a gateway: sessions go on at the other one, and a revoked key ends at both."""

import asyncio
import json
import time

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.chaos.acting import switch
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import http, post_mcp, request_bytes

pytestmark = pytest.mark.slow

NEEDS_KEYS = True
VERSIONS = ("2025-03-26", "2025-06-18", "2025-11-25")


@pytest.fixture(scope="module")
def key(mesh_pair: RunningMesh) -> str:
    return (mesh_pair.state / "keys" / "admin.key").read_text().strip()


async def begin(base: str, key: str, version: str = "2025-11-25") -> dict[str, str]:
    """Open a session; returns the headers of its further requests."""
    bearer = {"authorization": f"Bearer {key}"}
    info = {
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": {"name": "chaos", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
    answer = await post_mcp(base, body, bearer)
    assert answer.status == 200, answer
    session = answer.headers["mcp-session-id"]
    return {**bearer, "mcp-session-id": session, "mcp-protocol-version": version}


def request(method: str, **params: object) -> wire.JsonObject:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


@pytest.mark.parametrize("version", VERSIONS)
async def test_session_opened_at_one_gateway_goes_on_at_the_other(
    mesh_pair: RunningMesh, key: str, version: str
) -> None:
    one, other = mesh_pair.urls
    headers = await begin(one, key, version)
    # At once: the other gateway has had no time to hear of it.
    listed = await post_mcp(other, request("tools/list"), headers)
    assert listed.status == 200
    assert listed.json["result"]["tools"]
    level = request("logging/setLevel", level="warning")
    assert (await post_mcp(other, level, headers)).status == 200
    for base in (one, other, one):
        called = request("tools/call", name="lab__echo", arguments={"text": base})
        answer = await post_mcp(base, called, headers)
        assert answer.json["result"]["content"][0]["text"] == base


async def test_session_ended_at_one_gateway_is_ended_at_the_other(
    mesh_pair: RunningMesh, key: str
) -> None:
    one, other = mesh_pair.urls
    headers = await begin(one, key)
    for base in (one, other):
        assert (await post_mcp(base, request("ping"), headers)).status == 200
    ended = await http(other, request_bytes(other, "/mcp", b"", headers, "DELETE"))
    assert ended.status in (200, 204)
    until = time.monotonic() + 1.0
    while (await post_mcp(one, request("ping"), headers)).status != 404:
        assert time.monotonic() < until, "the session still lives at the first gateway"
        await asyncio.sleep(0.02)
    assert (await post_mcp(other, request("ping"), headers)).status == 404


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_official_client_goes_on_when_its_connection_moves_to_the_other_gateway(
    mesh_pair: RunningMesh, key: str, mode: str
) -> None:
    one, other = mesh_pair.urls
    async with (
        switch(one) as way,
        httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}) as web,
        Client(
            streamable_http_client(f"{way.url}/mcp", http_client=web),
            mode=mode,
            read_timeout_seconds=10,
        ) as client,
    ):
        for number, gateway in enumerate((one, other, one, other)):
            way.turn(gateway)
            told = await client.call_tool("echo", {"message": number})
            assert told.structured_content == {"message": number}
            assert len((await client.list_tools()).tools) > 5
        assert way.passed[one] >= 2
        assert way.passed[other] >= 2


async def test_revoked_key_is_cut_at_both_gateways_within_a_second(mesh_pair: RunningMesh) -> None:
    made = mesh_pair.mesh(
        *("key", "create", "--tenant", "default", "--principal", "admin", "--json")
    )
    fresh = json.loads(made.stdout)
    sessions = [await begin(base, fresh["key"]) for base in mesh_pair.urls]
    for base, headers in zip(mesh_pair.urls, sessions, strict=True):
        assert (await post_mcp(base, request("tools/list"), headers)).status == 200
    await asyncio.to_thread(mesh_pair.mesh, "key", "revoke", fresh["id"])
    until = time.monotonic() + 1.0
    for base in mesh_pair.urls:
        for headers in sessions:
            while (await post_mcp(base, request("tools/list"), headers)).status != 401:
                assert time.monotonic() < until, f"the key still works at {base}"
                await asyncio.sleep(0.02)


async def test_key_made_a_moment_ago_works_at_every_gateway(mesh_pair: RunningMesh) -> None:
    for _ in range(3):
        made = await asyncio.to_thread(
            mesh_pair.mesh,
            *("key", "create", "--tenant", "default", "--principal", "admin", "--json"),
        )
        fresh = json.loads(made.stdout)
        for base in mesh_pair.urls:
            headers = {"authorization": f"Bearer {fresh['key']}"}
            body = request_bytes(base, "/tools/echo", b"{}", headers)
            assert (await http(base, body)).status == 200
