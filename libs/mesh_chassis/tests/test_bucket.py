import asyncio
import secrets
from pathlib import Path

import pytest

from mcp_proto import buckets
from mcp_proto.buckets import Bucket
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bucket import KV, Conflict, check_key, stream_of
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import api
from mesh_chassis.stream import ensure_stream
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.fixtures import ConnectBus, bus_config
from mesh_chassis.testing.provision import written_by


def fresh_bucket(
    *, per_key_ttl: bool = True, history: int = 1, bytes_max: int = -1, memory: bool = False
) -> Bucket:
    """A bucket nobody else in the run uses."""
    return Bucket(
        name=f"mesh_t_{secrets.token_hex(6)}",
        writer="tool-runner",
        per_key_ttl=per_key_ttl,
        history=history,
        bytes_max=bytes_max,
        memory=memory,
    )


@pytest.fixture
async def owner(connect_bus: ConnectBus) -> Bus:
    return await connect_bus("operator", "operator-1")


async def eventually_gone(kv: KV, key: str) -> None:
    async def gone() -> bool:
        return await kv.get(key) is None

    await eventually(gone)


async def test_owner_reads_back_what_it_put_with_revision_and_time(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    first = await kv.put("a.b", b"1")
    second = await kv.put("a.b", b"2")
    entry = await kv.get("a.b")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", second)
    assert second > first
    assert abs(entry.created_ms - owner.server_now_ms()) < 2_000
    assert await kv.get("a.c") is None


async def test_owner_ensures_twice_without_a_change_and_then_updates(
    shared_broker: Broker, owner: Bus
) -> None:
    bucket = fresh_bucket()
    assert await ensure_stream(owner, stream_of(bucket)) is True
    assert await ensure_stream(owner, stream_of(bucket)) is False
    kv = KV.bind(owner, bucket)
    await kv.put("kept", b"1")
    wider = Bucket(name=bucket.name, writer=bucket.writer, per_key_ttl=True, history=5)
    assert await ensure_stream(owner, stream_of(wider)) is True
    assert await ensure_stream(owner, stream_of(wider)) is False
    assert await kv.get("kept") is not None


@pytest.mark.parametrize(
    "bucket",
    [
        buckets.INSTANCES,
        buckets.CATALOG,
        buckets.SERVERS,
        buckets.LEASE,
        buckets.CONFIG,
        buckets.KEYS,
        buckets.LOGINS,
        buckets.SESSIONS,
    ],
    ids=lambda bucket: bucket.name,
)
async def test_writer_uses_its_bucket_when_it_has_only_its_own_rights(
    shared_broker: Broker, connect_bus: ConnectBus, bucket: Bucket
) -> None:
    kv = await written_by(connect_bus, bucket)
    await kv.put("probe", b"1")
    assert await kv.keys() == ["probe"]
    await kv.purge("probe")


async def test_runner_keeps_a_tenants_keys_when_it_has_only_its_own_rights(
    shared_broker: Broker, connect_bus: ConnectBus
) -> None:
    bus = await connect_bus("tool-runner", "runner-1")
    bucket = buckets.tenant_kv(f"t-{secrets.token_hex(4)}", 100_000)
    kv = await written_by(connect_bus, bucket, bus)
    key = buckets.key("any.text/of a key")
    revision = await kv.create(key, b"1", ttl_s=30)
    await kv.update(key, b"2", revision)
    with pytest.raises(Conflict):
        await kv.create(key, b"3")
    assert await kv.keys() == [key]
    await kv.delete(key)
    await kv.create(key, b"4")
    await kv.purge(key)
    assert await kv.get(key) is None


async def test_create_is_refused_when_the_key_has_a_value(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    revision = await kv.create("a", b"1")
    with pytest.raises(Conflict) as caught:
        await kv.create("a", b"2")
    assert caught.value.revision == revision


async def test_update_is_refused_when_the_revision_is_stale(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    first = await kv.put("a", b"1")
    second = await kv.update("a", b"2", first)
    with pytest.raises(Conflict) as caught:
        await kv.update("a", b"3", first)
    assert caught.value.revision == second


async def test_one_of_many_writers_wins_when_all_create(shared_broker: Broker, owner: Bus) -> None:
    kv = await KV.ensure(owner, fresh_bucket())

    async def attempt(number: int) -> bool:
        try:
            await kv.create("lock", str(number).encode())
        except Conflict:
            return False
        return True

    won = await asyncio.gather(*(attempt(number) for number in range(20)))
    assert sum(won) == 1


async def test_key_is_gone_and_can_be_created_when_it_expired(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    await kv.put("a", b"1", ttl_s=1)
    assert await kv.get("a") is not None
    await eventually_gone(kv, "a")
    assert await kv.keys() == []
    await kv.create("a", b"2")
    entry = await kv.get("a")
    assert entry is not None
    assert entry.value == b"2"


async def test_put_without_expiry_makes_a_key_stay_that_had_one(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    await kv.put("a", b"1", ttl_s=1)
    await kv.put("a", b"2")
    await kv.put("witness", b"1", ttl_s=1)
    await eventually_gone(kv, "witness")
    assert await kv.get("a") is not None


@pytest.mark.parametrize("per_key_ttl", [True, False], ids=["expiring", "plain"])
async def test_key_can_be_created_when_it_was_deleted(
    shared_broker: Broker, owner: Bus, per_key_ttl: bool
) -> None:
    kv = await KV.ensure(owner, fresh_bucket(per_key_ttl=per_key_ttl, history=1))
    revision = await kv.put("a", b"1")
    with pytest.raises(Conflict):
        await kv.delete("a", revision=revision + 7)
    await kv.delete("a", revision=revision)
    assert await kv.get("a") is None
    assert await kv.keys() == []
    await kv.create("a", b"2")
    await kv.purge("a")
    await kv.create("a", b"3")
    assert await kv.keys() == ["a"]


async def test_keys_are_listed_by_prefix_sorted_and_without_values(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    assert await kv.keys() == []
    for key in ("b", "a.x", "a.y.z", "ab"):
        await kv.put(key, b"v")
    assert await kv.keys() == ["a.x", "a.y.z", "ab", "b"]
    assert await kv.keys("a") == ["a.x", "a.y.z", "ab"]
    assert await kv.keys("a.") == ["a.x", "a.y.z"]
    assert await kv.keys("a.y") == ["a.y.z"]
    assert await kv.keys("a.y.") == ["a.y.z"]


async def test_two_thousand_keys_are_listed(shared_broker: Broker, owner: Bus) -> None:
    kv = await KV.ensure(owner, fresh_bucket(memory=True))
    for batch in range(10):
        await asyncio.gather(*(kv.put(f"k{batch}.{n}", b"v") for n in range(200)))
    assert len(await kv.keys()) == 2_000


@pytest.mark.parametrize("key", ["", ".a", "a.", "a..b", "a b", "a*", "a.>", "ä", "a\n", "a:b"])
def test_key_is_refused_when_the_broker_would_lose_it(key: str) -> None:
    with pytest.raises(MeshError) as caught:
        check_key(key)
    assert caught.value.kind is ErrorKind.PARAMS


async def test_value_is_refused_when_it_exceeds_the_bucket_or_the_broker(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket())
    await kv.put("a", b"x" * owner.max_payload)
    with pytest.raises(MeshError) as caught:
        await kv.put("a", b"x" * (owner.max_payload + 1))
    assert caught.value.kind is ErrorKind.TOO_LARGE
    assert owner.connected


async def test_write_says_overloaded_and_not_executed_when_the_store_is_full(
    shared_broker: Broker, owner: Bus
) -> None:
    kv = await KV.ensure(owner, fresh_bucket(bytes_max=20_000))
    await kv.put("a", b"x" * 10_000)
    with pytest.raises(MeshError) as caught:
        await kv.put("b", b"x" * 15_000)
    assert caught.value.kind is ErrorKind.OVERLOADED
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert await kv.get("a") is not None


async def test_reads_go_on_while_the_whole_store_is_full(tmp_path: Path) -> None:
    async with Broker(tmp_path, file_max_bytes=1024 * 1024) as small:
        config = bus_config(small, "operator", "operator")
        bus = await Bus.connect(config, service="operator", instance="operator")
        kv = await KV.ensure(bus, fresh_bucket())
        writes = (kv.put(f"k{number}", b"x" * 50_000) for number in range(40))
        with pytest.raises(MeshError) as caught:
            await asyncio.gather(*writes)
        assert caught.value.kind is ErrorKind.OVERLOADED
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert await kv.get("k0") is not None
        await bus.close()


async def test_expiry_is_refused_when_the_bucket_has_none_or_it_is_too_short(
    shared_broker: Broker, owner: Bus
) -> None:
    plain = await KV.ensure(owner, fresh_bucket(per_key_ttl=False))
    expiring = await KV.ensure(owner, fresh_bucket())
    for kv, ttl_s in ((plain, 5.0), (expiring, 0.5)):
        with pytest.raises(MeshError) as caught:
            await kv.put("a", b"1", ttl_s=ttl_s)
        assert caught.value.kind is ErrorKind.PARAMS


async def test_reader_waits_until_the_owner_has_made_the_bucket(
    shared_broker: Broker, connect_bus: ConnectBus, owner: Bus
) -> None:
    bucket = fresh_bucket()
    opening = asyncio.ensure_future(KV.open(owner, bucket))
    maker = await connect_bus("operator", "operator-2")
    kv = await KV.ensure(maker, bucket)
    await kv.put("a", b"1")
    async with asyncio.timeout(5):
        opened = await opening
    assert await opened.get("a") is not None


async def test_reader_is_told_when_nobody_makes_the_bucket(
    shared_broker: Broker, owner: Bus
) -> None:
    with pytest.raises(MeshError) as caught:
        await KV.open(owner, fresh_bucket(), timeout_s=0.3)
    assert caught.value.kind is ErrorKind.BUS


async def test_memory_bucket_is_there_again_when_its_only_broker_restarted(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    kv = await KV.ensure(owner, fresh_bucket(memory=True))
    await kv.put("a", b"1")
    await broker.kill()
    writing = asyncio.ensure_future(kv.put("b", b"2"))
    await broker.start()
    async with asyncio.timeout(8):
        await writing
    assert await kv.keys() == ["b"]


async def test_acknowledged_value_survives_when_the_broker_is_killed(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    kv = await KV.ensure(owner, fresh_bucket())
    revision = await kv.put("a", b"1")
    await broker.kill()
    await broker.start()
    async with asyncio.timeout(8):
        updated = await kv.update("a", b"2", revision)
    assert updated > revision


async def test_compare_and_set_knows_its_own_write_when_the_first_receipt_was_lost(
    broker: Broker, connect_bus: ConnectBus
) -> None:
    owner = await connect_bus("operator", "operator-1")
    kv = await KV.ensure(owner, fresh_bucket())
    revision = await kv.put("a", b"1")
    broker.pause()
    writing = asyncio.ensure_future(kv.update("a", b"2", revision))
    await asyncio.wait([writing], timeout=2.5)
    assert not writing.done()
    broker.resume()
    async with asyncio.timeout(10):
        updated = await writing
    entry = await kv.get("a")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", updated)


async def test_broker_reports_the_durability_settings_of_a_bucket(
    shared_broker: Broker, owner: Bus
) -> None:
    import msgspec

    class Info(msgspec.Struct):
        config: dict[str, object]

    bucket = fresh_bucket()
    await KV.ensure(owner, bucket)
    info = await api(owner, f"STREAM.INFO.{bucket.stream}", b"", Info)
    config = info.config
    assert config["allow_direct"] is True
    assert config["deny_delete"] is True
    assert config["allow_rollup_hdrs"] is True
    assert config["discard"] == "new"
    assert config["allow_msg_ttl"] is True
    assert config["subject_delete_marker_ttl"] == 60_000_000_000
