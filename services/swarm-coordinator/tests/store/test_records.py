"""Records that others read: a replaced owner does not write over its successor's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import msgspec
import pytest_asyncio

from mcp_proto.contracts.tasks import TaskRecord
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.store.swarms import SwarmStore
from swarm_coordinator.store.tasks import TaskRecords
from swarm_coordinator.store.values import Values

ConnectBus = Callable[..., Awaitable[Bus]]


@pytest_asyncio.fixture
async def stores(
    connect_bus: ConnectBus, provision: None
) -> AsyncIterator[tuple[SwarmStore, SwarmStore]]:
    one = await SwarmStore.open(await connect_bus("swarm-coordinator", "swarm-1"))
    two = await SwarmStore.open(await connect_bus("swarm-coordinator", "swarm-2"))
    yield one, two
    await one.close()
    await two.close()


def record(**changes: object) -> SwarmRecord:
    made = SwarmRecord(
        swarm=f"swarm_{uuid4().hex}", tenant="acme", principal="ann", created_ms=1, sequence=1
    )
    return msgspec.structs.replace(made, **changes)


async def test_a_record_is_known_to_other_replicas_newest_first(
    stores: tuple[SwarmStore, SwarmStore],
) -> None:
    one, two = stores
    who = uuid4().hex
    old, new = record(principal=who), record(principal=who, created_ms=2)
    await one.put(old)
    await one.put(new)
    assert await two.find("acme", old.swarm) == old
    await eventually(lambda: len(two.of("acme", who)) == 2)
    assert two.of("acme", who) == [new, old]
    assert two.of("acme", "somebody") == []


async def test_an_owner_that_was_replaced_does_not_write_over_a_newer_record(
    stores: tuple[SwarmStore, SwarmStore],
) -> None:
    one, two = stores
    first = record()
    await one.put(first)
    await two.find("acme", first.swarm)
    newer = msgspec.structs.replace(first, sequence=9, owner="swarm-2")
    await two.put(newer)
    await one.put(msgspec.structs.replace(first, sequence=5))
    assert await two.find("acme", first.swarm) == newer


async def test_only_a_destroyed_swarm_is_forgotten(
    stores: tuple[SwarmStore, SwarmStore],
) -> None:
    one, _ = stores
    forgotten: list[str] = []
    one.on_forgotten = lambda gone: forgotten.append(gone.swarm)
    alive, dead = record(), record(status="destroyed")
    for each in (alive, dead):
        await one.put(each)
    for each in (alive, dead):
        one._on_entry(f"acme.{each.swarm}", None, 0)
    assert forgotten == [dead.swarm]


def task(**changes: object) -> TaskRecord:
    made = TaskRecord(
        id=f"task_{uuid4().hex}",
        tenant="acme",
        principal="ann",
        server="swarm",
        tool="task_orchestrate",
        status="working",
        created_ms=1,
        updated_ms=2,
        ttl_ms=3_600_000,
        poll_ms=500,
    )
    return msgspec.structs.replace(made, **changes)


async def test_a_large_result_of_a_task_is_read_whole(
    connect_bus: ConnectBus, provision: None
) -> None:
    records = TaskRecords.of(await connect_bus("swarm-coordinator", "swarm-1"))
    made = task()
    await records.write(made)
    large = b'"' + b"x" * 1_200_000 + b'"'
    assert await records.write(msgspec.structs.replace(made, status="completed"), large)
    found = await records.read_whole("acme", "ann", made.id)
    assert found is not None
    assert bytes(found.result) == large
    assert await records.read("acme", "bob", made.id) is None


async def test_a_new_owner_that_tells_of_an_ended_task_again_leaves_its_result_whole(
    connect_bus: ConnectBus, provision: None
) -> None:
    large = b'"' + b"x" * 1_200_000 + b'"'
    made = task(status="completed")
    old = TaskRecords.of(await connect_bus("swarm-coordinator", "swarm-1"))
    working = msgspec.structs.replace(made, status="working")
    assert await old.write(working)
    frozen = TaskRecords.of(await connect_bus("swarm-coordinator", "swarm-2"))
    assert await frozen.write(msgspec.structs.replace(working, message="1 of 2"))
    assert await old.write(made, large)
    for again in (TaskRecords.of(await connect_bus("swarm-coordinator", "swarm-3")), frozen):
        assert not await again.write(made, large)
        found = await again.read_whole("acme", "ann", made.id)
        assert found is not None
        assert bytes(found.result) == large


async def test_a_task_that_another_owner_ended_stays_as_it_ended(
    connect_bus: ConnectBus, provision: None
) -> None:
    old = TaskRecords.of(await connect_bus("swarm-coordinator", "swarm-1"))
    new = TaskRecords.of(await connect_bus("swarm-coordinator", "swarm-2"))
    made = task()
    await old.write(made)
    assert await new.write(msgspec.structs.replace(made, status="completed", updated_ms=9), b"{}")
    assert not await old.write(msgspec.structs.replace(made, message="7 of 9", updated_ms=5))
    found = await new.read("acme", "ann", made.id)
    assert found is not None
    assert found.status == "completed"


async def test_a_dropped_value_is_lost_and_a_kept_one_is_whole(
    connect_bus: ConnectBus, provision: None
) -> None:
    values = Values(await connect_bus("swarm-coordinator", "swarm-1"), "acme")
    body = bytes(range(256)) * 2_000
    kept, dropped = await values.put("swarm_1", body), await values.put("swarm_1", body)
    await values.drop("swarm_1", dropped)
    assert await values.get("swarm_1", kept) == body
