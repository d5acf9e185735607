"""The bus without any of our code: stock nats-py with the seed of a tenant's plain client."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import nats
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import envelope

from mesh_chassis.testing.conditions import eventually

FIVE_LINES = """\
import asyncio, nats
async def main():
    nc = await nats.connect({url!r}, nkeys_seed={seed!r})
    print((await nc.request("mesh.v1.demo-tenant.call.kv.kv_get", {body!r})).data.decode())
asyncio.run(main())
"""


def body(tool: str, **arguments: object) -> bytes:
    params = {"name": tool, "arguments": arguments}
    return json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    ).encode()


@pytest_asyncio.fixture
async def bare(mesh: RunningMesh) -> AsyncIterator[Client]:
    client = await nats.connect(mesh.nats, nkeys_seed=mesh.seed("demo"))
    yield client
    await client.close()


async def ask(client: Client, subject: str, data: bytes) -> dict[str, Any]:
    return json.loads((await client.request(subject, data, timeout=5)).data)


async def gather(client: Client, subject: str, wait_s: float = 0.5) -> list[dict[str, Any]]:
    """Every answer to one request: ends once nothing arrived for a while."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, b"", reply=inbox)
    answers: list[dict[str, Any]] = []
    try:
        while True:
            answers.append(json.loads((await subscription.next_msg(timeout=wait_s)).data))
    except nats.errors.TimeoutError:
        return answers
    finally:
        await subscription.unsubscribe()


def test_five_lines_of_nats_py_call_a_tool_by_subject(mesh: RunningMesh) -> None:
    script = FIVE_LINES.format(url=mesh.nats, seed=mesh.seed("demo"), body=body("kv_get", key="a"))
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["id"] == 1
    assert answer["result"]["structuredContent"]["key"] == "a"


async def test_plain_request_gets_exactly_one_plain_reply(bare: Client) -> None:
    inbox = bare.new_inbox()
    subscription = await bare.subscribe(inbox)
    subject = "mesh.v1.demo-tenant.call.echo.echo"
    await bare.publish(subject, body("echo", message="one"), reply=inbox)
    first = await subscription.next_msg(timeout=5)
    assert json.loads(first.data)["result"]["structuredContent"]["message"] == "one"
    with pytest.raises(nats.errors.TimeoutError):
        await subscription.next_msg(timeout=0.3)


async def test_upstream_server_is_called_by_subject(bare: Client) -> None:
    answer = await ask(
        bare,
        "mesh.v1.demo-tenant.call.time.get_current_time",
        body("get_current_time", timezone="UTC"),
    )
    assert answer["result"]["isError"] is False


async def test_gateway_itself_serves_plain_clients(bare: Client) -> None:
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": 5, "method": "tools/list"}
    request["params"] = {"_meta": envelope()}
    answer = await ask(bare, "mesh.v1.demo-tenant.gw.tools.list", json.dumps(request).encode())
    names = {tool["name"] for tool in answer["result"]["tools"]}
    assert {"kv_get", "echo", "time__get_current_time"} <= names


async def test_discovery_shows_every_service_in_the_stock_format(bare: Client) -> None:
    pings = await gather(bare, "$SRV.PING")
    assert {ping["name"] for ping in pings} >= {
        "gateway",
        "registry",
        "tenant-auth",
        "tool-runner",
    }
    assert {ping["type"] for ping in pings} == {"io.nats.micro.v1.ping_response"}
    assert len({ping["id"] for ping in pings}) == len(pings)

    infos = {info["name"]: info for info in await gather(bare, "$SRV.INFO")}
    assert infos["tool-runner"]["type"] == "io.nats.micro.v1.info_response"
    subjects = {point["subject"] for point in infos["tool-runner"]["endpoints"]}
    assert "mesh.v1.*.call.kv.*" in subjects

    await ask(bare, "mesh.v1.demo-tenant.call.kv.kv_get", body("kv_get", key="a"))
    (stats,) = await gather(bare, "$SRV.STATS.tool-runner")
    assert stats["type"] == "io.nats.micro.v1.stats_response"
    kv = next(p for p in stats["endpoints"] if p["subject"] == "mesh.v1.*.call.kv.*")
    assert kv["num_requests"] >= 1
    assert kv["queue_group"] == "w"


async def test_plain_client_reaches_neither_another_tenant_nor_the_platform(
    mesh: RunningMesh,
) -> None:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(mesh.nats, nkeys_seed=mesh.seed("demo"), error_cb=note)
    try:
        for subject in (
            "mesh.v1.other.call.kv.kv_get",
            "mesh.v1._.svc.tenant-auth.key_create",
            "$JS.API.STREAM.NAMES",
            "$KV.mesh_config.x",
        ):
            await client.publish(subject, b"{}")
        await client.subscribe("mesh.v1.*.call.>")
        await client.subscribe("_MESH.>")
        await client.flush()
        await eventually(lambda: len(refused) >= 6, what="six refusals")
    finally:
        await client.close()
    assert all("permissions violation" in text.lower() for text in refused), refused


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe garbage \x00",
        b"[" * 2_000,
        b'{"jsonrpc":"2.0","id":null,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"other"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    ],
)
async def test_garbage_on_a_call_subject_is_answered_with_an_error(
    steady: RunningMesh, bare: Client, data: bytes
) -> None:
    answer = await ask(bare, "mesh.v1.demo-tenant.call.kv.kv_get", data)
    assert -32700 <= answer["error"]["code"] <= -31000
    assert answer["error"]["data"]["outcome"] == "not_executed"
    ok = await ask(bare, "mesh.v1.demo-tenant.call.echo.echo", body("echo", message=1))
    assert ok["result"]["structuredContent"]["message"] == 1


async def test_unknown_server_has_no_responders_and_unknown_tool_an_error(bare: Client) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        await bare.request("mesh.v1.demo-tenant.call.nobody.x", body("x"), timeout=2)
    answer = await ask(bare, "mesh.v1.demo-tenant.call.kv.nothing", body("nothing"))
    assert answer["error"]["code"] == -32602
