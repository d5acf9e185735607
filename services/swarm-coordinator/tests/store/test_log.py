"""The log of a swarm on a real broker: its fence, its repetitions, what is too large for it."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.broker import Broker
from swarm_coordinator.store import log as module
from swarm_coordinator.store.log import Entry, StaleOwner, SwarmLog

MakeLog = Callable[..., Awaitable[SwarmLog]]


def swarm_id() -> str:
    return f"swarm_{uuid4().hex}"


async def read(log: SwarmLog) -> list[Entry]:
    return [entry async for entry in log.replay()]


async def test_a_second_reader_gets_what_was_appended_in_order(make_log: MakeLog) -> None:
    swarm = swarm_id()
    first, second = await make_log(swarm), await make_log(swarm, "swarm-2")
    other = await make_log(swarm_id())
    for n in range(300):
        await first.append(b"[%d]" % n)
    await other.append(b"[]")

    found = await read(second)

    assert [entry.body for entry in found] == [b"[%d]" % n for n in range(300)]
    assert second.sequence == first.sequence
    assert await read(second) == []


async def test_a_writer_is_refused_when_another_has_written_behind_its_back(
    make_log: MakeLog,
) -> None:
    swarm = swarm_id()
    old, new = await make_log(swarm), await make_log(swarm, "swarm-2")
    await old.append(b"[1]")
    await read(new)
    await new.append(b"[2]")

    with pytest.raises(StaleOwner):
        await old.append(b"[3]")

    assert [entry.body for entry in await read(await make_log(swarm))] == [b"[1]", b"[2]"]


async def test_two_who_begin_the_same_log_cannot_both(make_log: MakeLog) -> None:
    swarm = swarm_id()
    one, two = await make_log(swarm), await make_log(swarm, "swarm-2")
    await one.append(b"[1]")
    with pytest.raises(StaleOwner):
        await two.append(b"[2]")


async def test_a_batch_too_large_for_a_message_is_read_back_whole(make_log: MakeLog) -> None:
    swarm = swarm_id()
    log = await make_log(swarm)
    large = b"[" + b"1," * 200_000 + b"1]"
    await log.append(large)
    await log.append(b"[2]")

    assert [entry.body for entry in await read(await make_log(swarm, "swarm-2"))] == [
        large,
        b"[2]",
    ]


async def test_what_is_before_a_snapshot_is_gone_after_the_purge(make_log: MakeLog) -> None:
    swarm = swarm_id()
    log = await make_log(swarm)
    await log.append(b"[" + b"1," * 100_000 + b"1]")
    await log.append(b"[2]")
    sequence = await log.append(b"{}", "snapshot")
    await log.append(b"[3]")
    await log.purge_before(sequence)

    found = await read(await make_log(swarm, "swarm-2"))

    assert [(entry.kind, entry.body) for entry in found] == [
        ("snapshot", b"{}"),
        ("events", b"[3]"),
    ]


async def test_a_large_snapshot_stays_when_what_is_before_it_is_purged(make_log: MakeLog) -> None:
    swarm = swarm_id()
    log = await make_log(swarm)
    first, second = (b'{"a":"%s"}' % (letter * 300_000) for letter in (b"x", b"y"))
    for body in (first, second):
        await log.append(b"[1]")
        sequence = await log.append(body, "snapshot")
        await log.purge_before(sequence)
    await log.append(b"[2]")

    again = await make_log(swarm, "swarm-2")
    found = await read(again)
    assert [entry.body for entry in found] == [second, b"[2]"]
    # Whoever goes on from there frees it with the next one.
    await again.purge_before(await again.append(first, "snapshot"))
    assert [entry.body for entry in await read(await make_log(swarm))] == [first]
    assert len(again._referenced) == 1


async def test_a_removed_log_is_empty_and_can_begin_again(make_log: MakeLog) -> None:
    swarm = swarm_id()
    log = await make_log(swarm)
    await log.append(b"[1]")
    await log.remove()
    assert await read(await make_log(swarm, "swarm-2")) == []


async def test_an_append_without_a_receipt_is_found_as_its_own_copy(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await make_log(swarm_id())
    await log.append(b"[1]")
    publish = module.publish

    async def lose_the_receipt(*args: object, **kwargs: object) -> object:
        await publish(*args, **kwargs)  # type: ignore[arg-type]
        raise module.Conflict(0, 2)  # as after a repetition that met its first copy

    with monkeypatch.context() as patched:
        patched.setattr(module, "publish", lose_the_receipt)
        await log.append(b"[2]")
    await log.append(b"[3]")

    assert log.sequence > 0


async def test_an_append_outlives_a_restart_of_the_broker(
    broker: Broker, make_log: MakeLog, connect_bus: Callable[..., Awaitable[Bus]]
) -> None:
    swarm = swarm_id()
    log = await make_log(swarm)
    await log.append(b"[1]")
    await broker.kill()
    await broker.start()
    await log.append(b"[2]")
    found = await read(await make_log(swarm, "swarm-2"))
    assert [entry.body for entry in found] == [b"[1]", b"[2]"]
