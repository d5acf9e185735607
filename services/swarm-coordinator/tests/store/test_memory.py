"""Memory of swarms on a real broker."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest
import pytest_asyncio

from mcp_proto import buckets
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.store.memory import SwarmMemory
from swarm_coordinator.store.objects import _subjects
from swarm_coordinator.store.values import Values

ConnectBus = Callable[..., Awaitable[Bus]]
BIG = json.dumps({"rows": ["x" * 100] * 7_000}).encode()
"""About 730 kB: beside the key, in parts."""


@pytest_asyncio.fixture
async def bus(connect_bus: ConnectBus, provision: None) -> Bus:
    return await connect_bus("swarm-coordinator", "swarm-1")


@pytest.fixture
def swarm(request: pytest.FixtureRequest) -> str:
    return f"swarm_1790000000000_{abs(hash(request.node.name)):025d}"


@pytest.fixture
def memory(bus: Bus) -> SwarmMemory:
    return of(bus, "acme")


def of(bus: Bus, tenant: str) -> SwarmMemory:
    return SwarmMemory(bus, tenant, Values(bus, tenant))


async def put(
    memory: SwarmMemory,
    swarm: str,
    key: str,
    value: bytes,
    *,
    namespace: str = "default",
    ttl_s: int | None = None,
    expected: int | None = None,
) -> int:
    kept = await memory.store(swarm, namespace, key, value, ttl_s=ttl_s, expected_revision=expected)
    return kept.revision


async def got(
    memory: SwarmMemory, swarm: str, key: str, namespace: str = "default"
) -> bytes | None:
    kept = await memory.retrieve(swarm, namespace, key)
    return None if kept is None else bytes(kept.value)


async def parts(bus: Bus, tenant: str, swarm: str) -> list[str]:
    """Subjects of large values that hold something."""
    bucket = buckets.swarm_objects(tenant)
    found = await _subjects(bus, bucket, f"$O.{bucket}.C.{swarm}.>")
    living: list[str] = []
    for subject in found:
        reply = await bus.request(f"$JS.API.DIRECT.GET.OBJ_{bucket}.{subject}", timeout_s=2)
        if "Status" not in reply.headers and "Nats-Rollup" not in reply.headers:
            living.append(subject)
    return living


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"9007199254740993",
        b"123456789012345678901234567890",
        b"1.10",
        b'{"b":1,"a":2}',
        b'{"a":1,"a":2}',
        b'"\\u0000"',
        '"naïve 💾"'.encode(),
    ],
)
async def test_memory_gives_back_what_was_stored_byte_for_byte(
    memory: SwarmMemory, swarm: str, value: bytes
) -> None:
    revision = await put(memory, swarm, "k", value)
    kept = await memory.retrieve(swarm, "default", "k")
    assert kept is not None
    assert (bytes(kept.value), kept.revision, kept.expires_ms) == (value, revision, None)


async def test_memory_says_none_where_nothing_was_stored(memory: SwarmMemory, swarm: str) -> None:
    assert await got(memory, swarm, "nothing") is None
    assert not await memory.delete(swarm, "default", "nothing")
    assert await memory.list(swarm, "default", "", "", 10) == ([], "")


@pytest.mark.parametrize(
    "key",
    ["..", "*", ">", "a.b.>", "$KV", " ", "\n", "=", "==", "_", "%00", "../../x", "ключ", "k" * 256,
     "💾" * 256, "/" * 256, "\x00", "\u202e"],
)  # fmt: skip
async def test_memory_takes_any_text_as_a_key_and_keeps_it_apart(
    memory: SwarmMemory, swarm: str, key: str
) -> None:
    await put(memory, swarm, "other", b"1")
    await put(memory, swarm, key, b"2", namespace=key[:128])
    assert await got(memory, swarm, key, key[:128]) == b"2"
    assert await got(memory, swarm, "other") == b"1"
    assert await memory.list(swarm, key[:128], "", "", 10) == ([key], "")
    assert await memory.bank(swarm, 10) == sorted([("default", "other"), (key[:128], key)])
    assert await memory.delete(swarm, key[:128], key)
    assert await got(memory, swarm, key, key[:128]) is None


@pytest.mark.parametrize("key", ["", "k" * 257, "\ud800"])
async def test_memory_refuses_a_key_that_is_none(memory: SwarmMemory, swarm: str, key: str) -> None:
    for call in (put(memory, swarm, key, b"1"), memory.delete(swarm, "default", key)):
        with pytest.raises(MeshError) as refused:
            await call
        assert refused.value.kind is ErrorKind.PARAMS


@pytest.mark.parametrize("ttl_s", [0, -1, 2_592_001])
async def test_memory_refuses_an_expiry_out_of_range(
    memory: SwarmMemory, swarm: str, ttl_s: int
) -> None:
    with pytest.raises(MeshError, match="2592000"):
        await put(memory, swarm, "k", b"1", ttl_s=ttl_s)


async def test_memory_refuses_a_value_over_a_mebibyte(memory: SwarmMemory, swarm: str) -> None:
    fits = b'"' + b"x" * (1024 * 1024 - 2) + b'"'
    with pytest.raises(MeshError) as refused:
        await put(memory, swarm, "k", fits[:-1] + b'x"')
    assert refused.value.kind is ErrorKind.TOO_LARGE
    await put(memory, swarm, "k", fits)
    assert await got(memory, swarm, "k") == fits


async def test_memory_forgets_a_value_when_its_time_is_over(
    memory: SwarmMemory, swarm: str
) -> None:
    kept = await memory.store(swarm, "default", "k", b"1", ttl_s=1, expected_revision=None)
    assert kept.expires_ms == kept.updated_ms + 1000
    await put(memory, swarm, "stays", b"1")

    async def gone() -> bool:
        return await got(memory, swarm, "k") is None

    await eventually(gone)
    assert await memory.list(swarm, "default", "", "", 10) == (["stays"], "")
    assert await put(memory, swarm, "k", b"2", expected=0) > kept.revision


async def test_memory_takes_the_expiry_off_when_a_value_is_written_without_one(
    memory: SwarmMemory, swarm: str
) -> None:
    await put(memory, swarm, "k", b"1", ttl_s=1)
    await put(memory, swarm, "k", b"2")
    await put(memory, swarm, "clock", b"1", ttl_s=1)

    async def over() -> bool:
        return await got(memory, swarm, "clock") is None

    await eventually(over)
    assert await got(memory, swarm, "k") == b"2"


async def test_memory_refuses_a_write_over_another_revision_and_says_which(
    memory: SwarmMemory, swarm: str
) -> None:
    async def refused(expected: int) -> int:
        with pytest.raises(MeshError) as conflict:
            await put(memory, swarm, "k", b"0", expected=expected)
        assert conflict.value.data["reason"] == "conflict"
        revision: int = conflict.value.data["revision"]
        return revision

    assert await refused(7) == 0
    first = await put(memory, swarm, "k", b"1", expected=0)
    assert await refused(0) == first
    second = await put(memory, swarm, "k", b"2", expected=first)
    assert await refused(first) == second
    await memory.delete(swarm, "default", "k")
    assert await refused(second) == 0
    assert await put(memory, swarm, "k", b"3", expected=0) > second


@pytest.mark.parametrize("value", [b"1", BIG])
async def test_memory_lets_one_of_many_writers_win_when_all_expect_the_same(
    bus: Bus, connect_bus: ConnectBus, swarm: str, value: bytes
) -> None:
    other = await connect_bus("swarm-coordinator", "swarm-2")
    memories = [of(bus, "acme"), of(other, "acme")]
    begun = await put(memories[0], swarm, "k", b"0")
    writers = [put(memories[n % 2], swarm, "k", value, expected=begun) for n in range(8)]
    results = await asyncio.gather(*writers, return_exceptions=True)
    won = [one for one in results if isinstance(one, int)]
    lost = [one for one in results if isinstance(one, MeshError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {one.data["revision"] for one in lost} == set(won)
    assert len(await parts(bus, "acme", swarm)) == (len(value) + 131071) // 131072 * (value is BIG)


async def test_memory_counts_right_when_many_add_one(
    bus: Bus, connect_bus: ConnectBus, swarm: str
) -> None:
    other = await connect_bus("swarm-coordinator", "swarm-2")
    memories = [of(bus, "acme"), of(other, "acme")]
    await put(memories[0], swarm, "n", b"0")

    async def add(memory: SwarmMemory) -> None:
        while True:
            kept = await memory.retrieve(swarm, "default", "n")
            assert kept is not None
            value = msgspec.json.encode(msgspec.json.decode(kept.value) + 1)
            try:
                await put(memory, swarm, "n", value, expected=kept.revision)
            except MeshError as error:
                if error.data.get("reason") != "conflict":
                    raise
            else:
                return

    await asyncio.gather(*(add(memories[n % 2]) for n in range(20)))
    assert await got(memories[1], swarm, "n") == b"20"


async def test_memory_keeps_one_large_value_of_many_that_were_written(
    bus: Bus, memory: SwarmMemory, swarm: str
) -> None:
    await asyncio.gather(*(put(memory, swarm, "k", BIG) for _ in range(5)))
    assert await got(memory, swarm, "k") == BIG
    assert len(await parts(bus, "acme", swarm)) == -(-len(BIG) // 131072)
    await put(memory, swarm, "k", b"1")
    assert await got(memory, swarm, "k") == b"1"
    assert await parts(bus, "acme", swarm) == []


async def test_memory_reads_a_whole_value_while_others_replace_it(
    memory: SwarmMemory, swarm: str
) -> None:
    values = [json.dumps([n] * 120_000).encode() for n in (1, 2)]
    await put(memory, swarm, "k", values[0])
    writing = asyncio.gather(*(put(memory, swarm, "k", values[n % 2]) for n in range(6)))
    while not writing.done():
        assert await got(memory, swarm, "k") in values
    await writing


async def test_memory_of_one_tenant_is_not_seen_by_another(
    bus: Bus, memory: SwarmMemory, swarm: str
) -> None:
    other = of(bus, "globex")
    await put(memory, swarm, "k", BIG)
    assert await got(other, swarm, "k") is None
    assert await other.list(swarm, "default", "", "", 10) == ([], "")
    await put(other, swarm, "k", b"2")
    assert await other.forget(swarm) == 1
    assert await got(memory, swarm, "k") == BIG


async def test_memory_lists_keys_in_order_by_prefix_in_pages(
    memory: SwarmMemory, swarm: str
) -> None:
    keys = [f"run/{n:02d}" for n in range(25)] + ["ran", "💾" * 100 + "b", "💾" * 100 + "a"]
    for key in keys:
        await put(memory, swarm, key, b"1")
    await put(memory, swarm, "run/00", b"1", namespace="elsewhere")
    found: list[str] = []
    cursor, pages = "", 0
    while cursor or not pages:
        page, cursor = await memory.list(swarm, "default", "run/", cursor, 10)
        found += page
        pages += 1
    assert (found, pages) == (keys[:25], 3)
    assert (await memory.list(swarm, "default", "", "", 100))[0] == sorted(keys)
    assert (await memory.bank(swarm, 2)) == [("default", "ran"), ("default", "run/00")]
    with pytest.raises(MeshError, match="cursor"):
        await memory.list(swarm, "default", "", "=zz", 10)


async def test_memory_forgets_a_swarm_and_leaves_its_neighbour(
    bus: Bus, memory: SwarmMemory, swarm: str
) -> None:
    neighbour = swarm + "9"
    for name in (swarm, neighbour):
        await put(memory, name, "small", b"1")
        await put(memory, name, "large", BIG, namespace="n.2")
    # A writer died before its record: nothing refers to this.
    await Values(bus, "acme").put(swarm, BIG, ttl_s=0, prefix="m")
    kept = await Values(bus, "acme").put(swarm, b"of the log")
    assert await memory.forget(swarm) == 2
    assert await memory.bank(swarm, 10) == []
    assert len(await parts(bus, "acme", swarm)) == 1
    assert await Values(bus, "acme").get(swarm, kept) == b"of the log"
    assert await got(memory, neighbour, "large", "n.2") == BIG
    assert await memory.forget(swarm) == 0


async def test_memory_of_a_tenant_that_has_none_is_forgotten_without_making_one(
    bus: Bus,
) -> None:
    assert await of(bus, "nobody-yet").forget("swarm_1") == 0


async def test_memory_refuses_a_tenant_that_cannot_name_a_bucket(bus: Bus) -> None:
    with pytest.raises(MeshError, match="storage"):
        of(bus, "UPPER.case")


async def test_memory_is_made_again_when_the_broker_has_lost_it(
    bus: Bus, memory: SwarmMemory, swarm: str, connect_bus: ConnectBus
) -> None:
    await put(memory, swarm, "k", BIG)
    operator = await connect_bus("operator", "operator")
    for stream in (buckets.swarm_memory("acme").stream, f"OBJ_{buckets.swarm_objects('acme')}"):
        await operator.request(f"$JS.API.STREAM.DELETE.{stream}", timeout_s=2)
    assert await got(memory, swarm, "k") is None
    await put(memory, swarm, "k", b"2", expected=0)
    assert await got(of(bus, "acme"), swarm, "k") == b"2"


async def test_memory_that_is_full_refuses_and_keeps_what_it_has(bus: Bus, swarm: str) -> None:
    small = SwarmMemory(bus, "full", Values(bus, "full"), bytes_max=600_000)
    value = b'"' + b"x" * 250_000 + b'"'
    await put(small, swarm, "a", value)
    await put(small, swarm, "b", value)
    with pytest.raises(MeshError) as refused:
        await put(small, swarm, "c", value)
    assert refused.value.kind is ErrorKind.OVERLOADED
    assert await got(small, swarm, "a") == value
    assert await got(small, swarm, "c") is None
    await small.delete(swarm, "default", "a")
    await put(small, swarm, "c", value)
    assert await got(small, swarm, "c") == value


async def test_memory_leaves_nothing_behind_when_a_write_is_refused(
    bus: Bus, memory: SwarmMemory, swarm: str
) -> None:
    await put(memory, swarm, "k", b"1")
    with pytest.raises(MeshError, match="revision"):
        await put(memory, swarm, "k", BIG, expected=1)
    assert await parts(bus, "acme", swarm) == []
    await put(memory, swarm, "k", BIG)
    assert await memory.delete(swarm, "default", "k")
    assert await parts(bus, "acme", swarm) == []


async def test_memory_lets_one_of_many_delete(memory: SwarmMemory, swarm: str) -> None:
    await put(memory, swarm, "k", b"1")
    gone = await asyncio.gather(*(memory.delete(swarm, "default", "k") for _ in range(6)))
    assert sorted(gone) == [False] * 5 + [True]


async def test_memory_says_when_a_value_has_been_damaged(
    bus: Bus, memory: SwarmMemory, swarm: str
) -> None:
    await put(memory, swarm, "k", BIG)
    subject = (await parts(bus, "acme", swarm))[2]
    await bus.request(subject, b"other bytes", timeout_s=2)
    with pytest.raises(MeshError) as lost:
        await got(memory, swarm, "k")
    assert lost.value.kind is ErrorKind.LOST
    await put(memory, swarm, "k", b"1")
    assert await got(memory, swarm, "k") == b"1"
