"""What the broker refuses, and allows, around swarms: who may speak as whom, and read what."""

from collections.abc import Awaitable, Callable

import msgspec
import nats
import pytest

from mcp_proto import buckets, subjects
from mcp_proto.contracts import provision, swarm, tenant_auth
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus, Msg
from mesh_chassis.direct_get import get_batch
from mesh_chassis.stream import Conflict, publish
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus

pytestmark = pytest.mark.usefixtures("provision")

TENANT = "demo-tenant"
SWARM = "swarm_1_a"
LOG = subjects.task(TENANT, "log", SWARM)
OF_THE_LOG = f"$JS.API.DIRECT.GET.{buckets.SWARM_LOG}"
BYSTANDERS = (
    ("gateway", "gateway-1"),
    ("tool-runner", "runner-1"),
    ("tenant-auth", "tenant-auth-1"),
    ("agent-host", "agent-host-1"),
    ("agent", "agent-1"),
    ("stdio", "stdio-1"),
)

BusOf = Callable[[str, str], Awaitable[Bus]]


class _Next(msgspec.Struct, frozen=True):
    batch: int = 100
    seq: int = 1
    next_by_subj: str = LOG


@pytest.fixture
def bus_of(broker: Broker, connect_bus: ConnectBus) -> BusOf:
    async def make(service: str, instance: str) -> Bus:
        return await connect_bus(service, instance)

    return make


async def refused(attempt: Awaitable[object]) -> None:
    with pytest.raises(MeshError) as caught:
        await attempt
    assert caught.value.kind is ErrorKind.DENIED


async def ignore(_: Msg) -> None:
    return


async def coordinator(bus_of: BusOf) -> Bus:
    return await bus_of("swarm-coordinator", "swarm-1")


async def test_coordinator_appends_reads_and_shortens_the_log_under_its_own_rights(
    bus_of: BusOf,
) -> None:
    bus = await coordinator(bus_of)
    first = await publish(bus, LOG, b"[1]", expected_last=0)
    await publish(bus, LOG, b"[2]", expected_last=first.seq)
    with pytest.raises(Conflict):
        await publish(bus, LOG, b"[3]", expected_last=first.seq)
    read = await get_batch(bus, buckets.SWARM_LOG, _Next(), timeout_s=2)
    assert [one.payload for one in read] == [b"[1]", b"[2]"]
    body = msgspec.json.encode({"filter": LOG, "seq": read[1].sequence})
    await bus.request(f"$JS.API.STREAM.PURGE.{buckets.SWARM_LOG}", body, timeout_s=2)
    read = await get_batch(bus, buckets.SWARM_LOG, _Next(), timeout_s=2)
    assert [one.payload for one in read] == [b"[2]"]


async def test_coordinator_keeps_memory_leases_records_and_large_values(bus_of: BusOf) -> None:
    bus = await coordinator(bus_of)
    for kind in ("memory", "swarm"):
        wanted = provision.Ensure(kind=kind, tenant=TENANT)
        await bus.operation(provision.ensure, wanted, timeout_s=5)
    memory = KV.bind(bus, buckets.swarm_memory(TENANT))
    key = buckets.memory_key(SWARM, "default", "a.b")
    revision = await memory.create(key, b"1", ttl_s=60)
    await memory.update(key, b"2", revision)
    assert await memory.keys(f"{SWARM}.default.") == [key]
    assert await memory.keys(f"{SWARM}.") == [key]
    await memory.delete(key)
    await memory.create(key, b"3")
    entry = await memory.get(key)
    assert entry is not None
    assert entry.value == b"3"
    leases = await KV.open(bus, buckets.LEASE)
    await leases.create(buckets.swarm_lease_key(TENANT, SWARM), b"{}", ttl_s=5)
    records = await KV.open(bus, buckets.SWARMS)
    await records.put(buckets.key(TENANT, SWARM), b"{}")
    assert await records.keys() == [f"{TENANT}.{SWARM}"]
    value = buckets.swarm_object(TENANT, SWARM, "v1")
    await publish(bus, value, bytes(300_000), headers={"Nats-TTL": "60"})
    stream = f"OBJ_{buckets.swarm_objects(TENANT)}"
    stored = await bus.request(f"$JS.API.DIRECT.GET.{stream}.{value}", timeout_s=2)
    assert len(stored.payload) == 300_000


