"""Idempotency keys of calls whose legacy server asks back: one execution, no stale question."""

import asyncio
import functools
from typing import Any

import pytest
from tests.integration.asking_runner import (
    FORM,
    TENANT,
    YES,
    Gateway,
    asking_runner,
    failure,
    got,
    meta,
    questions,
)

from mcp_proto import subjects
from mcp_proto.contracts.tasks import IDEMPOTENCY_KEY
from mcp_proto.errors import ErrorKind
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.usefixtures("broker")
NO = {"action": "decline"}


@pytest.fixture
def start(connect_bus: Any) -> Any:
    return functools.partial(asking_runner, connect_bus)


async def keyed(
    gateway: Gateway,
    *,
    tool: str = "wizard",
    key: str = "k1",
    of: dict[str, Any] | None = None,
    answers: dict[str, Any] | None = None,
    timeout_s: float = 5.0,
    **arguments: Any,
) -> dict[str, Any]:
    """A call with a key; with ``of``, its repeat with answers where that is parked."""
    members = {**meta(FORM), IDEMPOTENCY_KEY: key}
    params = {"name": tool, "arguments": arguments, "_meta": members}
    subject = subjects.call(TENANT, "curious", tool)
    if of is not None:
        instance = of["result"]["_meta"]["mesh/parked"]["instance"]
        subject = subjects.instance(TENANT, instance, "answer")
        params["requestState"] = of["result"]["requestState"]
        params["inputResponses"] = answers
    return await gateway._send(subject, "tools/call", params, "ann", timeout_s)


async def asks(rig: Any) -> int:
    """How many questions its server has got an answer to: each execution asks."""
    return len(await rig.gateway.seen())


async def test_a_repeat_gets_the_open_question_and_after_the_end_the_result(start) -> None:
    async with start() as rig:
        first = await keyed(rig.gateway, n=2)
        assert (await keyed(rig.gateway, n=2))["result"] == first["result"]
        assert rig.parked == 1
        (key,) = questions(first)
        second = await keyed(rig.gateway, of=first, answers={key: YES}, n=2)
        # The stale question is gone, for the repeat of the call and for that of the answer.
        assert (await keyed(rig.gateway, n=2))["result"] == second["result"]
        again = await keyed(rig.gateway, of=first, answers={key: YES}, n=2)
        assert again["result"] == second["result"]
        assert second["result"]["requestState"] != first["result"]["requestState"]
        (key,) = questions(second)
        final = await keyed(rig.gateway, of=second, answers={key: NO}, n=2)
        assert got(final) == [YES, NO]
        for repeat in (
            await keyed(rig.gateway, n=2),
            await keyed(rig.gateway, of=first, answers={"ask-1": NO}, n=2),
            await keyed(rig.gateway, of=second, answers={key: YES}, n=2),
        ):
            assert repeat["result"] == final["result"]
        assert rig.parked == 0
        assert await asks(rig) == 2


async def test_a_malformed_answer_leaves_the_question_open(start) -> None:
    async with start() as rig:
        first = await keyed(rig.gateway, n=1)
        (key,) = questions(first)
        error = await failure(keyed(rig.gateway, of=first, answers={key: 7}, n=1))
        assert error.kind is ErrorKind.PARAMS
        assert (await keyed(rig.gateway, n=1))["result"] == first["result"]
        assert got(await keyed(rig.gateway, of=first, answers={key: YES}, n=1)) == [YES]
        assert await asks(rig) == 1


async def test_two_answers_at_once_go_on_once_and_get_the_same(start) -> None:
    async with start() as rig:
        first = await keyed(rig.gateway, n=1)
        (key,) = questions(first)
        calls = [keyed(rig.gateway, of=first, answers={key: YES}, n=1) for _ in range(4)]
        assert [got(one) for one in await asyncio.gather(*calls)] == [[YES]] * 4
        assert await asks(rig) == 1


async def test_a_repeat_after_nobody_answered_is_told_that_the_outcome_is_unknown(start) -> None:
    async with start(ttl_s=0.3) as rig:
        first = await keyed(rig.gateway, n=1)
        await eventually(lambda: rig.parked == 0, timeout_s=5)

        async def error() -> dict[str, Any]:
            return (await keyed(rig.gateway, n=1)).get("error", {})

        async with asyncio.timeout(5):
            while not (told := await error()):
                assert (await keyed(rig.gateway, n=1)).get("result", first["result"])
        assert told["code"] == -31010
        assert told["data"]["outcome"] == "unknown"
        late = await keyed(rig.gateway, of=first, answers={"ask-1": YES}, n=1)
        assert late["error"] == told
        assert rig.parked == 0


async def test_a_caller_that_left_before_the_question_finds_it_with_its_repeat(start) -> None:
    async with start() as rig:
        call = asyncio.create_task(keyed(rig.gateway, n=1))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        found = await keyed(rig.gateway, n=1)
        (key,) = questions(found)
        assert got(await keyed(rig.gateway, of=found, answers={key: YES}, n=1)) == [YES]
        assert await asks(rig) == 1


async def test_a_state_that_comes_to_another_place_begins_nothing_anew(start) -> None:
    async with start() as rig:
        first = await keyed(rig.gateway, n=1)
        members = {**meta(FORM), IDEMPOTENCY_KEY: "k1"}
        params = {
            "name": "wizard",
            "arguments": {"n": 1},
            "_meta": members,
            "requestState": first["result"]["requestState"],
            "inputResponses": {"ask-1": YES},
        }
        subject = subjects.call(TENANT, "curious", "wizard")
        there = await rig.gateway._send(subject, "tools/call", params, "ann", 5.0)
        assert there["result"] == first["result"]
        assert rig.parked == 1
        (key,) = questions(first)
        assert got(await keyed(rig.gateway, of=first, answers={key: YES}, n=1)) == [YES]
