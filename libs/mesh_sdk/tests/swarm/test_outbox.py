import asyncio
import contextlib

import msgspec
import pytest

from mcp_proto.contracts.swarm import Results, ResultsTaken, WorkResult
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.swarm import outbox
from mesh_sdk.swarm.outbox import BATCH_BYTES, BATCH_MAX, Outbox


class Peer:
    """Takes results; ``answers`` decides how, one entry per request, the last for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers) or ["all"]
        self.batches: list[list[str]] = []
        self.epoch = 1
        self.taken: list[tuple[str, str]] = []
        self.box = Outbox(self.send, lambda epoch: epoch >= self.epoch, self.settle)

    def settle(self, agent: str, item: str, data: bytes) -> None:
        assert data
        self.taken.append((agent, item))

    async def send(self, body: bytes) -> ResultsTaken:
        items = [one.item for one in msgspec.json.decode(body, type=Results).results]
        self.batches.append(items)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "lost":
            raise MeshError(ErrorKind.LOST, "lost")
        if answer == "stale":
            return ResultsTaken(owner_epoch=0, taken=tuple(items))
        return ResultsTaken(owner_epoch=1, taken=tuple(items) if answer == "all" else ())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox, "RETRY_FIRST_S", 0.001)


@contextlib.asynccontextmanager
async def running(peer: Peer):
    task = asyncio.create_task(peer.box.run())
    yield
    task.cancel()
    await asyncio.wait({task})


def result(item: str, agent: str = "a", text: str = "") -> WorkResult:
    return WorkResult(agent=agent, epoch=1, item=item, status="ok", text=text)


async def test_what_gathers_while_a_request_is_under_way_goes_with_the_next():
    peer = Peer()
    peer.box.put(result("1"))
    async with running(peer):
        await eventually(lambda: len(peer.taken) == 1)
        for n in range(2, 2 + BATCH_MAX + 10):
            peer.box.put(result(str(n)))
        await eventually(lambda: len(peer.taken) == BATCH_MAX + 11)
    assert [len(batch) for batch in peer.batches] == [1, BATCH_MAX, 10]
    assert [item for _, item in peer.taken] == [str(n) for n in range(1, BATCH_MAX + 12)]


async def test_large_result_travels_alone():
    peer = Peer()
    for item, size in (("small", 10), ("large", BATCH_BYTES), ("last", 10)):
        peer.box.put(result(item, text="x" * size))
    async with running(peer):
        await eventually(lambda: len(peer.taken) == 3)
    assert peer.batches == [["small"], ["large"], ["last"]]


@pytest.mark.parametrize("trouble", ["lost", "none", "stale"])
async def test_result_is_repeated_until_a_believed_owner_took_it(trouble):
    peer = Peer(trouble, trouble, "all")
    peer.box.put(result("1"))
    assert peer.box.holds("1")
    async with running(peer):
        await eventually(lambda: peer.taken == [("a", "1")])
    assert peer.batches == [["1"]] * 3
    assert not peer.box.holds("1")
    assert len(peer.box) == 0


async def test_result_that_was_replaced_under_way_is_still_to_be_sent():
    peer = Peer()
    peer.box.put(result("1", text="question"))
    replaced = False
    send = peer.send

    async def replacing(body: bytes) -> ResultsTaken:
        nonlocal replaced
        if not replaced:
            replaced = True
            peer.box.put(result("1", text="answer"))
        return await send(body)

    peer.box._send = replacing
    async with running(peer):
        await eventually(lambda: len(peer.taken) == 1)
    assert peer.batches == [["1"], ["1"]]


async def test_waiting_results_are_counted_by_agent():
    peer = Peer()
    for item, agent in (("1", "a"), ("2", "b"), ("3", "a")):
        peer.box.put(result(item, agent))
    peer.box.put(result("3", "a"))
    assert (peer.box.count_of("a"), peer.box.count_of("b"), peer.box.count_of("c")) == (2, 1, 0)
    assert peer.box.items_of("a") == ["1", "3"]
    async with running(peer):
        await eventually(lambda: len(peer.box) == 0)
    assert peer.box.count_of("a") == 0