async def test_coordinator_neither_reads_nor_writes_what_tenants_and_services_keep(
    bus_of: BusOf,
) -> None:
    bus, runner = await coordinator(bus_of), await bus_of("tool-runner", "runner-1")
    for kind in ("kv", "objects"):
        wanted = provision.Ensure(kind=kind, tenant=TENANT)
        await runner.operation(provision.ensure, wanted, timeout_s=5)
    values = buckets.tenant_kv(TENANT)
    await KV.bind(runner, values).put("k", b"secret")
    theirs = KV.bind(bus, values)
    await refused(theirs.put("k", b"1"))
    await refused(theirs.get("k"))
    await refused(theirs.keys())
    for subject in ("$O.mesh_t_demo-tenant.C.x", "$O.mesh_t_demo-tenant.M.x"):
        await refused(publish(bus, subject, b"1"))
    for bucket in (buckets.CONFIG, buckets.LOGINS, buckets.SESSIONS, buckets.IDEMPOTENCY):
        kv = KV.bind(bus, bucket)
        await refused(kv.put("principal.a.b", b"1"))
        await refused(kv.get("principal.a.b"))
    for bucket in (buckets.CATALOG, buckets.SERVERS, buckets.VIRTUALS, buckets.KEYS):
        await refused(KV.bind(bus, bucket).put("a.b.c", b"1"))
    await refused(KV.bind(bus, buckets.LEASE).put("acme.server", b"{}", ttl_s=5))
    await refused(KV.bind(bus, buckets.INSTANCES).put("gateway.gateway-1", b"{}", ttl_s=5))


@pytest.mark.parametrize(("service", "instance"), BYSTANDERS, ids=[one for one, _ in BYSTANDERS])
async def test_nobody_else_reads_writes_or_shortens_the_log(
    bus_of: BusOf, service: str, instance: str
) -> None:
    owner, bus = await coordinator(bus_of), await bus_of(service, instance)
    await publish(owner, LOG, b"[1]", expected_last=0)
    await refused(bus.request(LOG, b"[]", timeout_s=2))
    await refused(bus.subscribe(subjects.task(TENANT, "log", subjects.ANY), ignore))
    for subject in (
        OF_THE_LOG,
        f"{OF_THE_LOG}.{LOG}",
        f"$JS.API.STREAM.MSG.GET.{buckets.SWARM_LOG}",
        f"$JS.API.STREAM.PURGE.{buckets.SWARM_LOG}",
        f"$JS.API.CONSUMER.CREATE.{buckets.SWARM_LOG}.c.{LOG}",
        f"$JS.API.CONSUMER.CREATE.{buckets.SWARM_LOG}",
        f"$JS.API.CONSUMER.MSG.NEXT.{buckets.SWARM_LOG}.c",
    ):
        await refused(bus.request(subject, b'{"last_by_subj":"x"}', timeout_s=2))


@pytest.mark.parametrize(("service", "instance"), BYSTANDERS, ids=[one for one, _ in BYSTANDERS])
async def test_nobody_else_writes_memory_leases_or_values_of_swarms(
    bus_of: BusOf, service: str, instance: str
) -> None:
    bus = await bus_of(service, instance)
    memory = KV.bind(bus, buckets.swarm_memory(TENANT))
    await refused(memory.put(buckets.memory_key(SWARM, "default", "a"), b"1"))
    if service != "tool-runner":  # it reads every bucket of a tenant
        await refused(memory.get(buckets.memory_key(SWARM, "default", "a")))
    lease = buckets.swarm_lease_key(TENANT, SWARM)
    await refused(KV.bind(bus, buckets.LEASE).put(lease, b"{}", ttl_s=5))
    await refused(KV.bind(bus, buckets.SWARMS).put(f"{TENANT}.{SWARM}", b"{}"))
    await refused(bus.request(buckets.swarm_object(TENANT, SWARM, "v"), b"1", timeout_s=2))


