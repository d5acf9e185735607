"""The registry makes every stream: the platform's at its start, tenants' when a runner asks."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets
from mcp_proto.contracts.provision import Ensure, Ensured, ensure
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ServiceSection
from mesh_chassis.service import Service
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus
from mesh_chassis.testing.in_process import in_process
from registry import provision
from registry.config import BucketsConfig, RegistryConfig
from registry.service import build

pytestmark = pytest.mark.usefixtures("broker")

MIB = 1024 * 1024


def config(name: str = "registry-1", **sizes: int | bool) -> RegistryConfig:
    section = BucketsConfig(**{"tenant_bytes_max": 8 * MIB, **sizes})
    return RegistryConfig(service=ServiceSection(instance=name), buckets=section)


@pytest_asyncio.fixture
async def registry(broker: Broker, connect_bus: ConnectBus) -> AsyncIterator[Service]:
    async with in_process(build, config(), await connect_bus("registry", "registry-1")) as service:
        yield service


@pytest_asyncio.fixture
async def runner(registry: Service, connect_bus: ConnectBus) -> Bus:
    return await connect_bus("tool-runner", "runner-1")


async def stream(bus: Bus, name: str) -> dict[str, object] | None:
    reply = await bus.request(f"$JS.API.STREAM.INFO.{name}", timeout_s=2)
    found = msgspec.json.decode(reply.payload).get("config")
    assert found is None or isinstance(found, dict)
    return found


async def ask(bus: Bus, **wanted: object) -> Ensured:
    return await bus.operation(ensure, Ensure(**wanted), timeout_s=10)  # type: ignore[arg-type]


async def test_every_bucket_of_the_platform_is_there_with_its_settings(
    registry: Service, connect_bus: ConnectBus
) -> None:
    operator = await connect_bus("operator", "operator-1")
    for bucket in buckets.OF_PLATFORM:
        found = await stream(operator, bucket.stream)
        assert found is not None, bucket.name
        assert found["max_msgs_per_subject"] == bucket.history
        assert found["storage"] == ("memory" if bucket.memory else "file")
        assert found.get("allow_msg_ttl", False) is bucket.per_key_ttl
    sizes = [await stream(operator, one.stream) for one in (buckets.TASKS, buckets.IDEMPOTENCY)]
    assert [one["max_bytes"] for one in sizes if one] == [128 * MIB, 64 * MIB]


async def test_log_and_stores_of_swarms_are_made_with_their_settings(
    registry: Service, connect_bus: ConnectBus
) -> None:
    coordinator = await connect_bus("swarm-coordinator", "swarm-1")
    log = await stream(coordinator, buckets.SWARM_LOG)
    assert log is not None
    assert log["subjects"] == ["mesh.v1.*.task.log.*"]
    assert (log["discard"], log["max_bytes"]) == ("new", 256 * MIB)
    for kind, name in (("memory", "KV_mesh_memory_acme"), ("swarm", "OBJ_mesh_swarm_acme")):
        assert (await ask(coordinator, kind=kind, tenant="acme")).stream == name
        made = await stream(coordinator, name)
        assert made is not None
        assert made["allow_msg_ttl"] is True


async def test_writer_that_started_first_gets_its_bucket_from_a_later_registry(
    connect_bus: ConnectBus, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await connect_bus("gateway", "gateway-1")
    opening = asyncio.ensure_future(KV.open(gateway, buckets.SESSIONS, timeout_s=20))
    await eventually(lambda: "waiting for the registry" in caplog.text)
    bus = await connect_bus("registry", "registry-1")
    async with in_process(build, config(), bus):
        sessions = await opening
        await sessions.put("a", b"1", ttl_s=5)


async def test_size_beyond_the_maximum_is_cut_and_the_answer_says_so(runner: Bus) -> None:
    answer = await ask(runner, kind="objects", tenant="acme", bytes_max=100 * MIB)
    assert answer == Ensured(stream="OBJ_mesh_t_acme", bytes_max=8 * MIB, changed=True)
    again = await ask(runner, kind="objects", tenant="acme", bytes_max=100 * MIB)
    assert again == Ensured(stream="OBJ_mesh_t_acme", bytes_max=8 * MIB, changed=False)


async def test_request_for_anything_but_storage_of_a_tenant_is_refused(runner: Bus) -> None:
    for body in (
        b'{"kind":"catalog","tenant":"acme"}',
        b'{"kind":"kv","tenant":"a.b"}',
        b'{"kind":"kv","tenant":"_"}',
        b'{"kind":"kv","tenant":"acme","ageS":5}',
        b'{"kind":"kv","tenant":"acme","replicas":7}',
        b'{"kind":"kv","tenant":"acme","republish":{"src":">","dest":"x.>"}}',
        b"[]",
    ):
        reply = await runner.request(ensure.subject, body, timeout_s=2)
        assert reply.headers["Nats-Service-Error-Code"] == "400", (body, reply)
    assert await stream(runner, "KV_mesh_t_acme") is None


async def test_no_store_is_made_beyond_the_number_of_streams(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    there = len(provision.platform_streams(config()))
    limited = config(streams_max=there + 1)
    async with in_process(build, limited, await connect_bus("registry", "registry-1")):
        runner = await connect_bus("tool-runner", "runner-1")
        await ask(runner, kind="kv", tenant="a")
        with pytest.raises(MeshError) as caught:
            await ask(runner, kind="kv", tenant="b")
        assert caught.value.kind is ErrorKind.OVERLOADED
        assert not (await ask(runner, kind="kv", tenant="a")).changed


async def test_two_registries_answer_many_runners_with_one_stream(
    registry: Service, connect_bus: ConnectBus
) -> None:
    second = await connect_bus("registry", "registry-2")
    async with in_process(build, config("registry-2"), second):
        runners = [await connect_bus("tool-runner", f"runner-{n}") for n in (1, 2, 3)]
        answers = await asyncio.gather(
            *(ask(bus, kind="events", tenant="acme", bytes_max=MIB) for bus in runners * 5)
        )
    assert {one.bytes_max for one in answers} == {MIB}


async def test_stream_that_was_deleted_is_made_again(
    registry: Service, connect_bus: ConnectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = await connect_bus("operator", "operator-1")
    await operator.request(f"$JS.API.STREAM.DELETE.{buckets.LOGINS.stream}", timeout_s=2)
    assert await stream(operator, buckets.LOGINS.stream) is None
    monkeypatch.setattr(provision, "LOOK_AGAIN_S", 0.1)
    second = await connect_bus("registry", "registry-2")
    async with in_process(build, config("registry-2"), second):
        await operator.request(f"$JS.API.STREAM.DELETE.{buckets.LOGINS.stream}", timeout_s=2)

        async def there() -> bool:
            return await stream(operator, buckets.LOGINS.stream) is not None

        await eventually(there, timeout_s=5)
