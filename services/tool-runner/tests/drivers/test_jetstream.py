"""The contract of the storage drivers on JetStream, and what only JetStream can break."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module

import nats
import pytest

from mcp_proto.buckets import tenant_objects
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.conditions import eventually
from tool_runner.config import LimitsConfig, StorageConfig
from tool_runner.drivers import chunks, opening
from tool_runner.drivers.jetstream import objects_view
from tool_runner.drivers.jetstream.artifacts import JetStreamArtifacts

contract = import_module("services.tool-runner.tests.drivers.contract")

ConnectBus = Callable[..., Awaitable[Bus]]


class JetStreamBench:
    """``Bench`` on a broker; every set of stores has the connection of a runner of its own."""

    def __init__(self, connect: ConnectBus) -> None:
        self._connect = connect
        self._opened: list[opening.Stores] = []
        self._running: list[asyncio.Task[None]] = []
        self._buses: list[Bus] = []

    async def bus(self) -> Bus:
        if len(self._buses) < 2:
            name = f"runner-{len(self._buses) + 1}"
            self._buses.append(await self._connect("tool-runner", name))
        return self._buses[len(self._opened) % 2]

    async def stores(self, bytes_per_tenant: int = -1):
        made = opening.open_jetstream(
            await self.bus(), StorageConfig(bytes_per_tenant=bytes_per_tenant), LimitsConfig()
        )
        self._opened.append(made)
        self._running.append(asyncio.create_task(made.run()))
        return contract.Stores(values=made.values, artifacts=made.artifacts, events=made.events)

    async def leftovers(self, tenant: str) -> int:
        bus, bucket = await self.bus(), tenant_objects(tenant)
        left: list[str] = []

        async def swept() -> bool:
            for one in self._opened:
                assert isinstance(one.artifacts, JetStreamArtifacts)
                await one.artifacts.sweep(tenant, older_s=0)
            written = await objects_view.subjects(bus, bucket, "C")
            described = await objects_view.subjects(bus, bucket, "M")
            names = [objects_view.name_of(bucket, one) for one in described]
            infos = await objects_view.descriptions(bus, bucket, names)
            known = {f"$O.{bucket}.C.{info.nuid}" for info in infos.values()}
            left[:] = [one for one in written if one not in known]
            return not left

        try:
            await eventually(swept, timeout_s=8.0)
        except AssertionError:
            return len(left)
        return 0

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        for one in self._opened:
            await one.close()


@pytest.fixture
async def bench(provision: None, connect_bus: ConnectBus) -> AsyncIterator[JetStreamBench]:
    one = JetStreamBench(connect_bus)
    yield one
    await one.close()


@pytest.mark.parametrize("check", contract.VALUES, ids=contract.title)
async def test_values(bench: JetStreamBench, check: object) -> None:
    await check(bench)


@pytest.mark.parametrize("check", contract.ARTIFACTS, ids=contract.title)
async def test_artifacts(bench: JetStreamBench, check: object) -> None:
    await check(bench)


@pytest.mark.parametrize("check", contract.EVENTS, ids=contract.title)
async def test_events(bench: JetStreamBench, check: object) -> None:
    await check(bench)


async def test_upload_of_a_runner_that_died_is_swept_once_it_is_old(
    bench: JetStreamBench,
) -> None:
    one = (await bench.stores()).artifacts
    tenant = contract.fresh_tenant()
    begun = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(2 * chunks.CHUNK_BYTES)
        begun.set()
        await asyncio.Event().wait()

    await one.put(tenant, "a", chunks.once(b"whole"), "text/plain")
    upload = asyncio.create_task(one.put(tenant, "a", stalling(), "text/plain"))
    await asyncio.wait_for(begun.wait(), 10)
    assert await one.sweep(tenant) == 0  # it may be somebody's who is alive
    assert await one.sweep(tenant, older_s=0) == 1
    upload.cancel()
    await asyncio.wait([upload])
    found = await one.read(tenant, "a", 0, 10)
    assert found is not None
    assert found[1] == b"whole"


async def test_stock_object_store_client_reads_an_artifact(
    bench: JetStreamBench, shared_broker
) -> None:
    body = bytes(range(256)) * 2000
    tenant = contract.fresh_tenant()
    await (await bench.stores()).artifacts.put(tenant, "a/ü", chunks.once(body), "text/plain")
    nc = await nats.connect(
        shared_broker.url, nkeys_seed=shared_broker.seed_for("operator", "operator")
    )
    store = await nc.jetstream().object_store(tenant_objects(tenant))
    assert (await store.get("artifacts/a/ü")).data == body
    await nc.close()


async def test_event_of_a_plain_program_is_read_and_what_is_no_json_is_passed_over(
    bench: JetStreamBench, connect_bus: ConnectBus
) -> None:
    events, tenant = (await bench.stores()).events, contract.fresh_tenant()
    await events.send(tenant, "t", b"1", "ann")
    program = await connect_bus("operator", "operator")
    for payload in (b"no json", b"", b'{"by": "a program"}'):
        await program.request(f"mesh.v1.{tenant}.topic.t", payload, timeout_s=5)
    page = await events.read(tenant, "t", 0, 10)
    assert [bytes(one.data) for one in page.events] == [b"1", b'{"by": "a program"}']
    assert [one.source for one in page.events] == ["ann", ""]
    assert page.next_position == 5


async def test_oldest_events_go_when_there_are_too_many(
    provision: None, connect_bus: ConnectBus
) -> None:
    bus = await connect_bus("tool-runner", "runner-3")
    made = opening.open_jetstream(bus, StorageConfig(events_bytes=100_000), LimitsConfig())
    tenant, data = contract.fresh_tenant(), b'"' + b"x" * 10_000 + b'"'
    for _ in range(20):
        last = await made.events.send(tenant, "t", data, "")
    page = await made.events.read(tenant, "", 0, 100)
    assert 1 < len(page.events) < 12
    assert page.events[-1].position == last
    await made.close()
