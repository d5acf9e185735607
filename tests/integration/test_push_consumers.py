"""What a service that is broken into can have the broker deliver, and to whom.

The broker lets whoever may make a consumer name any subject for its deliveries; it asks for no
right to publish there (nats-server 2.15). What holds it back is pinned here: deliveries begin only
where somebody subscribed to exactly that subject, which streams and the stream API do not; a
message keeps the subject it was stored under; and endpoints of the mesh take none, because their
reply subject is the broker's.
"""

import asyncio

import msgspec
import pytest
from nats.aio.msg import Msg

from mcp_proto import buckets, subjects
from mcp_proto.contracts import tenant_auth
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import serve_operation
from mesh_chassis.stream import StreamConfig, ensure_stream
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus

pytestmark = pytest.mark.usefixtures("broker", "provision")

KEY = "acme.planted"
PLANTED = f"$KV.{buckets.SESSIONS.name}.{KEY}"


async def plant(gateway: Bus, body: bytes, **headers: str) -> None:
    """Store a message of the gateway's choice, headers too."""
    await gateway.request(PLANTED, body, headers=headers, timeout_s=2)


async def deliver_to(gateway: Bus, subject: str, *, group: str = "") -> str:
    """Have the broker deliver it to a subject of the gateway's choice; name of the consumer."""
    name = f"c{gateway.new_request_id()}"
    config = {
        "name": name,
        "deliver_subject": subject,
        "filter_subject": PLANTED,
        "deliver_policy": "last_per_subject",
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": 60_000_000_000,
        **({"deliver_group": group} if group else {}),
    }
    stream = buckets.SESSIONS.stream
    body = {"stream_name": stream, "action": "create", "config": config}
    reply = await gateway.request(
        f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{PLANTED}",
        msgspec.json.encode(body),
        timeout_s=2,
    )
    # Pinned: no right on the subject is asked for. Once the broker asks, the ADR can say so.
    assert b'"error"' not in reply.payload
    return name


async def delivered(operator: Bus, name: str) -> int:
    """How many messages a consumer has delivered."""
    subject = f"$JS.API.CONSUMER.INFO.{buckets.SESSIONS.stream}.{name}"
    reply = await operator.request(subject, timeout_s=2)
    return int(msgspec.json.decode(reply.payload)["delivered"]["consumer_seq"])


async def test_push_consumer_writes_into_no_stream_and_runs_no_request_of_the_stream_api(
    connect_bus: ConnectBus,
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    operator = await connect_bus("operator", "operator-1")
    config = KV.bind(operator, buckets.CONFIG)
    await config.put("tenant.acme", b"{}")
    await plant(gateway, b'{"roles":["Admin"]}')
    targets = (
        f"$KV.{buckets.CONFIG.name}.principal.acme.mallory",
        f"$JS.API.STREAM.DELETE.{buckets.CONFIG.stream}",
        f"$JS.API.STREAM.PURGE.{buckets.CONFIG.stream}",
        "$JS.API.STREAM.CREATE.X",
        "$O.mesh_t_acme.M.x",
    )
    names = [await deliver_to(gateway, subject) for subject in targets]
    own = await deliver_to(gateway, "_MESH.gateway.gateway-1.probe")
    heard = asyncio.Event()

    async def on_message(_: Msg) -> None:
        heard.set()

    # The broker works through them meanwhile: one it may deliver arrives.
    await gateway.subscribe("_MESH.gateway.gateway-1.probe", on_message)
    async with asyncio.timeout(10):
        await heard.wait()
    assert await delivered(operator, own) == 1
    assert [await delivered(operator, name) for name in names] == [0] * len(names)
    assert await config.keys() == ["tenant.acme"]


async def test_events_delivered_by_a_stream_are_stored_under_no_name_but_their_own(
    connect_bus: ConnectBus,
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    operator = await connect_bus("operator", "operator-1")
    audit = StreamConfig(name="AUDIT", subjects=("mesh.v1.*.evt.audit.>",))
    await ensure_stream(operator, audit)
    forged = subjects.event("acme", "audit", "registry-1")
    heard = asyncio.Event()

    async def on_message(message: Msg) -> None:
        assert message.subject == PLANTED  # what it was stored under, not what it claims to be
        heard.set()

    # Gateways hear all events, so they can subscribe to exactly this one.
    await gateway.subscribe(forged, on_message)
    await plant(gateway, b"{}")
    await deliver_to(gateway, forged)
    async with asyncio.timeout(10):
        await heard.wait()
    body = b'{"seq":1}'
    stored = await operator.request("$JS.API.STREAM.MSG.GET.AUDIT", body, timeout_s=2)
    assert msgspec.json.decode(stored.payload)["message"]["subject"] == PLANTED


@pytest.mark.parametrize("group", ["", "tenant-auth"])
async def test_service_takes_no_request_that_a_stream_delivers(
    connect_bus: ConnectBus, group: str
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    auth = await connect_bus("tenant-auth", "tenant-auth-1")
    operator = await connect_bus("operator", "operator-1")
    asked: list[tenant_auth.KeyCreate] = []

    async def make(params: tenant_auth.KeyCreate) -> tenant_auth.CreatedKey:
        asked.append(params)
        return tenant_auth.CreatedKey(id="a", key="b")

    endpoint = serve_operation(auth, tenant_auth.key_create, make)
    await endpoint.start()
    wanted = tenant_auth.KeyCreate(tenant="acme", principal="mallory")
    await plant(gateway, msgspec.json.encode(wanted), **{"Mesh-Wire": "1"})
    name = await deliver_to(gateway, tenant_auth.key_create.subject, group=group)
    if group:
        await eventually(lambda: _count(operator, name), timeout_s=5)
    # A request of somebody who may ask comes after it, and is the only one served.
    await operator.operation(
        tenant_auth.key_create, tenant_auth.KeyCreate(tenant="acme", principal="ann")
    )
    assert [one.principal for one in asked] == ["ann"]
    await endpoint.drain(1.0)


async def _count(operator: Bus, name: str) -> bool:
    return await delivered(operator, name) > 0
