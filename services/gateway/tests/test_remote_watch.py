"""The listen of an edge that is no gateway: replaced without a gap, made again after a loss."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from gateway import remote_watch
from gateway.remote_watch import RemoteListen, RemoteWatch
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.conditions import eventually


class Gateway:
    """Answers listens; a test tells through them and ends them."""

    def __init__(self) -> None:
        self.open: list[tuple[frozenset[str], Callable[[bytes], None], asyncio.Event]] = []
        self.asked: list[dict[str, object]] = []
        self.most = 0
        self.unknown: set[str] = set()
        self.down: MeshError | None = None

    async def listen(self, params: bytes, on_notice: Callable[[bytes], None]) -> None:
        wanted = msgspec.json.decode(params)["notifications"]
        self.asked.append(wanted)
        if self.down is not None:
            raise self.down
        uris = frozenset(wanted.get("resourceSubscriptions", ())) - self.unknown
        one = (uris, on_notice, asyncio.Event())
        self.open.append(one)
        self.most = max(self.most, len(self.open))
        honoured = {"notifications": {"resourceSubscriptions": sorted(uris)}}
        self.say(on_notice, "subscriptions/acknowledged", honoured)
        try:
            await one[2].wait()
        finally:
            self.open.remove(one)

    @staticmethod
    def say(on_notice: Callable[[bytes], None], kind: str, params: object) -> None:
        on_notice(msgspec.json.encode({"method": f"notifications/{kind}", "params": params}))

    def update(self, uri: str) -> None:
        for _, on_notice, _ in self.open:
            self.say(on_notice, "resources/updated", {"uri": uri})


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    one = Tasks("test")
    yield one
    await one.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_watch, "AGAIN_S", (0.01, 0.02))


async def test_a_watch_follows_what_its_client_wants(tasks: Tasks) -> None:
    gateway, told = Gateway(), list[str]()
    gateway.unknown = {"b"}
    watch = RemoteWatch(gateway.listen, told.append, tasks)
    watch.aim(("a", "b"))
    assert await watch.settle() == {"a"}
    assert watch.problem("a") is None
    problem = watch.problem("b")
    assert problem is not None
    assert problem.kind is ErrorKind.NOT_FOUND
    watch.aim(("a", "c"))
    assert await watch.settle() == {"a", "c"}
    await eventually(lambda: len(gateway.open) == 1)
    assert gateway.most == 2
    gateway.update("c")
    assert told == ["c"]
    watch.aim(())
    await eventually(lambda: not gateway.open)
    watch.close()


async def test_after_a_loss_everything_watched_is_told_once(tasks: Tasks) -> None:
    gateway, told = Gateway(), list[str]()
    watch = RemoteWatch(gateway.listen, told.append, tasks)
    watch.aim(("a",))
    await watch.settle()
    gateway.down = MeshError(ErrorKind.LOST, "gone")
    gateway.open[0][2].set()
    await eventually(lambda: len(gateway.asked) > 2)
    assert told == []
    gateway.down = None
    await eventually(lambda: told == ["a"])
    gateway.update("a")
    assert told == ["a", "a"]
    watch.close()


async def test_changed_lists_are_heard_without_a_gap_and_told_after_a_loss(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_watch, "RENEW_S", 0.05)
    gateway, heard, lost = Gateway(), list[str](), list[frozenset[str]]()
    listen = RemoteListen(
        gateway.listen,
        lambda method, _: heard.append(method),
        lost.append,
        tasks,
        lists=("toolsListChanged",),
    )
    listen.open()
    await eventually(lambda: len(gateway.asked) >= 3)
    assert gateway.asked[0] == {"toolsListChanged": True}
    assert lost == []
    await eventually(lambda: len(gateway.open) == 1)
    gateway.say(gateway.open[0][1], "tools/list_changed", {})
    assert heard == ["notifications/tools/list_changed"]
    gateway.open[0][2].set()
    await eventually(lambda: lost == [frozenset()])
    listen.close()
    await eventually(lambda: not gateway.open)
