"""Calls to an owner elsewhere end soon after it is none any more, and not before."""

import asyncio

import pytest

from swarm_coordinator.orchestrator.forwards import GRACE_S, Forwards, OwnerGone


async def never() -> str:
    await asyncio.Event().wait()
    return ""


async def test_a_call_ends_when_the_lease_has_another_holder() -> None:
    forwards = Forwards()
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(forwards.during("swarm.t.a", never()))
    other = asyncio.ensure_future(forwards.during("swarm.t.b", never()))
    await asyncio.sleep(0)
    began = loop.time()
    forwards.moved("swarm.t.a")
    forwards.moved("swarm.t.a")
    with pytest.raises(OwnerGone):
        await waiting
    assert GRACE_S - 0.01 <= loop.time() - began < GRACE_S + 2.0
    assert not other.done()
    other.cancel()


async def test_an_answer_that_a_change_of_owner_overtakes_still_counts() -> None:
    forwards = Forwards()
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(forwards.during("swarm.t.a", answer))
    await asyncio.sleep(0)
    forwards.moved("swarm.t.a")
    answer.set_result("late")
    assert await waiting == "late"


async def test_a_time_out_of_the_request_itself_stays_one() -> None:
    async def late() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await Forwards().during("swarm.t.a", late())
