"""Servers that ask back: official SDK, several callers at once, deaths, drain, nothing left."""

import asyncio
import functools
import gc
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration.asking_runner import (
    EVERYTHING,
    FORM,
    TESTS,
    YES,
    answers,
    asking_runner,
    curious,
    failure,
    gateway_alone,
    got,
    questions,
)

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, Outcome
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from tool_runner.dialogues import Dialogue

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("broker")]


@pytest.fixture
def start(connect_bus: Any) -> Any:
    return functools.partial(asking_runner, connect_bus)


def asking() -> ServerDefinition:
    return ServerDefinition(
        name="asking", command=sys.executable, args=(str(TESTS / "asking_server.py"),)
    )


def text(answer: dict[str, Any]) -> str:
    assert answer["result"]["resultType"] == "complete", answer
    return answer["result"]["content"][0]["text"]


async def test_tools_of_an_official_server_ask_a_modern_caller(start) -> None:
    async with start(asking()) as rig:
        call = functools.partial(rig.gateway.call, server="asking", declare=EVERYTHING)
        asked = await call("choose", token="p")
        ((key, question),) = questions(asked).items()
        assert question["params"]["requestedSchema"]["properties"]["colour"]["type"] == "string"
        chosen = {"action": "accept", "content": {"colour": "red"}}
        assert text(await rig.gateway.answer(asked, {key: chosen}, token="q")) == "accept: red"
        progress = [one["params"]["progressToken"] for one in rig.gateway.frames]
        assert progress == ["p", "q"]

        asked = await call("sample")
        ((key, question),) = questions(asked).items()
        assert question["method"] == "sampling/createMessage"
        made = {"role": "assistant", "content": {"type": "text", "text": "yo"}, "model": "m"}
        assert text(await rig.gateway.answer(asked, {key: made})) == "yo"

        asked = await call("roots")
        ((key, question),) = questions(asked).items()
        assert question["method"] == "roots/list"
        roots = {"roots": [{"uri": "file:///a"}, {"uri": "file:///b"}]}
        assert text(await rig.gateway.answer(asked, {key: roots})) == "file:///a,file:///b"

        declined = await call("choose")
        (key,) = questions(declined)
        answer = await rig.gateway.answer(declined, {key: {"action": "decline"}})
        assert text(answer) == "decline: None"


async def test_prompt_of_an_official_server_asks_too(start) -> None:
    async with start(asking()) as rig:
        asked = await rig.gateway.request(
            "asking", "prompts/get", {"name": "greet", "arguments": {}}, declare=FORM
        )
        (key,) = questions(asked)
        chosen = {"action": "accept", "content": {"colour": "red"}}
        answer = await rig.gateway.answer(asked, {key: chosen}, method="prompts/get")
        assert answer["result"]["messages"][0]["content"]["text"] == "Hello red"


async def test_caller_without_the_capability_learns_which_one_is_missing(start) -> None:
    async with start(asking()) as rig:
        for declare in ({"sampling": {}}, {}):
            answer = await rig.gateway.call("choose", server="asking", declare=declare)
            error = answer["error"]
            assert error["code"] == -32021
            assert error["data"]["requiredCapabilities"] == {"elicitation": {}}
            assert error["data"]["outcome"] == "unknown"
            assert error["data"]["upstream"] == "asking"


