"""Who may run beside whom on a connection whose server asks back."""

import asyncio

import msgspec
import pytest

from tool_runner.upstreams import turns as turns_module
from tool_runner.upstreams.pending import Pending
from tool_runner.upstreams.turns import Turns
from tool_runner.upstreams.upstream import Request


class Line:
    """A connection's calls."""

    def __init__(self) -> None:
        self.pending: dict[int, Pending] = {}
        self.turns = Turns(self.pending.values)
        self.entering: list[asyncio.Task[None]] = []

    def call(self, tenant: str, *, alone: bool = False) -> Pending:
        request = Request(
            method="tools/call", params=msgspec.Raw(b"{}"), timeout_s=1.0, tenant=tenant
        )
        one = Pending("tools/call", request)
        one.alone = alone
        self.pending[len(self.pending)] = one
        return one

    async def enter(self, tenant: str, *, alone: bool = False) -> Pending:
        one = self.call(tenant, alone=alone)
        self.entering.append(asyncio.ensure_future(self.turns.enter(one)))
        await asyncio.sleep(0)
        return one

    def leave(self, one: Pending) -> None:
        self.pending = {key: other for key, other in self.pending.items() if other is not one}
        self.turns._pending = self.pending.values
        self.turns.left(one)

    async def close(self) -> None:
        for task in self.entering:
            task.cancel()
        await asyncio.gather(*self.entering, return_exceptions=True)
        self.turns.close()


@pytest.fixture
async def line():
    one = Line()
    yield one
    await one.close()


async def test_calls_that_need_not_be_alone_run_beside_each_other(line: Line) -> None:
    assert (await line.enter("a")).sent
    assert (await line.enter("b")).sent


async def test_call_that_must_be_alone_waits_for_others_and_they_for_it(line: Line) -> None:
    first = await line.enter("a")
    alone = await line.enter("b", alone=True)
    late = await line.enter("c")
    assert not alone.sent
    assert not late.sent  # else the one that must be alone would wait forever
    line.leave(first)
    assert alone.sent
    assert not late.sent
    line.leave(alone)
    assert late.sent


async def test_calls_of_one_owner_run_together(line: Line) -> None:
    assert (await line.enter("a", alone=True)).sent
    assert (await line.enter("a", alone=True)).sent
    assert (await line.enter("a")).sent
    assert not (await line.enter("b")).sent


async def test_parked_call_lets_others_in_but_not_who_must_be_alone(line: Line) -> None:
    parked = await line.enter("a", alone=True)
    waiting = await line.enter("b")
    assert not waiting.sent
    parked.questions = 1
    line.turns.stir()
    assert waiting.sent
    alone = await line.enter("c", alone=True)
    assert not alone.sent
    assert (await line.enter("d")).sent  # waits for people, so it keeps nobody else
    line.leave(parked)
    assert not alone.sent


async def test_resumed_call_waits_for_others_a_little(line: Line, monkeypatch) -> None:
    monkeypatch.setattr(turns_module, "RESUME_WAIT_S", 0.05)
    parked = await line.enter("a", alone=True)
    parked.questions = 1
    other = await line.enter("b")
    gone_on: list[str] = []
    line.turns.resume(parked, lambda: gone_on.append("first"))
    assert not gone_on
    line.leave(other)
    assert gone_on == ["first"]
    await line.enter("b")
    on = asyncio.Event()
    line.turns.resume(parked, on.set)
    assert not on.is_set()
    async with asyncio.timeout(1):
        await on.wait()


async def test_cancelled_call_counts_until_it_is_answered_or_forgotten(
    line: Line, monkeypatch
) -> None:
    monkeypatch.setattr(turns_module, "GHOST_S", 0.05)
    line.turns.cancelled(7, ("b", "", ""))
    line.turns.cancelled(8, ("b", "", ""))
    alone = await line.enter("a", alone=True)
    assert (await line.enter("b", alone=True)).sent is False
    assert not alone.sent
    line.turns.answered(7)
    assert not alone.sent
    async with asyncio.timeout(1):
        while not alone.sent:
            await alone.wake
    assert line.turns.ghost_owners() == set()
