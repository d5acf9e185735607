import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import api
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus, bus_config
from mesh_chassis.testing.provision import written_by
from mesh_chassis.watch import FRESH_S, Watch


class Cache:
    """What a service does with a watch: apply every call, and keep a record of them."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.calls: list[tuple[str, bytes | None, int]] = []
        self.resets = 0
        self._changed = asyncio.Event()

    def on_entry(self, key: str, value: bytes | None, revision: int) -> None:
        self.calls.append((key, value, revision))
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value
        self._changed.set()

    def on_reset(self) -> None:
        self.resets += 1

    async def until(self, holds: Callable[[], bool], timeout_s: float = 5) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


def fresh_bucket(*, memory: bool = False) -> Bucket:
    return Bucket(
        name=f"mesh_t_{secrets.token_hex(6)}",
        writer="tool-runner",
        per_key_ttl=True,
        memory=memory,
    )


@pytest.fixture
async def owner(connect_bus: ConnectBus) -> Bus:
    return await connect_bus("operator", "operator-1")


async def watched(kv: KV, cache: Cache, key_filter: str = ">") -> Watch:
    watch = await kv.watch(key_filter, on_entry=cache.on_entry, on_reset=cache.on_reset)
    await watch.ready
    return watch


class _Consumers(msgspec.Struct):
    consumers: list[str] | None = None


async def consumers_of(bus: Bus, bucket: Bucket) -> list[str]:
    names = await api(bus, f"CONSUMER.NAMES.{bucket.stream}", b"", _Consumers)
    return names.consumers or []


async def test_watcher_gets_the_snapshot_and_then_every_change_in_order(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    await kv.put("a", b"0")
    await kv.put("a", b"1")
    await kv.put("b", b"2")
    cache = Cache()
    watch = await watched(kv, cache)
    assert cache.values == {"a": b"1", "b": b"2"}
    assert watch.fresh
    revision = await kv.put("c", b"3")
    await kv.delete("a")
    await cache.until(lambda: "a" not in cache.values)
    assert cache.values == {"b": b"2", "c": b"3"}
    assert ("c", b"3", revision) in cache.calls
    assert cache.resets == 0
    await watch.stop()


async def test_watcher_of_an_empty_bucket_is_ready_at_once(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    watch = await watched(kv, cache := Cache())
    assert cache.calls == []
    await watch.stop()


async def test_watcher_hears_of_its_filter_only(shared_broker: Broker, owner: Bus) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    cache = Cache()
    watch = await watched(kv, cache, "a.*")
    await kv.put("b.x", b"no")
    await kv.put("a.x", b"yes")
    await cache.until(lambda: bool(cache.calls))
    assert set(cache.values) == {"a.x"}
    await watch.stop()


async def test_watcher_hears_when_a_key_expires(shared_broker: Broker, owner: Bus) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    watch = await watched(kv, cache := Cache())
    await kv.put("a", b"1", ttl_s=1)
    await cache.until(lambda: "a" in cache.values)
    await cache.until(lambda: "a" not in cache.values, timeout_s=4)
    await watch.stop()


async def test_new_watcher_does_not_see_what_is_deleted_or_expired(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    first = await watched(kv, old := Cache())
    await kv.put("a", b"1", ttl_s=1)
    await kv.put("b", b"1")
    await kv.delete("b")
    await kv.put("c", b"1")
    await old.until(lambda: "c" in old.values)
    await old.until(lambda: set(old.values) == {"c"}, timeout_s=4)
    second = await watched(kv, cache := Cache())
    assert cache.calls == [("c", b"1", 4)]
    await first.stop()
    await second.stop()


async def test_watcher_gets_a_large_snapshot_whole(shared_broker: Broker, owner: Bus) -> None:
    kv = await KV.ensure(owner, fresh_bucket(memory=True))
    for batch in range(15):
        await asyncio.gather(*(kv.put(f"k{batch}.{n}", b"v" * 500) for n in range(200)))
    watch = await watched(kv, cache := Cache())
    assert len(cache.values) == 3_000
    await watch.stop()


async def test_watcher_leaves_no_consumer_when_stopped(
    shared_broker: Broker, connect_bus: ConnectBus, owner: Bus
) -> None:
    operator = await connect_bus("operator", "operator")
    bucket = fresh_bucket()
    kv = await KV.ensure(owner, bucket)
    watch = await watched(kv, Cache())
    assert len(await consumers_of(operator, bucket)) == 1
    await watch.stop()
    await kv.keys()
    assert await consumers_of(operator, bucket) == []


async def test_watcher_sees_a_write_within_four_seconds_when_the_broker_was_killed(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    kv = await KV.ensure(owner, fresh_bucket())
    await kv.put("before", b"1")
    watch = await watched(kv, cache := Cache())
    await broker.kill()
    await broker.start()
    restarted = time.monotonic()
    async with asyncio.timeout(8):
        await kv.put("after", b"2")
    await cache.until(lambda: "after" in cache.values)
    assert time.monotonic() - restarted < 4
    assert cache.values == {"before": b"1", "after": b"2"}
    assert cache.resets >= 1
    assert watch.fresh
    await watch.stop()


async def test_watcher_drops_vanished_keys_when_a_memory_bucket_was_lost(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    kv = await KV.ensure(owner, fresh_bucket(memory=True))
    await kv.put("gone", b"1")
    watch = await watched(kv, cache := Cache())
    await broker.kill()
    await broker.start()
    await cache.until(lambda: "gone" not in cache.values, timeout_s=8)
    assert ("gone", None, 0) in cache.calls
    await kv.put("new", b"2")
    await cache.until(lambda: cache.values == {"new": b"2"})
    await watch.stop()


async def test_watcher_recovers_at_once_when_its_consumer_is_deleted(
    shared_broker: Broker, connect_bus: ConnectBus, owner: Bus
) -> None:
    operator = await connect_bus("operator", "operator")
    bucket = fresh_bucket()
    kv = await KV.ensure(owner, bucket)
    watch = await watched(kv, cache := Cache())

    class Ok(msgspec.Struct):
        success: bool

    for name in await consumers_of(operator, bucket):
        await api(operator, f"CONSUMER.DELETE.{bucket.stream}.{name}", b"", Ok)
    await kv.put("a", b"1")
    await cache.until(lambda: "a" in cache.values, timeout_s=3)
    assert len(await consumers_of(operator, bucket)) == 1
    await watch.stop()


async def test_watch_is_stale_while_the_broker_is_frozen_and_fresh_afterwards(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    kv = await KV.ensure(owner, fresh_bucket())
    watch = await watched(kv, cache := Cache())
    broker.pause()
    await eventually(lambda: not watch.fresh, timeout_s=FRESH_S + 2)
    broker.resume()
    await eventually(lambda: watch.fresh)
    await kv.put("a", b"1")
    await cache.until(lambda: "a" in cache.values)
    await watch.stop()


async def test_watch_stays_fresh_while_nothing_is_written(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    watch = await watched(kv, Cache())
    oldest = 0.0
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        await asyncio.sleep(0.05)
        oldest = max(oldest, watch.age_s)
    assert oldest < 1
    await watch.stop()


async def test_watcher_goes_on_when_its_callback_raises(
    shared_broker: Broker, owner: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    cache = Cache()

    def on_entry(key: str, value: bytes | None, revision: int) -> None:
        cache.on_entry(key, value, revision)
        if key == "bad":
            raise ValueError(key)

    watch = await kv.watch(on_entry=on_entry)
    await watch.ready
    await kv.put("bad", b"1")
    await kv.put("good", b"1")
    await cache.until(lambda: "good" in cache.values)
    assert "failed on key bad" in caplog.text
    await watch.stop()


async def test_watcher_follows_when_the_bucket_is_made_later(
    shared_broker: Broker, connect_bus: ConnectBus, owner: Bus
) -> None:
    bucket = fresh_bucket()
    cache = Cache()
    watch = await KV.bind(owner, bucket).watch(on_entry=cache.on_entry)
    maker = await connect_bus("operator", "operator-2")
    kv = await KV.ensure(maker, bucket)
    await kv.put("a", b"1")
    await watch.ready
    assert cache.values == {"a": b"1"}
    await watch.stop()


async def test_watcher_is_told_when_it_may_not_read_the_bucket(
    shared_broker: Broker, connect_bus: ConnectBus
) -> None:
    await KV.ensure(await connect_bus("registry", "registry-1"), buckets.LOGINS)
    runner = await connect_bus("tool-runner", "runner-1")
    watch = await KV.bind(runner, buckets.LOGINS).watch(on_entry=Cache().on_entry)
    with pytest.raises(MeshError) as caught:
        await watch.ready
    assert caught.value.kind is ErrorKind.DENIED
    await watch.stop()


@pytest.mark.parametrize(
    ("service", "instance", "bucket"),
    [
        ("gateway", "gateway-1", buckets.CATALOG),
        ("gateway", "gateway-1", buckets.CONFIG),
        ("gateway", "gateway-1", buckets.KEYS),
        ("tool-runner", "runner-1", buckets.KEYS),
        ("tool-runner", "runner-1", buckets.SERVERS),
        ("registry", "registry-1", buckets.INSTANCES),
        ("registry", "registry-1", buckets.KEYS),
    ],
    ids=lambda value: value.name if isinstance(value, Bucket) else value,
)
async def test_reader_watches_with_the_rights_of_its_service(
    shared_broker: Broker,
    connect_bus: ConnectBus,
    service: str,
    instance: str,
    bucket: Bucket,
) -> None:
    writer = await written_by(connect_bus, bucket)
    reader = await connect_bus(service, instance)
    key = secrets.token_hex(6)
    watch = await watched(await KV.open(reader, bucket), cache := Cache())
    await writer.put(key, b"1")
    await cache.until(lambda: key in cache.values)
    assert await KV.bind(reader, bucket).get(key) is not None
    await writer.delete(key)
    await cache.until(lambda: key not in cache.values)
    await watch.stop()


async def test_watcher_works_when_the_broker_writes_the_second_acknowledgement_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mesh_chassis.testing import broker as module

    real = module.render
    monkeypatch.setattr(
        module,
        "render",
        lambda *a: real(*a).replace("js_ack_fc_v2: false", "js_ack_fc_v2: true"),
    )
    async with Broker(tmp_path) as second:
        config = bus_config(second, "tool-runner", "runner-1")
        bus = await Bus.connect(config, service="tool-runner", instance="runner-1")
        bucket = fresh_bucket(memory=True)
        maker_config = bus_config(second, "operator", "operator")
        maker = await Bus.connect(maker_config, service="operator", instance="operator")
        await KV.ensure(maker, bucket)
        await maker.close()
        kv = KV.bind(bus, bucket)
        for batch in range(20):
            await asyncio.gather(*(kv.put(f"k{batch}-{n}", b"v" * 2000) for n in range(100)))
        watch = await watched(kv, cache := Cache())
        assert len(cache.values) == 2_000
        await kv.put("live", b"1")
        await cache.until(lambda: "live" in cache.values)
        await watch.stop()
        await bus.close()


async def test_cache_equals_the_bucket_when_the_broker_was_killed_again_and_again(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    reader = await connect_bus("operator", "operator-2")
    kv = await KV.ensure(owner, fresh_bucket())
    watch = await watched(await KV.open(reader, kv.bucket), cache := Cache())
    stop = asyncio.Event()

    async def write(number: int) -> int:
        done = 0
        while not stop.is_set():
            key = f"k{number}.{done % 7}"
            if done % 5 == 4:
                await kv.delete(key)
            else:
                await kv.put(key, f"{number}/{done}".encode())
            done += 1
        return done

    writers = [asyncio.ensure_future(write(number)) for number in range(4)]
    for _ in range(3):
        await asyncio.sleep(0.25)  # not a wait: time in which the writers write
        await broker.kill()
        await broker.start()
    stop.set()
    written = sum(await asyncio.gather(*writers))
    assert written > 100

    async def equal() -> bool:
        stored = {key: await kv.get(key) for key in await kv.keys()}
        return cache.values == {key: entry.value for key, entry in stored.items() if entry}

    await eventually(equal)
    await watch.stop()
