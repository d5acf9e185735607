"""What the broker refuses each service (nats reference, section 7.3): rights are behaviour."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import msgspec
import nats
import pytest

from mcp_proto import buckets, subjects
from mcp_proto.broker_rights import inbox_prefix
from mcp_proto.buckets import Bucket
from mcp_proto.contracts import provision
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus, Msg
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus

IDS = {
    "gateway": "gateway-1",
    "tool-runner": "runner-1",
    "registry": "registry-1",
    "tenant-auth": "tenant-auth-1",
    "stdio": "stdio-1",
    "operator": "operator-1",
}
WITH_BUS = ("gateway", "tool-runner", "registry", "tenant-auth")


@pytest.fixture
async def bus_of(shared_broker: Broker, connect_bus: ConnectBus) -> Callable[[str], Awaitable[Bus]]:
    async def make(service: str) -> Bus:
        return await connect_bus(service, IDS[service])

    return make


@pytest.fixture
async def platform(bus_of: Callable[[str], Awaitable[Bus]]) -> None:
    """The buckets exist, so that a refusal is the broker's and not a missing stream."""
    for bucket in (buckets.CATALOG, buckets.INSTANCES, buckets.LOGINS, buckets.CONFIG):
        await KV.ensure(await bus_of("registry"), bucket)
    await KV.ensure(await bus_of("registry"), buckets.SESSIONS)


async def refused(attempt: Awaitable[object]) -> None:
    with pytest.raises(MeshError) as caught:
        await attempt
    assert caught.value.kind is ErrorKind.DENIED


async def ignore(_: Msg) -> None:
    return


BusOf = Callable[[str], Awaitable[Bus]]


@pytest.mark.parametrize("service", ["gateway", "tool-runner", "tenant-auth", "stdio"])
async def test_only_the_registry_writes_the_catalogue(
    platform: None, bus_of: BusOf, service: str
) -> None:
    await refused(KV.bind(await bus_of(service), buckets.CATALOG).put("_.evil", b"{}"))


@pytest.mark.parametrize(
    ("service", "bucket"),
    [
        ("tool-runner", buckets.CONFIG),
        ("tool-runner", buckets.LOGINS),
        ("tool-runner", buckets.SESSIONS),
        ("gateway", buckets.LOGINS),
        ("registry", buckets.CONFIG),
        ("registry", buckets.LOGINS),
        ("tenant-auth", buckets.SESSIONS),
        ("stdio", buckets.CATALOG),
    ],
    ids=lambda value: value.name if isinstance(value, Bucket) else value,
)
async def test_service_neither_reads_nor_writes_a_bucket_that_is_not_its_business(
    platform: None, bus_of: BusOf, service: str, bucket: Bucket
) -> None:
    kv = KV.bind(await bus_of(service), bucket)
    await refused(kv.get("any"))
    await refused(kv.put("any", b"1"))
    watch = await kv.watch(on_entry=lambda _key, _value, _revision: None)
    await refused(watch.ready)
    await watch.stop()


@pytest.mark.parametrize("service", WITH_BUS)
async def test_instance_writes_its_own_heartbeat_and_no_other(
    platform: None, bus_of: BusOf, service: str
) -> None:
    kv = KV.bind(await bus_of(service), buckets.INSTANCES)
    await kv.put(f"{service}.{IDS[service]}", b"{}", ttl_s=20)
    if service != "registry":  # it clears what died
        await refused(kv.put(f"{service}.somebody-else", b"{}", ttl_s=20))
        await refused(kv.put("registry.registry-1", b"{}", ttl_s=20))


@pytest.mark.parametrize("service", WITH_BUS)
async def test_service_hears_no_inbox_of_another_instance(bus_of: BusOf, service: str) -> None:
    bus = await bus_of(service)
    await refused(bus.subscribe(f"{inbox_prefix('gateway', 'gateway-2')}.>", ignore))
    await refused(bus.subscribe("_INBOX.>", ignore))
    await refused(bus.subscribe(">", ignore))


@pytest.mark.parametrize("service", WITH_BUS)
async def test_service_taps_no_calls(bus_of: BusOf, service: str) -> None:
    bus = await bus_of(service)
    await refused(bus.subscribe(subjects.call(subjects.ANY, "notes", subjects.ANY), ignore))
    await refused(
        bus.subscribe(subjects.call(subjects.ANY, "notes", subjects.ANY), ignore, queue="mine")
    )
    await refused(bus.subscribe(subjects.rpc(subjects.ANY, "notes", subjects.REST), ignore))
    if service != "tool-runner":
        await refused(
            bus.subscribe(
                subjects.call(subjects.ANY, "notes", subjects.ANY), ignore, queue=subjects.QUEUE
            )
        )


async def test_runner_serves_calls_in_the_queue_group(bus_of: BusOf) -> None:
    runner = await bus_of("tool-runner")
    serving = await runner.subscribe(
        subjects.call(subjects.ANY, "notes", subjects.ANY), ignore, queue=subjects.QUEUE
    )
    await serving.unsubscribe()


async def test_runner_forges_no_reply_into_an_inbox_that_never_asked(bus_of: BusOf) -> None:
    gateway, runner = await bus_of("gateway"), await bus_of("tool-runner")
    inbox = f"{inbox_prefix('gateway', 'gateway-1')}.forged"
    heard = asyncio.Event()

    async def on_message(_: Msg) -> None:
        heard.set()

    await gateway.subscribe(inbox, on_message)
    await refused(runner.request(inbox, b"forged", timeout_s=2))
    assert not heard.is_set()


@pytest.mark.parametrize("service", WITH_BUS)
async def test_service_publishes_no_event_under_another_name(bus_of: BusOf, service: str) -> None:
    bus = await bus_of(service)
    await refused(bus.request(subjects.event("acme", "audit", "gateway-9"), b"{}", timeout_s=2))


