"""How a log is written: what was once written is read for ever."""

import msgspec
import pytest
from tests.swarm_world import World, fanned, task_of

from swarm_coordinator.core import events as e
from swarm_coordinator.core.agenda import TIMERS_MIN
from swarm_coordinator.core.events import (
    Event,
    Snapshot,
    TaskCancelling,
    decode_batch,
    encode_batch,
    encode_batches,
    encode_snapshot,
)
from swarm_coordinator.core.evolve import evolve, restore, snapshot
from swarm_coordinator.core.schedule_timers import compact

TAGS = [
    "active",
    "agent",
    "answer",
    "approved",
    "ask",
    "attached",
    "back",
    "breaker",
    "cancelled",
    "cancelling",
    "destroyed",
    "done",
    "draining",
    "ended",
    "failed",
    "forgotten",
    "gone",
    "ignored",
    "lost",
    "mail",
    "mail-dropped",
    "mail-taken",
    "owner",
    "phase",
    "phase-ended",
    "placed",
    "plan",
    "ready",
    "resumed",
    "retry",
    "returned",
    "run",
    "sent",
    "started",
    "steps",
    "swarm",
    "task",
    "terminated",
    "twin",
    "vote",
    "width",
]


def test_tags_of_events_never_change() -> None:
    kinds = Event.__args__  # type: ignore[attr-defined]
    assert sorted(str(one.__struct_config__.tag) for one in kinds) == TAGS
    assert {one.__name__ for one in kinds} < set(e.__all__)


def test_a_batch_is_read_as_it_was_written() -> None:
    batch = [TaskCancelling(at=5, task="task_1", reason="why")]
    assert encode_batch(batch) == b'[{"e":"cancelling","task":"task_1","reason":"why","at":5}]'
    assert decode_batch(encode_batch(batch)) == batch
    assert decode_batch(b'[{"e":"cancelling","at":5,"task":"t","newer":1}]') == [
        TaskCancelling(at=5, task="t")
    ]


@pytest.mark.parametrize("wrong", [b"", b"[1]", b'[{"e":"nothing","at":1}]', b"{}", b'{"x":1}'])
def test_what_is_no_entry_is_not_read(wrong: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_batch(wrong)


def test_messages_hold_at_most_so_many_bytes_and_one_event_at_least() -> None:
    events = [TaskCancelling(at=1, task="t", reason="x" * size) for size in (10, 10, 500, 10)]
    batches = encode_batches(events, 200)
    assert [len(decode_batch(one)) for one in batches] == [2, 1, 1]  # type: ignore[arg-type]
    assert [event for one in batches for event in decode_batch(one)] == events  # type: ignore[union-attr]
    assert encode_batches([], 200) == []


def test_a_snapshot_is_a_message_of_the_log_and_gives_the_state() -> None:
    world = World(1)
    world.submit(task_of(fanned(2)))
    read = decode_batch(encode_snapshot(snapshot(world.state)))
    assert isinstance(read, Snapshot)
    assert snapshot(restore(bytes(read.snapshot))) == snapshot(world.state)
    assert world.state.sequence == len(world.log)


def test_a_log_that_does_not_begin_at_its_beginning_is_refused() -> None:
    with pytest.raises(ValueError, match="begins"):
        evolve(None, TaskCancelling(at=1, task="t"))


def test_timers_of_attempts_that_ended_in_time_are_dropped() -> None:
    world = World(2, slots=64)
    world.submit(task_of(fanned(9_000), parallelism=2))
    while world.working:
        world.say(*(world.result(item, 1) for item in world.working))
    assert len(world.state.agenda.timers) <= 2 * TIMERS_MIN
    compact(world.state)
    assert len(world.state.agenda.timers) <= 2
