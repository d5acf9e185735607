"""Whose question is it? Decided over a dict of calls, without a server."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request as ServerRequest
from tool_runner.core.askers import Askers
from tool_runner.upstreams.asks import Answer, ask
from tool_runner.upstreams.inquiries import QUESTIONS_MAX, Inquiries
from tool_runner.upstreams.pending import Pending
from tool_runner.upstreams.upstream import Request

FORM = msgspec.Raw(b'{"message":"m"}')


class Asked:
    """An ``Asks`` that remembers."""

    timeout_s = 1.0

    def __init__(self) -> None:
        self.open: list[Callable[[Answer], None]] = []
        self.withdrawn = 0

    def begin(
        self, method: str, params: msgspec.Raw, answer: Callable[[Answer], None]
    ) -> Callable[[], None]:
        self.open.append(answer)

        def withdraw() -> None:
            self.withdrawn += 1

        return withdraw


class Line:
    def __init__(self) -> None:
        self.pending: dict[int, Pending] = {}
        self.sent: list[Any] = []
        self.inquiries = Inquiries("s", self.pending.values, Askers(), self._write)

    def _write(self, message: bytes) -> None:
        self.sent.append(msgspec.json.decode(message))

    def call(
        self, who: str, *, asks: Asked | None = None, method: str = "tools/call", **params: object
    ) -> Pending:
        request = Request(
            method=method,
            params=msgspec.Raw(msgspec.json.encode({"name": "t", **params})),
            timeout_s=1.0,
            tenant=who,
            asks=asks,
        )
        one = Pending(method, request)
        one.sent = True
        one.running_since = float(len(self.pending))
        self.pending[len(self.pending)] = one
        return one

    def ask(self, number: Any = 1, method: str = "elicitation/create", params: Any = FORM) -> None:
        self.inquiries.take(ServerRequest(method=method, id=number, params=params))

    def end(self, one: Pending) -> None:
        at = next(key for key, other in self.pending.items() if other is one)
        del self.pending[at]
        self.inquiries.leave(one)


@pytest.fixture
async def line():
    one = Line()
    yield one
    for pending in list(one.pending.values()):
        pending.hold_time()
        one.end(pending)
    one.inquiries.close()


async def test_answer_reaches_the_server_under_its_own_id_with_its_type(line: Line) -> None:
    asks = Asked()
    line.call("a", asks=asks)
    line.ask("1")
    line.ask(1)
    assert len(asks.open) == 2
    asks.open[1](b'{"n":1}')
    asks.open[0](b'{"n":2}')
    asks.open[0](b'{"n":3}')
    assert [(one["id"], one["result"]["n"]) for one in line.sent] == [(1, 1), ("1", 2)]


async def test_task_that_is_named_decides_among_several_callers(line: Line) -> None:
    ann, bob = Asked(), Asked()
    line.call("ann", asks=ann, method="tasks/result", taskId="t1")
    line.call("bob", asks=bob, method="tasks/result", taskId="t2")
    meta = {"io.modelcontextprotocol/related-task": {"taskId": "t2"}}
    named = msgspec.Raw(msgspec.json.encode({"message": "m", "_meta": meta}))
    line.ask(1, params=named)
    assert (len(ann.open), len(bob.open)) == (0, 1)
    line.ask(2)
    assert line.sent[0]["error"]["code"] == -32603


async def test_progress_token_of_a_question_is_no_hint(line: Line) -> None:
    ann = Asked()
    line.call("ann", asks=ann)
    line.call("bob", asks=Asked())
    line.ask(1, params=msgspec.Raw(b'{"message":"m","_meta":{"progressToken":0}}'))
    assert not ann.open
    assert line.sent[0]["error"]["code"] == -32603


async def test_roots_asked_while_lists_are_read_are_nobodys(line: Line) -> None:
    asks = Asked()
    line.call("a", asks=asks)
    own = Pending("tools/list")
    own.sent = True
    line.pending[99] = own
    line.ask(1, "roots/list", msgspec.Raw(b""))
    assert not asks.open
    line.ask(2)
    assert len(asks.open) == 1


async def test_answered_call_is_no_longer_asked_about(line: Line) -> None:
    asks = Asked()
    one = line.call("a", asks=asks)
    one.reply = object()  # type: ignore[assignment]
    line.ask()
    assert not asks.open
    assert line.sent[0]["error"]["code"] == -32601


async def test_call_that_ends_leaves_no_question_without_an_answer(line: Line) -> None:
    asks = Asked()
    one = line.call("a", asks=asks)
    line.ask(1)
    line.ask(2, "roots/list", msgspec.Raw(b""))
    line.end(one)
    assert asks.withdrawn == 2
    assert line.sent[0]["result"] == {"action": "cancel"}
    assert line.sent[1]["error"]["code"] == -32603
    asks.open[0](b'{"action":"accept"}')
    assert len(line.sent) == 2


async def test_time_of_a_call_stands_still_while_it_is_asked(line: Line) -> None:
    asks = Asked()
    asks.timeout_s = 0.01
    one = line.call("a", asks=asks)
    one.time(0.01)
    line.ask()
    await asyncio.sleep(0.03)
    assert not one.expired
    asks.open[0](b"{}")
    async with asyncio.timeout(1):
        while not one.expired:
            await one.wake


async def test_questions_of_one_server_are_bounded(line: Line) -> None:
    line.call("a", asks=Asked())
    for number in range(QUESTIONS_MAX + 1):
        line.ask(number)
    assert [one["error"]["code"] for one in line.sent] == [-32603]


async def test_connection_that_is_gone_harms_nobody(line: Line) -> None:
    def gone(_message: bytes) -> None:
        raise MeshError(ErrorKind.UPSTREAM, "gone")

    line.inquiries._write = gone
    asks = Asked()
    line.call("a", asks=asks)
    line.ask()
    asks.open[0](b"{}")
    line.ask(2, "what/ever")


async def test_awaited_question_is_withdrawn_when_it_is_cancelled() -> None:
    asks = Asked()
    waiting = asyncio.ensure_future(ask(asks, "elicitation/create", FORM))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert asks.withdrawn == 1
    waiting = asyncio.ensure_future(ask(asks, "elicitation/create", FORM))
    await asyncio.sleep(0)
    asks.open[1](b"{}")
    assert await waiting == b"{}"
    refused = await ask(None, "elicitation/create", FORM)
    assert not isinstance(refused, bytes)