async def test_resource_and_completion_requests_ask_where_they_may(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.request(
            "curious", "resources/read", {"uri": "a://b"}, declare=FORM
        )
        (key,) = questions(asked)
        answer = await rig.gateway.answer(asked, {key: YES}, method="resources/read")
        assert answer["result"]["got"] == YES
        params = {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {}}
        answer = await rig.gateway.request("curious", "completion/complete", params, declare=FORM)
        assert answer["result"]["got"]["code"] == -32601
        assert "only during" in answer["result"]["got"]["message"]


async def test_question_among_several_callers_is_never_guessed(start) -> None:
    async with start() as rig:
        call = rig.gateway.call
        beside = asyncio.ensure_future(call("slow", who="bob", declare=FORM, n=0.4))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        (error,) = got(await call("ask", who="ann", declare=FORM))
        assert error["code"] == -32603
        assert "which of several callers" in error["message"]
        assert got(await beside) == "slow"
        # From now on it is kept apart: bob's call waits, and ann's question is hers.
        beside = asyncio.ensure_future(call("slow", who="bob", declare=FORM, n=0.3))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        asked = await call("ask", who="ann", declare=FORM)
        (key,) = questions(asked)
        assert beside.done()
        assert got(await rig.gateway.answer(asked, {key: YES}, who="ann")) == [YES]


async def test_caller_who_declared_nothing_is_no_excuse_to_guess(start) -> None:
    async with start() as rig:
        # bob's call asks, ann's is the only one that could be asked: it must not become hers.
        ann = asyncio.ensure_future(rig.gateway.call("slow", who="ann", declare=FORM, n=0.3))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        (error,) = got(await rig.gateway.call("ask", who="bob"))
        assert error["code"] == -32603
        assert got(await ann) == "slow"


async def test_tool_known_to_ask_casts_no_suspicion_on_others(start) -> None:
    async with start() as rig:
        call = rig.gateway.call
        asked = await call("ask", who="ann", declare=FORM)
        await rig.gateway.answer(asked, dict.fromkeys(questions(asked), YES), who="ann")
        beside = asyncio.ensure_future(call("slow", who="ann", declare=FORM, n=0.3))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        (error,) = got(await call("ask", who="bob"))
        assert error["code"] == -32603
        assert got(await beside) == "slow"
        # Two of them still run side by side.
        began = asyncio.get_running_loop().time()
        both = (call("slow", who=who, declare=FORM, n=0.4) for who in ("ann", "bob"))
        assert [got(one) for one in await asyncio.gather(*both)] == ["slow", "slow"]
        assert asyncio.get_running_loop().time() - began < 0.8


async def test_questions_of_one_callers_calls_at_once_are_all_answered(start) -> None:
    async with start() as rig:
        waiting = [
            asyncio.ensure_future(rig.gateway.call("wizard", declare=FORM, n=2)) for _ in range(4)
        ]

        async def finish(asked: dict[str, Any]) -> Any:
            for _ in range(10):
                if asked["result"]["resultType"] == "complete":
                    return got(asked)
                answer = dict.fromkeys(questions(asked), YES)
                asked = await rig.gateway.answer(asked, answer)
            raise AssertionError(asked)

        results = [await finish(await one) for one in waiting]
        assert results == [[YES, YES]] * 4


async def test_others_go_on_beside_a_parked_call_but_who_asks_waits(start) -> None:
    async with start() as rig:
        call = rig.gateway.call
        asked = await call("wizard", who="ann", declare=FORM, n=2)
        assert got(await call("slow", who="bob", declare=FORM, n=0)) == "slow"
        error = await failure(call("wizard", who="bob", declare=FORM, timeout_s=0.2))
        assert error.outcome is Outcome.NOT_EXECUTED
        other = asyncio.ensure_future(call("wizard", who="bob", declare=FORM))
        for _ in range(2):
            (key,) = questions(asked)
            asked = await rig.gateway.answer(asked, {key: YES}, who="ann")
        assert got(asked) == [YES, YES]
        (key,) = questions(await other)
        assert got(await rig.gateway.answer(await other, {key: YES}, who="bob")) == [YES]


async def test_cancelled_call_of_another_caller_is_not_mistaken(start) -> None:
    async with start() as rig:
        late = asyncio.ensure_future(rig.gateway.call("late", who="bob", declare=FORM, n=0.3))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        late.cancel()

        async def told() -> bool:
            return "cancelled" in await rig.gateway.seen()

        await eventually(told)
        # The server ignores the cancel and asks for bob while only ann's call is there.
        assert got(await rig.gateway.call("slow", who="ann", declare=FORM, n=0.5)) == "slow"
        assert (await rig.gateway.seen())[-1]["code"] == -32603


async def test_suspects_that_never_ask_are_cleared(start) -> None:
    async with start() as rig:
        call = rig.gateway.call
        beside = asyncio.ensure_future(call("slow", who="bob", declare=FORM, n=0.1))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        got(await call("ask", who="ann", declare=FORM))
        await beside
        for _ in range(3):
            await call("slow", who="bob", declare=FORM, n=0)
        asked = await call("wizard", who="ann", declare=FORM)
        assert questions(asked)
        assert got(await call("slow", who="bob", declare=FORM, n=0, timeout_s=1)) == "slow"


async def test_runner_that_drains_ends_parked_calls_in_order(start, tmp_path) -> None:
    log = tmp_path / "seen"
    async with start() as rig:
        assert questions(await rig.gateway.call("ask", declare=FORM, log=str(log)))
    said = log.read_text().split("\n")
    assert said[:2] == ['{"action": "cancel"}', '"cancelled"']


async def test_runner_that_stops_refuses_answers_as_lost(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("ask", declare=FORM)
        (key,) = questions(asked)
        await rig.service.drain(accept_s=0.0, drain_s=2.0)
        error = await failure(rig.gateway.answer(asked, {key: YES}))
        assert error.kind in {ErrorKind.LOST, ErrorKind.NO_RUNNER}


async def test_a_thousand_abandoned_calls_leave_nothing(start) -> None:
    async with start(ttl_s=1.0, calls_per_tenant=1000) as rig:
        for _ in range(50):
            batch = [rig.gateway.call("ask", declare=FORM, timeout_s=20) for _ in range(20)]
            for asked in await asyncio.gather(*batch):
                assert questions(asked)
        await eventually(lambda: rig.parked == 0, timeout_s=10)

        def left() -> bool:
            gc.collect()
            return any(isinstance(one, Dialogue) for one in gc.get_objects())

        await eventually(lambda: not left())
        assert "dialogue" not in rig.service.tasks.counts()
        told = await rig.gateway.seen()
        assert told.count({"action": "cancel"}) == told.count("cancelled") == 1000


async def test_killed_runner_gives_no_responders_to_the_answer_at_once(
    broker: Broker, connect_bus: Any, tmp_path: Path
) -> None:
    server = curious()
    file = tmp_path / "runner-1.toml"
    file.write_text(
        f'[service]\ninstance = "runner-1"\n[bus]\nurls = ["{broker.url}"]\n'
        f'nkey_seed_file = "{broker.seed_for("tool-runner", "runner-1")}"\n'
        f'[[mcp_servers]]\nname = "curious"\ncommand = "{server.command}"\n'
        f'args = ["{server.args[0]}"]\n'
    )
    async with gateway_alone(connect_bus) as gateway:
        with (tmp_path / "runner-1.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tool_runner", "--config", str(file), stdout=log, stderr=log
            )
        try:
            await eventually(lambda: answers(gateway, "curious"), timeout_s=15.0)
            asked = await gateway.call("ask", declare=FORM)
            (key,) = questions(asked)
        finally:
            process.kill()
            await process.wait()
        began = asyncio.get_running_loop().time()
        error = await failure(gateway.answer(asked, {key: YES}))
        assert error.kind in {ErrorKind.NO_RUNNER, ErrorKind.LOST}
        assert asyncio.get_running_loop().time() - began < 2.5


async def test_modern_server_asks_and_is_answered_in_its_own_words(start) -> None:
    modern = ServerDefinition(
        name="modern", command=sys.executable, args=(str(TESTS / "modern_server.py"),)
    )
    declare = {"roots": {}, "experimental": {"x": {"y": 1.5}}}
    async with start(modern) as rig:
        asked = await rig.gateway.call("ask", server="modern", declare=declare)
        assert questions(asked) == {"mine": {"method": "roots/list"}}
        assert asked["result"]["requestState"] == "own\u00e9 state"
        assert asked["result"]["_meta"] == {"vendor/x": 1}
        assert rig.parked == 0
        answer = {"mine": {"roots": []}}
        again = await rig.gateway.call(
            "ask",
            server="modern",
            declare=declare,
            responses=answer,
            state=asked["result"]["requestState"],
        )
        received = got(again)
        assert received["inputResponses"] == answer
        assert received["requestState"] == asked["result"]["requestState"]
        assert received["_meta"]["io.modelcontextprotocol/clientCapabilities"] == declare

        needs = await rig.gateway.call("needs", server="modern")
        assert needs["error"]["code"] == -32021
        assert needs["error"]["data"]["requiredCapabilities"] == {"sampling": {}}


async def test_server_is_not_taken_for_dead_when_callers_give_up_in_its_dialogues(start) -> None:
    # A caller gives up after as long as a call may take, while a tool that asks runs alone.
    async with start(curious(timeout_s=0.4)) as rig:
        call = rig.gateway.call
        asked = await call("forgets", who="ann", declare=FORM, n=0.1)
        await rig.gateway.answer(asked, dict.fromkeys(questions(asked), YES), who="ann")
        before = got(await call("pid"))
        for _ in range(2):
            asked = await call("forgets", who="ann", declare=FORM, n=30)
            error = await failure(
                rig.gateway.answer(asked, dict.fromkeys(questions(asked), YES), who="ann")
            )
            assert error.kind is ErrorKind.DEADLINE
        assert got(await call("pid")) == before
