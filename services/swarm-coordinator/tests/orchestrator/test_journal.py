"""Group commit: order, batches, snapshots at the right moment, ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.metrics import Metrics
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core.events import Event, OwnerChanged, decode_batch
from swarm_coordinator.orchestrator.journal import Journal
from swarm_coordinator.store.log import StaleOwner


class GatedLog:
    """Takes appends when it is let; remembers them."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self.error: Exception | None = None
        self.purged: list[int] = []

    async def append(self, body: bytes, kind: str = "events") -> int:
        self.began.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.messages.append((kind, body))
        return len(self.messages)

    async def purge_before(self, sequence: int) -> None:
        self.purged.append(sequence)


class Rig:
    def __init__(self, *, snapshot_events: int = 1000, message_bytes: int = 10_000) -> None:
        self.log = GatedLog()
        self.tasks = Tasks("test")
        self.folded: list[int] = []
        self.metrics = Metrics("swarm-coordinator", "0", "swarm-1")
        self.journal = Journal(
            self.log,  # type: ignore[arg-type]
            snapshot=lambda: repr(self.folded).encode(),
            snapshot_events=snapshot_events,
            message_bytes=message_bytes,
            metrics=self.metrics,
            tasks=self.tasks,
        )
        self.run: asyncio.Task[MeshError] = self.tasks.spawn(self.journal.run(), name="journal")

    def put(self, n: int) -> None:
        self.folded.append(n)
        self.journal.put((event(n),), [])

    def stored(self) -> list[list[int]]:
        return [numbers(body) for kind, body in self.log.messages if kind == "events"]


def event(n: int) -> Event:
    return OwnerChanged(at=n, owner="x" * 100, epoch=n)


def numbers(body: bytes) -> list[int]:
    found = decode_batch(body)
    assert isinstance(found, list)
    return [one.at for one in found]


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.tasks.close()


async def test_what_comes_during_an_append_is_the_next_batch(rig: Rig) -> None:
    rig.log.gate.clear()
    rig.put(0)
    await rig.log.began.wait()
    for n in range(1, 6):
        rig.put(n)
    rig.log.gate.set()
    await rig.journal.stored()
    assert rig.stored() == [[0], [1, 2, 3, 4, 5]]


async def test_a_batch_is_cut_between_commits_when_it_is_too_large(rig: Rig) -> None:
    rig.log.gate.clear()
    rig.put(0)
    await rig.log.began.wait()
    for n in range(1, 301):
        rig.put(n)
    rig.log.gate.set()
    await rig.journal.stored()
    assert [n for batch in rig.stored() for n in batch] == list(range(301))
    assert all(len(body) <= 10_000 for _, body in rig.log.messages)
    assert len(rig.log.messages) > 3


async def test_a_snapshot_says_what_the_log_says_and_nothing_that_came_later() -> None:
    rig = Rig(snapshot_events=3)
    rig.journal._snapshot_at -= 60  # as if the last one were long ago
    rig.log.gate.clear()
    for n in range(3):
        rig.put(n)
    await rig.log.began.wait()
    rig.put(3)  # decided while the batch before is on its way
    rig.log.gate.set()
    await rig.journal.stored()
    kinds = [kind for kind, _ in rig.log.messages]
    assert kinds == ["events", "snapshot", "events"]
    assert rig.log.messages[1][1] == b"[0, 1, 2]"
    await asyncio.sleep(0)
    assert rig.log.purged == [2]
    await rig.tasks.close()


async def test_everybody_who_waits_is_told_when_the_owner_is_stale(rig: Rig) -> None:
    rig.log.gate.clear()
    rig.put(0)
    await rig.log.began.wait()
    rig.put(1)
    waiting = [asyncio.ensure_future(rig.journal.stored()) for _ in range(3)]
    await asyncio.sleep(0)
    rig.log.error = StaleOwner()
    rig.log.gate.set()
    for one in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(one, MeshError)
        assert (one.kind, one.outcome) == (ErrorKind.LOST, Outcome.NOT_EXECUTED)
    with pytest.raises(MeshError):
        rig.put(2)
    with pytest.raises(MeshError):
        await rig.journal.stored()
    assert rig.stored() == []
    assert b"mesh_swarm_appends_refused_total 1.0" in rig.metrics.text()


async def test_an_append_of_which_nobody_knows_ends_the_journal_with_that_outcome(
    rig: Rig,
) -> None:
    rig.log.error = MeshError(ErrorKind.DEADLINE, "no receipt", outcome=Outcome.UNKNOWN)
    rig.put(0)
    with pytest.raises(MeshError) as caught:
        await rig.journal.stored()
    assert caught.value.outcome is Outcome.UNKNOWN
    assert (await rig.run).kind is ErrorKind.DEADLINE


async def test_a_cancelled_waiter_does_not_disturb_the_others(rig: Rig) -> None:
    rig.log.gate.clear()
    rig.put(0)
    first, second = (asyncio.ensure_future(rig.journal.stored()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    rig.log.gate.set()
    await second
    assert rig.stored() == [[0]]


async def test_a_closed_journal_stores_what_it_has_and_takes_no_more(rig: Rig) -> None:
    rig.log.gate.clear()
    rig.put(0)
    await rig.log.began.wait()
    rig.put(1)
    rig.journal.close()
    rig.log.gate.set()
    await rig.run
    assert rig.stored() == [[0], [1]]
    with pytest.raises(MeshError):
        rig.put(2)


async def test_consequences_are_asked_for_before_each_batch_and_stand_in_it(rig: Rig) -> None:
    asked = 0

    def consequences() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            rig.put(100)

    rig.journal.before_batch = consequences
    rig.put(0)
    await rig.journal.stored()
    assert rig.stored() == [[0, 100]]
    assert asked == 2
