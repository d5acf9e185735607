"""Storage of tenants, asked for over the bus, on a real broker."""

import asyncio

import msgspec
import pytest

from mcp_proto import buckets
from mcp_proto.contracts.provision import Ensure
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis import provision as provisioning
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.provision import ensure, stream_name
from mesh_chassis.tenant_streams import TenantBounds, stream_for
from mesh_chassis.testing.fixtures import ConnectBus

MIB = 1024 * 1024


async def config_of(bus: Bus, stream: str) -> dict[str, object]:
    reply = await bus.request(f"$JS.API.STREAM.INFO.{stream}", timeout_s=2)
    return msgspec.json.decode(reply.payload)["config"]


@pytest.mark.usefixtures("provision")
async def test_runner_gets_each_kind_of_storage_by_asking(
    broker: object, connect_bus: ConnectBus
) -> None:
    runner = await connect_bus("tool-runner", "runner-1")
    assert await ensure(runner, "kv", "acme", bytes_max=MIB) == MIB
    assert await ensure(runner, "objects", "acme") == -1
    assert await ensure(runner, "events", "acme", bytes_max=MIB, age_s=60) == MIB
    await KV.bind(runner, buckets.tenant_kv("acme")).put("a", b"1", ttl_s=10)
    events = await config_of(runner, "EVT_mesh_t_acme")
    assert events["subjects"] == ["mesh.v1.acme.topic.*"]
    assert events["max_age"] == 60_000_000_000
    assert (await config_of(runner, "OBJ_mesh_t_acme"))["discard"] == "new"


@pytest.mark.usefixtures("provision")
async def test_many_who_ask_at_once_get_one_stream(broker: object, connect_bus: ConnectBus) -> None:
    runners = [await connect_bus("tool-runner", f"runner-{n}") for n in (1, 2)]
    sizes = await asyncio.gather(*(ensure(bus, "kv", "acme", bytes_max=MIB) for bus in runners * 4))
    assert sizes == [MIB] * 8


@pytest.mark.usefixtures("provision")
async def test_store_is_not_made_smaller_than_what_it_holds(
    broker: object, connect_bus: ConnectBus
) -> None:
    runner = await connect_bus("tool-runner", "runner-1")
    await ensure(runner, "kv", "acme", bytes_max=4 * MIB)
    kv = KV.bind(runner, buckets.tenant_kv("acme"))
    for n in range(3):
        await kv.put(f"k{n}", bytes(500_000))
    assert await ensure(runner, "kv", "acme", bytes_max=MIB) == 4 * MIB
    assert await ensure(runner, "kv", "acme", bytes_max=2 * MIB) == 2 * MIB
    assert await kv.keys() == ["k0", "k1", "k2"]


async def test_storage_that_exists_is_used_while_the_registry_is_away(
    broker: object, connect_bus: ConnectBus
) -> None:
    operator = await connect_bus("operator", "operator")
    await KV.ensure(operator, buckets.tenant_kv("acme"))
    runner = await connect_bus("tool-runner", "runner-1")
    assert await ensure(runner, "kv", "acme") == -1


async def test_new_storage_is_refused_with_the_reason_while_the_registry_is_away(
    broker: object, connect_bus: ConnectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "WAIT_S", 0.5)
    runner = await connect_bus("tool-runner", "runner-1")
    with pytest.raises(MeshError, match="is the registry running") as caught:
        await ensure(runner, "kv", "acme")
    assert caught.value.kind is ErrorKind.BUS
    assert caught.value.outcome is Outcome.NOT_EXECUTED


@pytest.mark.parametrize("tenant", ["", "_", "a.b", "a*", ">", "Ä", "a" * 200, "../x"])
@pytest.mark.parametrize("kind", ["kv", "objects", "events", "memory", "swarm"])
def test_what_is_no_tenant_has_no_storage(kind: provisioning.Kind, tenant: str) -> None:
    for attempt in (
        lambda: stream_name(kind, tenant),
        lambda: stream_for(Ensure(kind=kind, tenant=tenant), TenantBounds()),
    ):
        with pytest.raises(MeshError) as caught:
            attempt()
        assert caught.value.kind is ErrorKind.PARAMS


def test_request_names_no_setting_of_a_stream() -> None:
    for extra in ('"republish":{"src":">","dest":"x"}', '"sources":[]', '"subjects":[">"]'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(f'{{"kind":"kv","tenant":"acme",{extra}}}', type=Ensure)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode('{"kind":"catalog","tenant":"acme"}', type=Ensure)


def test_sizes_and_copies_are_bounded() -> None:
    bounds = TenantBounds(bytes_max=MIB, unsized=False, replicas_max=3)

    def size(asked: int) -> int:
        return stream_for(Ensure(kind="kv", tenant="acme", bytes_max=asked), bounds).max_bytes

    assert [size(one) for one in (-1, 0, 5, MIB, MIB + 1)] == [MIB, 1, 5, MIB, MIB]
    many = stream_for(Ensure(kind="kv", tenant="acme", replicas=5), bounds)
    assert many.num_replicas == 3


@pytest.mark.parametrize("kind", ["kv", "objects", "events", "memory", "swarm"])
def test_name_is_the_same_for_those_who_ask_and_those_who_make(kind: provisioning.Kind) -> None:
    made = stream_for(Ensure(kind=kind, tenant="acme"), TenantBounds())
    assert made.name == stream_name(kind, "acme")
