"""Calls whose legacy server asks back: parked in a real runner, answered as a gateway does it."""

import asyncio
import functools
from typing import Any

import pytest
from tests.integration.asking_runner import (
    ASK,
    EVERYTHING,
    FORM,
    YES,
    asking_runner,
    curious,
    failure,
    got,
    questions,
)

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.usefixtures("broker")


@pytest.fixture
def start(connect_bus: Any) -> Any:
    return functools.partial(asking_runner, connect_bus)


async def test_call_is_parked_and_goes_on_with_the_answer(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("ask", declare=FORM)
        (key, question), *more = questions(asked).items()
        assert not more
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "Sure?"
        assert rig.parked == 1
        assert got(await rig.gateway.answer(asked, {key: YES, "unknown": 1})) == [YES]
        assert rig.parked == 0


async def test_questions_of_one_moment_are_asked_together_and_missing_ones_again(start) -> None:
    async with start() as rig:
        many = [ASK, ["roots/list", None], ["sampling/createMessage", {"messages": []}]]
        asked = await rig.gateway.call("ask", declare=EVERYTHING, questions=many)
        keys = {one["method"]: key for key, one in questions(asked).items()}
        assert len(keys) == 3
        roots = {"roots": [{"uri": "file:///a"}]}
        again = await rig.gateway.answer(asked, {keys["roots/list"]: roots})
        assert set(questions(again)) == set(keys.values()) - {keys["roots/list"]}
        assert again["result"]["requestState"] != asked["result"]["requestState"]
        made = {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"}
        rest = {keys["elicitation/create"]: YES, keys["sampling/createMessage"]: made}
        assert got(await rig.gateway.answer(again, rest)) == [YES, roots, made]


async def test_server_may_ask_again_and_old_answers_do_not_count_twice(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("wizard", declare=FORM, n=3)
        used: dict[str, Any] = {}
        for _ in range(3):
            (key, _), *_ = questions(asked).items()
            assert key not in used
            used[key] = {"action": "accept", "content": {"n": len(used)}}
            asked = await rig.gateway.answer(asked, used)
        assert [one["content"]["n"] for one in got(asked)] == [0, 1, 2]


async def test_what_the_caller_did_not_declare_on_this_call_is_refused_by_code(start) -> None:
    sample = ["sampling/createMessage", {"messages": [], "tools": [{"name": "t"}]}]
    link = ["elicitation/create", {"mode": "url", "message": "m", "url": "https://e.x"}]
    cases: list[tuple[dict[str, Any], list[Any], int, str]] = [
        ({}, ASK, -32601, "does not support elicitation"),
        ({"sampling": {}}, ASK, -32601, "does not support elicitation"),
        ({"sampling": {}}, sample, -32602, "does not support tools"),
        ({"elicitation": {}}, link, -32602, "does not support elicitation mode url"),
        ({"elicitation": {"url": {}}}, ASK, -32602, "does not support elicitation mode form"),
        ({"elicitation": {}}, ["roots/list", None], -32601, "does not support roots"),
        ({"elicitation": {}}, ["what/ever", {}], -32601, "does not know what/ever"),
    ]
    async with start() as rig:
        for declare, question, code, words in cases:
            (error,) = got(
                await rig.gateway.call("ask", declare=declare, questions=[question], who="ann")
            )
            assert error["code"] == code
            assert words in error["message"]
        assert rig.parked == 0


async def test_capabilities_of_the_repeated_call_hold_for_what_is_asked_after_it(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("wizard", declare=FORM, n=2)
        (key,) = questions(asked)
        second = got(await rig.gateway.answer(asked, {key: YES}, declare={"roots": {}}))[1]
        assert second["code"] == -32601


async def test_server_is_told_that_its_client_can_be_asked_everything(start) -> None:
    async with start() as rig:
        declared = got(await rig.gateway.call("seen"))[0]
        assert declared == {
            "roots": {},
            "sampling": {"tools": {}, "context": {}},
            "elicitation": {"form": {}, "url": {}},
        }


@pytest.mark.parametrize(
    "stranger",
    [{"who": "bob"}, {"tenant": "other"}, {"method": "prompts/get"}],
    ids=["principal", "tenant", "method"],
)
async def test_stranger_is_refused_as_if_the_call_did_not_exist(start, stranger) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("ask", declare=FORM)
        (key,) = questions(asked)
        refused = await failure(rig.gateway.answer(asked, {key: YES}, **stranger))
        unknown = {"result": {**asked["result"], "requestState": "x" * 32}}
        same = await failure(rig.gateway.answer(unknown, {key: YES}))
        assert refused.kind is same.kind is ErrorKind.LOST
        assert refused.message == same.message
        assert refused.outcome is Outcome.UNKNOWN
        assert got(await rig.gateway.answer(asked, {key: YES})) == [YES]


async def test_state_is_good_for_one_answer_only(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("ask", declare=FORM)
        (key,) = questions(asked)
        one, other = await asyncio.gather(
            rig.gateway.answer(asked, {key: YES}),
            rig.gateway.answer(asked, {key: {"action": "decline"}}),
            return_exceptions=True,
        )
        assert isinstance(one, dict) != isinstance(other, dict)
        lost = other if isinstance(one, dict) else one
        assert isinstance(lost, MeshError)
        assert lost.kind is ErrorKind.LOST


async def test_malformed_answer_is_refused_and_the_call_stays_parked(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("ask", declare=FORM)
        (key,) = questions(asked)
        for bad in (7, {}, {"action": "maybe"}):
            error = await failure(rig.gateway.answer(asked, {key: bad}))
            assert error.kind is ErrorKind.PARAMS
            assert key in error.message
        assert got(await rig.gateway.answer(asked, {key: YES})) == [YES]


async def test_error_of_a_legacy_client_reaches_the_server_as_error(start) -> None:
    async with start() as rig:
        sample = ["sampling/createMessage", {"messages": []}]
        asked = await rig.gateway.call("ask", declare=EVERYTHING, questions=[sample])
        (key,) = questions(asked)
        refused = {"_meta": {"mesh/error": {"code": -1, "message": "User rejected"}}}
        (error,) = got(await rig.gateway.answer(asked, {key: refused}))
        assert error == {"code": -1, "message": "User rejected"}


async def test_unanswered_call_is_cancelled_in_order_when_its_time_is_over(start) -> None:
    async with start(ttl_s=0.2) as rig:
        many = [ASK, ["roots/list", None]]
        asked = await rig.gateway.call("ask", declare=EVERYTHING, questions=many)
        await eventually(lambda: rig.parked == 0)

        async def told() -> bool:
            return len(await rig.gateway.seen()) == 3

        await eventually(told)
        cancel, refused, last = await rig.gateway.seen()
        assert cancel == {"action": "cancel"}
        assert refused["code"] == -32603
        assert last == "cancelled"
        (key, *_) = questions(asked)
        assert (await failure(rig.gateway.answer(asked, {key: YES}))).kind is ErrorKind.LOST


async def test_progress_goes_on_for_the_repeated_call_under_its_own_token(start) -> None:
    async with start() as rig:
        many = [ASK, ASK]
        asked = await rig.gateway.call("ask", declare=FORM, questions=many, token="one")
        first, second = questions(asked)
        asked = await rig.gateway.answer(asked, {first: YES}, token=2)
        await rig.gateway.answer(asked, {second: YES}, token=3)
        seen = [
            (one["params"]["progressToken"], one["params"]["progress"])
            for one in rig.gateway.frames
        ]
        assert seen == [("one", 0.5), (2, 1), (3, 2)]


async def test_progress_that_does_not_grow_is_dropped(start) -> None:
    async with start() as rig:
        await rig.gateway.call("backwards", token="t")
        assert [one["params"]["progress"] for one in rig.gateway.frames] == [1, 2, 5]


async def test_question_that_the_server_takes_back_is_open_no_more(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("takes_back", declare=FORM)
        (key,) = questions(asked)
        assert got(await rig.gateway.call("back")) == "taken back"
        assert got(await rig.gateway.answer(asked, {key: YES})) == "without you"
        assert await rig.gateway.seen() == []


async def test_result_that_came_without_the_answer_waits_for_the_repeated_call(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("forgets", declare=FORM, n=0.05)
        (key,) = questions(asked)

        async def ended() -> bool:
            return await rig.gateway.seen() == [{"action": "cancel"}]

        await eventually(ended)
        assert got(await rig.gateway.answer(asked, {key: YES})) == "forgot"


async def test_notice_that_a_link_is_done_goes_to_the_call_that_asked(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("link", declare=EVERYTHING)
        ((key, question),) = questions(asked).items()
        assert question["params"]["elicitationId"] == "e1"
        assert got(await rig.gateway.answer(asked, {key: {"action": "accept"}}))
        (note,) = rig.gateway.frames
        assert note["method"] == "notifications/elicitation/complete"
        assert note["params"] == {"elicitationId": "e1"}


async def test_links_that_must_be_finished_first_are_asked_for(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("pay_first", declare=EVERYTHING)
        ((key, question),) = questions(asked).items()
        assert question["params"]["mode"] == "url"
        assert question["params"]["url"] == "https://e.x/"
        assert "requestState" not in asked["result"]
        again = await rig.gateway.call(
            "pay_first", declare=EVERYTHING, responses={key: {"action": "accept"}}
        )
        assert got(again) == "paid"
        refused = await rig.gateway.call("pay_first", declare=FORM)
        assert refused["error"]["code"] == -32021
        assert refused["error"]["data"]["requiredCapabilities"] == {"elicitation": {"url": {}}}
        await rig.gateway.call("pay_first")
        declined = await rig.gateway.call(
            "pay_first", declare=EVERYTHING, responses={key: {"action": "decline"}}
        )
        assert declined["error"]["code"] == -31017
        assert declined["error"]["data"]["upstreamCode"] == -32042


async def test_second_question_under_an_open_id_is_refused(start) -> None:
    async with start() as rig:
        answer = got(await rig.gateway.call("reuses", declare=FORM))
        assert answer["code"] == -32600


async def test_question_outside_a_call_is_refused(start) -> None:
    async with start() as rig:
        await rig.gateway.call("asks_beside", declare=EVERYTHING)

        async def refused() -> bool:
            seen = await rig.gateway.seen()
            return [one["code"] for one in seen] == [-32601]

        await eventually(refused)


async def test_server_that_dies_while_parked_gives_its_error_to_the_next_answer(start) -> None:
    async with start() as rig:
        asked = await rig.gateway.call("dies", declare=FORM, n=0.1)
        (key,) = questions(asked)

        async def dead() -> bool:
            try:
                await rig.gateway.call("plain", timeout_s=0.05)
            except MeshError:
                return True
            return False

        await eventually(dead)
        error = await failure(rig.gateway.answer(asked, {key: YES}))
        assert error.kind is ErrorKind.UPSTREAM
        assert error.outcome is Outcome.UNKNOWN
        assert error.data["upstream"] == "curious"
        assert rig.parked == 0


async def test_call_that_does_not_ask_is_not_parked_and_can_be_cancelled(start) -> None:
    async with start() as rig:
        assert got(await rig.gateway.call("slow", declare=EVERYTHING, n=0.05)) == "slow"
        running = asyncio.ensure_future(rig.gateway.call("slow", declare=EVERYTHING, n=5))
        await eventually(lambda: any(one.inflight for one in rig.service.endpoints))
        running.cancel()

        async def told() -> bool:
            return await rig.gateway.seen() == ["cancelled"]

        await eventually(told)


async def test_limits_of_parked_calls_hold_per_runner_and_tenant(start) -> None:
    servers = (curious(), curious("second"), curious("third"))
    async with start(*servers, calls=3, calls_per_tenant=2, ttl_s=0.5) as rig:
        call = rig.gateway.call
        for _ in range(2):
            assert questions(await call("ask", declare=FORM))
        (error,) = got(await call("ask", declare=FORM))
        assert "this tenant" in error["message"]
        assert questions(await call("ask", declare=FORM, tenant="other", server="second"))
        (error,) = got(await call("ask", declare=FORM, tenant="third", server="third"))
        assert "on this runner" in error["message"]
        await eventually(lambda: rig.parked == 0)
        assert questions(await call("ask", declare=FORM))


async def test_resumed_call_is_cancelled_at_the_server_when_its_caller_leaves(
    start, tmp_path
) -> None:
    log = tmp_path / "seen"
    log.touch()
    async with start() as rig:
        asked = await rig.gateway.call("forgets", declare=FORM, n=5, log=str(log))
        (key,) = questions(asked)
        going_on = asyncio.ensure_future(rig.gateway.answer(asked, {key: YES}))
        await eventually(lambda: '"accept"' in log.read_text())
        going_on.cancel()
        await eventually(lambda: '"cancelled"' in log.read_text())
        assert rig.parked == 0


async def test_unsigned_call_in_development_is_bound_to_its_tenant(start) -> None:
    async with start(unsigned=True) as rig:
        rig.gateway.signs = False
        asked = await rig.gateway.call("ask", declare=FORM)
        (key,) = questions(asked)
        for stranger in ({"tenant": "other"}, {"who": "ann"}):
            rig.gateway.signs = "who" in stranger
            error = await failure(rig.gateway.answer(asked, {key: YES}, **stranger))
            assert error.kind is ErrorKind.LOST
        rig.gateway.signs = False
        assert got(await rig.gateway.answer(asked, {key: YES})) == [YES]
