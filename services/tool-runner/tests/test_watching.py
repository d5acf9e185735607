"""Watched resources through the lives of a server, and how both eras are asked for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
import pytest

from mcp_proto.contracts.watching import Asked, Updated
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.versions import MODERN, NEWEST_LEGACY
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.conditions import eventually
from tool_runner.core.dialect import Handshake
from tool_runner.upstreams import notices
from tool_runner.upstreams.notices import Notices
from tool_runner.watching import Watching

Watch = Callable[[frozenset[str]], "asyncio.Future[Mapping[str, str]]"]


def asked(*uris: str, by: str = "gateway-1") -> Asked:
    return Asked(uris=uris, subscriber=by)


class Told:
    """The events that gateways would get."""

    def __init__(self) -> None:
        self.events: list[Updated] = []

    async def tell(self, event: Updated) -> None:
        self.events.append(event)

    @property
    def uris(self) -> list[str]:
        return [event.uri for event in self.events if event.uri]


class Server:
    """An upstream that takes or refuses."""

    def __init__(self) -> None:
        self.watched: list[frozenset[str]] = []
        self.refused: dict[str, str] = {}
        self.failure: MeshError | None = None

    async def watch(self, uris: frozenset[str]) -> dict[str, str]:
        if self.failure is not None:
            raise self.failure
        self.watched.append(uris)
        return {uri: reason for uri, reason in self.refused.items() if uri in uris}


@contextlib.asynccontextmanager
async def life(watching: Watching, server: Server) -> AsyncIterator[None]:
    task = asyncio.create_task(watching.run(server.watch))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_gateways_share_one_subscription_and_are_told_once() -> None:
    told, server = Told(), Server()
    watching = Watching("s", told.tell)
    async with life(watching, server):
        first = await watching.subscribe(asked("a:1"))
        assert (first.fresh, first.refused) == (("a:1",), {})
        second = await watching.subscribe(asked("a:1", by="gateway-2"))
        assert second.fresh == ()
        assert server.watched == [frozenset({"a:1"})]
        for _ in range(3):
            watching.updated(msgspec.Raw(b'{"uri":"a:1"}'))
        watching.updated(msgspec.Raw(b"1"))
        await eventually(lambda: told.uris == ["a:1"])
        watching.unsubscribe(asked("a:1"))
        watching.unsubscribe(asked("a:1", by="gateway-2"))
        await eventually(lambda: server.watched[-1] == frozenset())
        watching.updated(msgspec.Raw(b'{"uri":"a:1"}'))
        assert len(watching) == 0
    assert told.uris == ["a:1"]


async def test_what_the_server_refuses_is_said_and_not_kept() -> None:
    told, server = Told(), Server()
    server.refused = {"a:2": "no such thing"}
    watching = Watching("s", told.tell)
    async with life(watching, server):
        verdict = await watching.subscribe(asked("a:1", "a:2"))
        assert (verdict.refused, verdict.fresh) == ({"a:2": "no such thing"}, ("a:1",))
        assert len(watching) == 1


async def test_a_new_life_watches_again_and_tells_what_may_have_been_missed() -> None:
    told, server = Told(), Server()
    watching = Watching("s", told.tell)
    async with life(watching, server):
        await watching.subscribe(asked("a:1"))
        await eventually(lambda: told.events == [Updated(anew=True)])
    async with life(watching, server):
        await eventually(lambda: told.uris == ["a:1"])
        assert server.watched == [frozenset({"a:1"})] * 2
        assert (await watching.subscribe(asked("a:1"))).fresh == ()
    assert [event.anew for event in told.events].count(True) == 2


async def test_who_waits_learns_that_the_server_ended_or_failed() -> None:
    told, server = Told(), Server()
    watching = Watching("s", told.tell)
    waiting = asyncio.create_task(watching.subscribe(asked("a:1")))
    await asyncio.sleep(0)
    async with life(watching, Server()):
        await waiting
    server.failure = MeshError(ErrorKind.UPSTREAM, "does not answer")
    watching = Watching("s", told.tell)
    async with life(watching, server):
        with pytest.raises(MeshError, match="does not answer"):
            await watching.subscribe(asked("a:1"))


class Talk:
    """A connection whose server is scripted."""

    def __init__(self, *, modern: bool, subscribe: bool = True) -> None:
        capabilities = b'{"resources":{"subscribe":true}}' if subscribe else b'{"resources":{}}'
        self.handshake: Handshake | None = Handshake(
            revision=MODERN if modern else NEWEST_LEGACY,
            capabilities=msgspec.Raw(capabilities),
            server_info=msgspec.Raw(b"{}"),
        )
        self.asked: list[tuple[str, str]] = []
        self.refused: set[str] = set()
        self.listens: list[frozenset[str]] = []
        self.open = 0
        self.most = 0
        self.end = asyncio.Event()
        self.answer: ErrorObject | None = None

    async def ask(self, method: str, params: bytes, timeout_s: float) -> msgspec.Raw | ErrorObject:
        uri = msgspec.json.decode(params)["uri"]
        self.asked.append((method, uri))
        if uri in self.refused:
            return ErrorObject(-32002, "not found")
        return msgspec.Raw(b"{}")

    async def listen(
        self, params: bytes, acknowledged: Callable[[msgspec.Raw], None]
    ) -> msgspec.Raw | ErrorObject:
        wanted = msgspec.json.decode(params)["notifications"]
        assert wanted["toolsListChanged"]
        uris = wanted.get("resourceSubscriptions", [])
        self.listens.append(frozenset(uris))
        if self.answer is not None:
            return self.answer
        taken = [uri for uri in uris if uri not in self.refused]
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            filters = {"notifications": {"resourceSubscriptions": taken}}
            acknowledged(msgspec.Raw(msgspec.json.encode(filters)))
            await self.end.wait()
        finally:
            self.open -= 1
        return msgspec.Raw(b"{}")


class Heard:
    """A ``Listener`` that counts."""

    def __init__(self) -> None:
        self.lists = 0
        self.resources: list[str] = []

    def lists_changed(self) -> None:
        self.lists += 1

    def resource_updated(self, params: msgspec.Raw) -> None:
        self.resources.append(msgspec.json.decode(params)["uri"])


@contextlib.asynccontextmanager
async def noticing(talk: Talk) -> AsyncIterator[tuple[Notices, Heard]]:
    tasks, heard = Tasks("test"), Heard()
    made = Notices("s", talk, heard, tasks)
    made.open()
    try:
        yield made, heard
    finally:
        await tasks.close()


async def test_an_old_server_is_subscribed_and_unsubscribed_by_uri() -> None:
    talk = Talk(modern=False)
    talk.refused = {"a:3"}
    async with noticing(talk) as (made, _):
        assert await made.watch(frozenset({"a:1", "a:2", "a:3"})) == {"a:3": "not found"}
        assert await made.watch(frozenset({"a:2", "a:4"})) == {}
    assert sorted(talk.asked[3:]) == [
        ("resources/subscribe", "a:4"),
        ("resources/unsubscribe", "a:1"),
    ]
    assert talk.listens == []


async def test_a_modern_server_has_one_listen_that_is_replaced_without_a_gap() -> None:
    talk = Talk(modern=True)
    talk.refused = {"a:2"}
    async with noticing(talk) as (made, heard):
        assert (await made.watch(frozenset({"a:1", "a:2"}))).keys() == {"a:2"}
        assert await made.watch(frozenset({"a:1"})) == {}
        await eventually(lambda: talk.open == 1)
        assert talk.listens == [frozenset(), frozenset({"a:1", "a:2"}), frozenset({"a:1"})]
        assert talk.most == 2
        assert heard.lists == 0
    assert talk.open == 0


async def test_a_listen_that_drops_is_made_again_and_all_counts_as_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notices, "AGAIN_FIRST_S", 0.01)
    talk = Talk(modern=True)
    async with noticing(talk) as (made, heard):
        await made.watch(frozenset({"a:1"}))
        talk.end.set()
        await eventually(lambda: talk.open == 0 and len(talk.listens) > 1)
        talk.end.clear()
        await eventually(lambda: heard.resources[:1] == ["a:1"])
        assert heard.lists >= 1
        await eventually(lambda: talk.open == 1)


async def test_what_was_heard_goes_on_when_a_new_listen_is_refused() -> None:
    talk = Talk(modern=True)
    async with noticing(talk) as (made, _):
        await made.watch(frozenset({"a:1"}))
        talk.answer = ErrorObject(-32603, "too many")
        with pytest.raises(MeshError, match="too many"):
            await made.watch(frozenset({"a:1", "a:2"}))
        assert talk.open == 1


async def test_a_server_without_subscriptions_is_not_asked() -> None:
    talk = Talk(modern=False, subscribe=False)
    async with noticing(talk) as (made, _):
        assert "no resource subscriptions" in (await made.watch(frozenset({"a:1"})))["a:1"]
        assert await made.watch(frozenset()) == {}
    assert talk.asked == []
