"""Progress of one call as its caller gets it."""

import asyncio
import itertools

import msgspec
import pytest

from mcp_proto.contracts.swarm_replicas import TaskReached
from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.orchestrator.telling import GAP_S, Teller, notice_of, token_of


def reached(progress: float) -> TaskReached:
    return TaskReached(progress=progress, total=10)


class Peer:
    def __init__(self) -> None:
        self.heard: list[float] = []
        self.times: list[float] = []
        self.broken = False

    async def emit(self, body: bytes) -> None:
        if self.broken:
            raise MeshError(ErrorKind.TOO_LARGE, "no")
        await asyncio.sleep(0)
        self.times.append(asyncio.get_running_loop().time())
        self.heard.append(msgspec.json.decode(body)["progress"])


async def test_caller_hears_the_newest_only_and_not_too_often() -> None:
    peer = Peer()
    teller = Teller(peer.emit, msgspec.json.encode)

    async def work() -> str:
        for n in range(1_000):
            teller.tell(reached(n / 100))
            if n % 100 == 0:
                await asyncio.sleep(GAP_S / 4)
        return "done"

    assert await teller.during(work()) == "done"
    assert peer.heard == sorted(set(peer.heard))
    assert peer.heard[-1] == 9.99
    assert len(peer.heard) <= 6
    gaps = [after - before for before, after in itertools.pairwise(peer.times[:-1])]
    assert all(gap >= GAP_S * 0.9 for gap in gaps)


async def test_progress_that_goes_back_is_not_told() -> None:
    peer = Peer()
    teller = Teller(peer.emit, msgspec.json.encode)

    async def work() -> None:
        for figure in (0, 3, 1, 3):
            teller.tell(reached(figure))
            await asyncio.sleep(GAP_S * 1.2)

    await teller.during(work())
    assert peer.heard == [0, 3]


async def test_a_call_does_not_fail_for_progress_that_cannot_be_told() -> None:
    peer = Peer()
    peer.broken = True
    teller = Teller(peer.emit, msgspec.json.encode)

    async def work() -> int:
        teller.tell(reached(1))
        await asyncio.sleep(0)
        return 7

    assert await teller.during(work()) == 7


async def test_what_the_work_raises_comes_out_and_nothing_is_told_after_it() -> None:
    peer = Peer()
    teller = Teller(peer.emit, msgspec.json.encode)

    async def work() -> None:
        await asyncio.sleep(0)
        teller.tell(reached(1))
        raise MeshError(ErrorKind.LOST, "gone")

    with pytest.raises(MeshError, match="gone"):
        await teller.during(work())
    assert peer.heard == []


@pytest.mark.parametrize(
    ("meta", "token"),
    [
        (b'{"progressToken":"a"}', "a"),
        (b'{"progressToken":7}', 7),
        (b'{"progressToken":null}', None),
        (b'{"progressToken":[1]}', None),
        (b'{"other":1}', None),
    ],
)
def test_token_is_read_with_its_type(meta: bytes, token: str | int | None) -> None:
    assert token_of(msgspec.Raw(b'{"name":"x","_meta":' + meta + b"}")) == token


def test_notice_is_that_of_mcp() -> None:
    notice = msgspec.json.decode(notice_of(7, TaskReached(progress=1.5, total=3, message="m")))
    assert notice["method"] == "notifications/progress"
    assert notice["params"] == {"progressToken": 7, "progress": 1.5, "total": 3.0, "message": "m"}
    bare = msgspec.json.decode(notice_of("t", TaskReached(progress=2)))
    assert bare["params"] == {"progressToken": "t", "progress": 2.0}
