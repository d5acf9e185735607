"""A process is in ``mesh_instances`` for as long as it lives, and not longer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from mcp_proto import buckets
from mcp_proto.contracts.registry import InstanceRecord
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.presence import TTL_S, Presence
from mesh_chassis.tasks import Tasks

KEY = "tool-runner.runner-1"
Connect = Callable[[str, str], Awaitable[Bus]]


class Seen:
    """What a watcher of the bucket has seen of the one key."""

    def __init__(self) -> None:
        self.records: list[InstanceRecord | None] = []
        self.changed = asyncio.Condition()

    def on_entry(self, key: str, value: bytes | None, _revision: int) -> None:
        assert key == KEY
        record = None if value is None else msgspec.json.decode(value, type=InstanceRecord)
        self.records.append(record)
        self._task = asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, wanted: Callable[[InstanceRecord | None], bool]) -> None:
        async with asyncio.timeout(8), self.changed:
            await self.changed.wait_for(lambda: bool(self.records) and wanted(self.records[-1]))


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    yield tasks
    await tasks.close()


async def registry(connect: Connect) -> KV:
    return await KV.ensure(await connect("registry", "registry-1"), buckets.INSTANCES)


async def test_presence_writes_changes_at_once_and_purges_when_stopped(
    broker, connect_bus: Connect, tasks: Tasks
) -> None:
    kv = await registry(connect_bus)
    seen = Seen()
    watch = await kv.watch(on_entry=seen.on_entry)
    presence = Presence(await connect_bus("tool-runner", "runner-1"), tasks, version="1.2.3")
    await presence.start()
    assert presence.written.is_set(), "whoever is ready can be found"
    await seen.until(lambda record: record is not None)
    record = seen.records[-1]
    assert record is not None
    assert (record.service, record.instance, record.version) == (
        "tool-runner", "runner-1", "1.2.3",
    )  # fmt: skip
    assert record.pid > 0
    assert record.started_ms > 0
    assert record.node

    presence.set_slots(32, lambda: 7)
    await seen.until(lambda one: one is not None and (one.slots, one.inflight) == (32, 7))
    presence.set_servers({"_.time": "abc"})
    await seen.until(lambda one: one is not None and one.servers == {"_.time": "abc"})
    presence.set_declared(["_.time", "_.broken"])
    await seen.until(lambda one: one is not None and one.declared == ("_.time", "_.broken"))
    count = len(seen.records)
    presence.set_servers({"_.time": "abc"})
    presence.set_draining()
    await seen.until(lambda one: one is not None and one.draining)
    assert len(seen.records) == count + 1, "the same servers again are no change"
    await presence.stop()
    await seen.until(lambda one: one is None)
    await presence.stop()
    await watch.stop()


async def test_presence_beats_on_and_each_beat_renews_the_expiry(
    broker, connect_bus: Connect, tasks: Tasks
) -> None:
    kv = await registry(connect_bus)
    operator = await connect_bus("operator", "operator")
    seen = Seen()
    watch = await kv.watch(on_entry=seen.on_entry)
    bus = await connect_bus("tool-runner", "runner-1")
    presence = Presence(bus, tasks, version="1", beat_s=0.05)
    await presence.start()
    async with asyncio.timeout(8), seen.changed:
        await seen.changed.wait_for(lambda: len(seen.records) >= 5)
    direct = f"$JS.API.DIRECT.GET.{buckets.INSTANCES.stream}.$KV.{buckets.INSTANCES.name}.{KEY}"
    stored = await operator.request(direct, timeout_s=2)
    assert stored.headers["Nats-TTL"] in {f"{TTL_S}s", f"{TTL_S}"}
    await presence.stop()
    await watch.stop()


async def test_presence_waits_for_a_bucket_that_does_not_exist_yet(
    broker, connect_bus: Connect, tasks: Tasks
) -> None:
    presence = Presence(await connect_bus("tool-runner", "runner-1"), tasks, version="1")
    await presence.start()
    assert not presence.written.is_set()
    await registry(connect_bus)
    async with asyncio.timeout(12):
        await presence.written.wait()
    await presence.stop()


async def test_presence_stops_at_once_when_it_never_wrote(
    broker, connect_bus: Connect, tasks: Tasks
) -> None:
    presence = Presence(await connect_bus("tool-runner", "runner-1"), tasks, version="1")
    await presence.stop()
    await presence.start()
    async with asyncio.timeout(1):
        await presence.stop()


async def test_presence_writes_again_after_the_broker_was_away(
    broker, connect_bus: Connect, tasks: Tasks
) -> None:
    await registry(connect_bus)
    bus = await connect_bus("tool-runner", "runner-1")
    presence = Presence(bus, tasks, version="1", beat_s=0.2)
    await presence.start()
    async with asyncio.timeout(5):
        await presence.written.wait()
    await broker.stop()
    await broker.start()
    presence.written.clear()
    async with asyncio.timeout(20):
        await presence.written.wait()
    await presence.stop()


async def test_presence_leaves_the_servers_out_when_the_record_is_too_large(
    broker, connect_bus: Connect, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    kv = await registry(connect_bus)
    seen = Seen()
    watch = await kv.watch(on_entry=seen.on_entry)
    presence = Presence(await connect_bus("tool-runner", "runner-1"), tasks, version="1")
    limit = buckets.INSTANCES.value_max_bytes
    presence.set_servers({f"_.server-{i}": "h" * 64 for i in range(limit // 64)})
    await presence.start()
    await seen.until(lambda record: record is not None and record.servers == {})
    assert "servers are left out" in caplog.text
    await presence.stop()
    await watch.stop()
