"""Native tools on a real broker: called by plain NATS clients, stored per tenant."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import CallerContext
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import ContextSigner, new_kek, new_signing_key
from mesh_chassis.clock import now_ms
from mesh_chassis.config import ServiceSection
from mesh_chassis.keyring import KeyRing
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_chassis.testing.provision import written_by
from tool_runner.config import RunnerSection, ToolRunnerConfig
from tool_runner.service import build

ConnectBus = Callable[..., Awaitable[Bus]]
DEMO = "demo-tenant"

pytestmark = pytest.mark.usefixtures("broker", "provision")


def settings(*, allow_unsigned: bool = True) -> ToolRunnerConfig:
    return ToolRunnerConfig(
        service=ServiceSection(instance="runner-1"),
        runner=RunnerSection(allow_unsigned=allow_unsigned),
    )


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[Client]:
    """A plain NATS client with the rights of the demo tenant."""
    nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("client", DEMO))
    yield nc
    await nc.close()


@pytest.fixture
async def operator(broker: Broker) -> AsyncIterator[Client]:
    nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("operator", "operator"))
    yield nc
    await nc.close()


async def ask(nc: Client, subject: str, body: bytes = b"", **headers: str) -> Any:
    reply = await nc.request(f"mesh.v1.{subject}", body, timeout=5, headers=headers or None)
    return msgspec.json.decode(reply.data)


async def kv(nc: Client, tenant: str, tool: str, **arguments: object) -> dict[str, Any]:
    answer = await ask(
        nc, f"{tenant}.call.kv.{tool}", msgspec.json.encode({"arguments": arguments})
    )
    assert "result" in answer, answer
    assert not answer["result"].get("isError"), answer
    return answer["result"]["structuredContent"]


async def test_bare_client_sets_and_reads_a_value_in_five_lines(broker, connect_bus) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        nc = await nats.connect(broker.url, nkeys_seed=broker.seed_for("client", DEMO))
        call = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":%s}'
        await nc.request(
            "mesh.v1.demo-tenant.call.kv.kv_set",
            call % (1, b'{"name":"kv_set","arguments":{"key":"a","value":{"x":[1, 2.50]}}}'),
        )
        reply = await nc.request(
            "mesh.v1.demo-tenant.call.kv.kv_get",
            call % (2, b'{"name":"kv_get","arguments":{"key":"a"}}'),
        )
        await nc.close()
    assert reply.headers is None
    assert b'"id":2' in reply.data
    assert b'"value":{"x":[1, 2.50]}' in reply.data


async def test_keys_of_any_text_stay_in_their_tenant(connect_bus, operator) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        odd = ["..", "a..b", "*", ">", "$KV.x", "a b", "ключ", "_", "a/b", "=5F", "\n", "😀"]
        for n, key in enumerate(odd):
            await kv(operator, "acme", "kv_set", key=key, value=n)
        for n, key in enumerate(odd):
            assert (await kv(operator, "acme", "kv_get", key=key))["value"] == n
            assert (await kv(operator, "other", "kv_get", key=key))["found"] is False
        assert (await kv(operator, "acme", "kv_list"))["keys"] == sorted(odd)
        assert (await kv(operator, "other", "kv_list"))["keys"] == []


async def test_list_filters_by_decoded_prefix_and_pages(connect_bus, operator) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        for key in ("p/1", "p/2", "p/3", "q/1", "p"):
            await kv(operator, "acme", "kv_set", key=key, value=1)
        first = await kv(operator, "acme", "kv_list", prefix="p/", limit=2)
        assert first["keys"] == ["p/1", "p/2"]
        rest = await kv(operator, "acme", "kv_list", prefix="p/", limit=2, cursor=first["cursor"])
        assert rest == {"keys": ["p/3"]}


async def test_value_with_ttl_expires_unless_it_is_set_again(connect_bus, operator) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        await kv(operator, "acme", "kv_set", key="short", value=1, ttl=1)
        await kv(operator, "acme", "kv_set", key="kept", value=1, ttl=1)
        await kv(operator, "acme", "kv_set", key="kept", value=2)

        async def expired() -> bool:
            return not (await kv(operator, "acme", "kv_get", key="short"))["found"]

        await eventually(expired, timeout_s=4.0)
        assert (await kv(operator, "acme", "kv_get", key="kept"))["value"] == 2
        assert (await kv(operator, "acme", "kv_list"))["keys"] == ["kept"]
        await kv(operator, "acme", "kv_set", key="long", value=1, ttl=10 * 365 * 86_400)
        assert (await kv(operator, "acme", "kv_get", key="long"))["found"]


async def test_limits_answer_with_clear_errors(connect_bus, operator) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        large = msgspec.json.encode({"arguments": {"key": "a", "value": "x" * (512 * 1024)}})
        answer = await ask(operator, "acme.call.kv.kv_set", large)
        assert answer["result"]["isError"]
        assert "524288" in answer["result"]["content"][0]["text"]
        long = msgspec.json.encode({"arguments": {"key": "ü" * 200}})
        answer = await ask(operator, "acme.call.kv.kv_get", long)
        assert answer["error"]["code"] == -31012
        cursor = msgspec.json.encode({"arguments": {"cursor": "=zz"}})
        answer = await ask(operator, "acme.call.kv.kv_list", cursor)
        assert answer["error"]["code"] == -32602
        answer = await ask(operator, "_.call.kv.kv_get", b'{"arguments":{"key":"a"}}')
        assert answer["error"]["code"] == -32602


async def test_bucket_lost_with_the_broker_is_made_again(connect_bus, operator) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        await kv(operator, "acme", "kv_set", key="a", value=1)
        await operator.jetstream().delete_stream("KV_mesh_t_acme")
        assert (await kv(operator, "acme", "kv_get", key="a"))["found"] is False
        await kv(operator, "acme", "kv_set", key="a", value=2)
        assert (await kv(operator, "acme", "kv_get", key="a"))["value"] == 2


async def test_refusals_carry_code_and_outcome(connect_bus, client) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        for subject, code in (
            ("call.kv.nope", -32602),
            ("call.echo.kv_get", -32602),
            ("rpc.kv.resources.read", -32601),
        ):
            answer = await ask(client, f"{DEMO}.{subject}")
            assert answer["error"]["code"] == code
            assert answer["error"]["data"]["outcome"] == "not_executed"
        answer = await ask(client, f"{DEMO}.call.echo.echo", b"", **{"Mcp-Name": "kv_get"})
        assert answer["error"]["code"] == -32020


async def test_signed_context_is_required_verified_and_bound_to_the_tenant(
    connect_bus: ConnectBus, operator: Client
) -> None:
    owner = await written_by(connect_bus, buckets.KEYS)
    kek = base64.b64decode(new_kek())
    key = new_signing_key(kek, created_ms=now_ms(), use_from_ms=0)
    await owner.put(f"sign.{key.kid}", msgspec.json.encode(key))
    ring = await KeyRing.open(await connect_bus("gateway", "gateway-1"))
    signer = ContextSigner(ring, kek)

    def sign(tenant: str, *perms: str) -> str:
        return signer.sign(
            CallerContext(
                tid=tenant, sub="user-1", roles=("User",), exp=0, iss="gateway-1", perms=perms
            )
        )

    async def code(context: str, tool: str = "kv_get") -> int | None:
        body = msgspec.json.encode({"arguments": {"key": "a"}})
        headers = {"Mesh-Ctx": context} if context else {}
        answer = await ask(operator, f"acme.call.kv.{tool}", body, **headers)
        return answer["error"]["code"] if "error" in answer else None

    config = settings(allow_unsigned=False)
    async with in_process(build, config, await connect_bus("tool-runner", "runner-1")):
        assert await code("") == -31001
        assert await code("a.b.c") == -31001
        # A context without permissions gives none.
        assert await code(sign("acme")) == -31003
        assert await code(sign("other")) == -31003
        assert await code(sign("acme", "ReadKV")) is None
        assert await code(sign("acme", "ReadKV"), "kv_delete") == -31003
        await owner.purge(f"sign.{key.kid}")

        async def refused() -> bool:
            return await code(sign_before) == -31001

        sign_before = signer._cache and next(iter(signer._cache.values())).token
        await eventually(refused)
    await ring.close()


async def test_echo_answers_two_callers_with_equal_ids_with_their_own(connect_bus, client) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        nonces = [os.urandom(8).hex() for _ in range(200)]
        body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",'
        body += '"arguments":{"message":"%s"}}}'
        answers = await asyncio.gather(
            *(ask(client, f"{DEMO}.call.echo.echo", (body % one).encode()) for one in nonces)
        )
        assert [a["result"]["structuredContent"]["message"] for a in answers] == nonces


async def test_services_are_found_by_discovery(connect_bus, client) -> None:
    async with in_process(build, settings(), await connect_bus("tool-runner", "runner-1")):
        reply = await client.request("$SRV.INFO.tool-runner", b"", timeout=2)
        names = {one["name"] for one in msgspec.json.decode(reply.data)["endpoints"]}
        assert {"call-kv", "call-echo"} <= names