async def test_registry_announces_changes_of_a_server_it_did_not_start(bus_of: BusOf) -> None:
    gateway, registry = await bus_of("gateway"), await bus_of("registry")
    heard = asyncio.Event()

    async def on_message(_: Msg) -> None:
        heard.set()

    source = secrets.token_hex(4)
    await gateway.subscribe(subjects.event(subjects.ANY, "list_changed", source), on_message)
    await registry.publish(subjects.event("acme", "list_changed", source), b"{}")
    async with asyncio.timeout(3):
        await heard.wait()


@pytest.mark.parametrize("service", WITH_BUS)
async def test_service_deletes_and_purges_no_stream(
    platform: None, bus_of: BusOf, service: str
) -> None:
    bus = await bus_of(service)
    for operation in ("STREAM.DELETE", "STREAM.PURGE"):
        subject = f"$JS.API.{operation}.{buckets.CATALOG.stream}"
        await refused(bus.request(subject, timeout_s=2))


NOT_THE_REGISTRY = ("gateway", "tool-runner", "tenant-auth", "stdio")
COPIES = {
    "republish": {"republish": {"src": ">", "dest": "$KV.mesh_config.>"}},
    "sources": {"sources": [{"name": buckets.CONFIG.stream}]},
    "mirror": {"mirror": {"name": buckets.LOGINS.stream}},
}
"""What makes a stream write every subject, or read every other stream (A6)."""


@pytest.mark.parametrize("service", NOT_THE_REGISTRY)
async def test_only_the_registry_makes_or_changes_streams(
    platform: None, bus_of: BusOf, service: str
) -> None:
    bus = await bus_of(service)
    own = (buckets.SESSIONS, buckets.CONFIG, buckets.TASKS, buckets.tenant_kv("acme"))
    for stream in (*(bucket.stream for bucket in own), "OBJ_mesh_t_acme", "EVT_mesh_t_acme", "X"):
        for verb in ("CREATE", "UPDATE"):
            body = msgspec.json.encode({"name": stream, "subjects": [f"{stream}.>"]})
            await refused(bus.request(f"$JS.API.STREAM.{verb}.{stream}", body, timeout_s=2))


@pytest.mark.parametrize("service", NOT_THE_REGISTRY)
@pytest.mark.parametrize("trick", COPIES)
async def test_service_has_the_broker_neither_write_nor_read_for_it_by_a_stream_of_its_own(
    platform: None, bus_of: BusOf, service: str, trick: str
) -> None:
    bus, operator = await bus_of(service), await bus_of("operator")
    for stream in (buckets.SESSIONS.stream, buckets.CONFIG.stream, f"KV_mesh_t_{service}"):
        subjects_of = {} if trick == "mirror" else {"subjects": [f"$KV.{stream[3:]}.>"]}
        body = msgspec.json.encode({"name": stream, **subjects_of, **COPIES[trick]})
        for verb in ("CREATE", "UPDATE"):
            await refused(bus.request(f"$JS.API.STREAM.{verb}.{stream}", body, timeout_s=2))
        shown = await operator.request(f"$JS.API.STREAM.INFO.{stream}", timeout_s=2)
        assert f'"{trick}":'.encode() not in shown.payload


@pytest.mark.parametrize("service", ["gateway", "tenant-auth", "stdio", "registry"])
async def test_only_runners_ask_for_storage_of_tenants(bus_of: BusOf, service: str) -> None:
    bus = await bus_of(service)
    await refused(bus.request(provision.ensure.subject, b"{}", timeout_s=2))


async def test_gateway_watches_no_bucket_through_the_unfiltered_request(
    platform: None, bus_of: BusOf
) -> None:
    gateway = await bus_of("gateway")
    body = msgspec.json.encode({"stream_name": buckets.LOGINS.stream, "config": {}})
    subject = f"$JS.API.CONSUMER.CREATE.{buckets.LOGINS.stream}"
    await refused(gateway.request(subject, body, timeout_s=2))


async def test_gateway_calls_no_administrative_operation(bus_of: BusOf) -> None:
    gateway = await bus_of("gateway")
    subject = subjects.service("tenant-auth", "create_key")
    await refused(gateway.request(subject, b"{}", timeout_s=2))


async def test_tenant_client_calls_only_its_own_tenant(shared_broker: Broker) -> None:
    denied: list[str] = []

    async def on_error(error: Exception) -> None:
        denied.append(str(error))

    client = await nats.connect(
        shared_broker.url,
        nkeys_seed=shared_broker.seed_for("client", "demo-tenant"),
        error_cb=on_error,
    )
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request(subjects.call("demo-tenant", "nobody", "home"), b"{}", timeout=2)
    other = subjects.call("acme", "notes", "get")
    for subject in (other, "$KV.mesh_catalog.x", "$JS.API.STREAM.NAMES"):
        await client.publish(subject, b"{}")
    await client.subscribe(subjects.event("acme", "list_changed", subjects.ANY), cb=ignore)
    await client.flush()
    await eventually(lambda: len(denied) == 4)
    assert all("permissions violation" in text for text in denied)
    await client.close()


async def test_agent_hears_discovery_of_itself_and_not_of_others(connect_bus: ConnectBus) -> None:
    agent = await connect_bus("agent", "agent-1")
    for subject in ("$SRV.PING", "$SRV.INFO.agent", "$SRV.STATS.agent.agent-1"):
        await (await agent.subscribe(subject, ignore)).unsubscribe()
    for subject in ("$SRV.>", "$SRV.PING.gateway", "$SRV.INFO.agent.agent-2", "$SRV.PING.agents"):
        await refused(agent.subscribe(subject, ignore))