@pytest.mark.parametrize(
    ("service", "instance"), [("agent-host", "agent-host-1"), ("agent", "agent-1")]
)
async def test_host_speaks_as_itself_and_never_as_another(
    bus_of: BusOf, service: str, instance: str
) -> None:
    owner, host = await coordinator(bus_of), await bus_of(service, instance)
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    verbs = (
        swarm.attach_subject,
        swarm.beat_subject,
        swarm.result_subject,
        swarm.progress_subject,
    )
    for verb in verbs:
        await owner.subscribe(verb(subjects.ANY, SWARM, subjects.ANY), hear)
    own = [verb(TENANT, SWARM, instance) for verb in verbs]
    for subject in own:
        await host.publish(subject, b"{}")
    await eventually(lambda: heard == own)
    for verb in verbs:
        for other in ("agent-host-2", "agent-2"):
            await refused(host.request(verb(TENANT, SWARM, other), b"{}", timeout_s=2))
        # Without a sender, or as the owner of the swarm towards another.
        bare = subjects.instance(TENANT, SWARM, verb(TENANT, SWARM, "x").split(".")[-2])
        await refused(host.request(bare, b"{}", timeout_s=2))
    await refused(host.request(swarm.owner_subject(TENANT, SWARM), b"{}", timeout_s=2))
    for to_host in (swarm.spawn_subject, swarm.work_subject, swarm.command_subject):
        await refused(host.request(to_host(TENANT, "agent-host-2"), b"{}", timeout_s=2))
    assert heard == own


async def test_agent_of_a_tenant_says_nothing_to_swarms_of_another(bus_of: BusOf) -> None:
    agent = await bus_of("agent", "agent-1")
    subject = swarm.result_subject("acme", SWARM, "agent-1")
    await refused(agent.request(subject, b"{}", timeout_s=2))
    await refused(agent.request(swarm.bid_subject(), b"{}", timeout_s=2))
    await refused(agent.subscribe(swarm.bid_subject(), ignore))


@pytest.mark.parametrize("service", ["gateway", "tool-runner", "tenant-auth", "stdio"])
async def test_who_runs_no_agents_forges_no_result_and_gives_no_work(
    bus_of: BusOf, service: str
) -> None:
    names = dict(BYSTANDERS)
    bus = await bus_of(service, names[service])
    forged = swarm.result_subject(TENANT, SWARM, "agent-host-1")
    await refused(bus.request(forged, b"{}", timeout_s=2))
    await refused(bus.request(swarm.work_subject(TENANT, "agent-host-1"), b"{}", timeout_s=2))
    await refused(bus.subscribe(swarm.result_subject(TENANT, SWARM, subjects.ANY), ignore))
    await refused(bus.subscribe(swarm.work_subject(TENANT, "agent-host-1"), ignore))


async def test_host_hears_its_own_work_and_every_auction(bus_of: BusOf) -> None:
    owner = await coordinator(bus_of)
    hosts = [await bus_of("agent-host", f"agent-host-{n}") for n in (1, 2)]
    heard: list[tuple[int, str]] = []
    for n, host in enumerate(hosts, 1):

        async def hear(message: Msg, n: int = n) -> None:
            heard.append((n, message.subject))

        await host.subscribe(swarm.bid_subject(), hear)
        await host.subscribe(
            subjects.instance(subjects.ANY, f"agent-host-{n}", subjects.REST), hear
        )
    await refused(
        hosts[0].subscribe(swarm.work_subject(TENANT, "agent-host-2"), ignore),
    )
    work = swarm.work_subject(TENANT, "agent-host-2")
    await owner.publish(swarm.bid_subject(), b"{}")
    await owner.publish(work, b"{}")
    wanted = [(1, swarm.bid_subject()), (2, swarm.bid_subject()), (2, work)]
    await eventually(lambda: sorted(heard) == sorted(wanted))


async def test_replies_of_hosts_reach_the_owner_that_asked(bus_of: BusOf) -> None:
    owner, host = await coordinator(bus_of), await bus_of("agent-host", "agent-host-1")

    async def answer(message: Msg) -> None:
        await host.publish(message.reply, b'{"host":"agent-host-1"}')

    await host.subscribe(swarm.bid_subject(), answer)
    reply = await owner.request(swarm.bid_subject(), b"{}", timeout_s=2)
    assert reply.payload == b'{"host":"agent-host-1"}'


@pytest.mark.parametrize(
    ("service", "instance"), [*BYSTANDERS, ("registry", "registry-1")], ids=lambda one: one
)
async def test_only_the_coordinator_asks_for_delegated_grants(
    bus_of: BusOf, service: str, instance: str
) -> None:
    bus = await bus_of(service, instance)
    for operation in (tenant_auth.delegate, tenant_auth.exchange, tenant_auth.revoke_grant):
        await refused(bus.request(operation.subject, b"{}", timeout_s=2))


async def test_coordinator_takes_calls_of_its_own_server_alone(bus_of: BusOf) -> None:
    bus = await coordinator(bus_of)
    for server, allowed in (("swarm", True), ("kv", False), (subjects.ANY, False)):
        subject = subjects.call(subjects.ANY, server, subjects.ANY)
        taking = bus.subscribe(subject, ignore, queue=subjects.QUEUE)
        if allowed:
            await (await taking).unsubscribe()
        else:
            await refused(taking)
    await refused(bus.subscribe(subjects.call(subjects.ANY, "swarm", subjects.ANY), ignore))
    await refused(bus.request(subjects.call("acme", "kv", "kv_get"), b"{}", timeout_s=2))
    await refused(bus.request(subjects.gateway("acme", "tools/call"), b"{}", timeout_s=2))
    await refused(bus.request(tenant_auth.key_create.subject, b"{}", timeout_s=2))


async def test_client_of_a_tenant_reaches_nothing_behind_its_swarms(broker: Broker) -> None:
    denied: list[str] = []

    async def on_error(error: Exception) -> None:
        denied.append(str(error))

    client = await nats.connect(
        broker.url, nkeys_seed=broker.seed_for("client", TENANT), error_cb=on_error
    )
    memory = buckets.swarm_memory(TENANT)
    wire = f"$KV.{memory.name}.{buckets.memory_key(SWARM, 'default', 'a')}"
    value = buckets.swarm_object(TENANT, SWARM, "v")
    closed = (
        LOG,
        wire,
        value,
        OF_THE_LOG,
        f"{OF_THE_LOG}.{LOG}",
        f"$JS.API.DIRECT.GET.{memory.stream}.{wire}",
        f"$JS.API.CONSUMER.CREATE.{memory.stream}.c.{wire}",
        f"$JS.API.DIRECT.GET.OBJ_{buckets.swarm_objects(TENANT)}.{value}",
        f"$KV.{buckets.LEASE.name}.{buckets.swarm_lease_key(TENANT, SWARM)}",
        swarm.owner_subject(TENANT, SWARM),
        swarm.result_subject(TENANT, SWARM, "agent-host-1"),
        swarm.work_subject(TENANT, "agent-host-1"),
        swarm.bid_subject(),
        tenant_auth.exchange.subject,
        subjects.call("acme", "swarm", "swarm_list"),
    )
    for subject in closed:
        await client.publish(subject, b"{}")
    heard = (LOG, swarm.work_subject(TENANT, "agent-host-1"), subjects.event("acme", "swarm", "x"))
    for subject in heard:
        await client.subscribe(subject, cb=_ignore)
    await client.flush()
    await eventually(lambda: len(denied) == len(closed) + len(heard))
    assert all("permissions violation" in text for text in denied)
    await client.close()


async def _ignore(_: object) -> None:
    return
