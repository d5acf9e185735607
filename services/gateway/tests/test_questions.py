"""Open questions: answered by their owner only, in time, and never without a bound."""

import asyncio

import msgspec
import pytest

from gateway import questions as questions_module
from gateway.questions import Questions, instance_of, progress_of
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.jsonrpc import ErrorResponse, Notification, Response

RESULT = msgspec.Raw(b'{"action":"accept"}')


def ask(questions: Questions, owner: str = "s1", wait_s: float = 5):
    return questions.ask(owner, wait_s=wait_s, latest_s=10)


async def test_only_its_owner_answers_a_question_and_only_once() -> None:
    questions = Questions("gateway-1")
    question = ask(questions)
    assert not questions.take("s2", Response(question.id, RESULT))
    assert not questions.take("s1", Response("gateway-1.guess", RESULT))
    assert not questions.take("s1", ErrorResponse(None, ErrorObject(-1, "no")))
    assert not question.answered.done()
    assert questions.take("s1", Response(question.id, RESULT))
    assert questions.take("s1", ErrorResponse(question.id, ErrorObject(-1, "no")))
    assert bytes(question.answered.result()) == bytes(RESULT)  # type: ignore[arg-type]
    questions.close(question)
    assert not questions.take("s1", Response(question.id, RESULT))
    assert len(questions) == 0


async def test_ids_name_the_process_and_cannot_be_guessed() -> None:
    questions = Questions("gateway-1")
    ids = {str(ask(questions).id) for _ in range(50)}
    assert len(ids) == 50
    assert all(instance_of(one) == "gateway-1" and len(one) >= 32 for one in ids)
    assert [ask(Questions()).id, ask(Questions()).id] == ["mesh-1", "mesh-1"]


@pytest.mark.parametrize("foreign", [None, 5, "", "x", ".x", "a b.c", "é.x", "mesh-1"])
async def test_ids_of_others_name_no_process(foreign: object) -> None:
    assert instance_of(foreign) == ""  # type: ignore[arg-type]


async def test_progress_gives_the_whole_time_again_up_to_the_latest() -> None:
    questions = Questions("gateway-1")
    question = questions.ask("s1", wait_s=0.2, latest_s=0.3)
    first = question.deadline
    await asyncio.sleep(0.05)
    assert not questions.progress("s2", question.id)
    assert not questions.progress("s1", None)
    assert question.deadline == first
    assert questions.progress("s1", question.id)
    later = question.deadline
    assert first < later
    await asyncio.sleep(0.1)
    assert questions.progress("s1", question.id)
    assert question.deadline == pytest.approx(first + 0.1, abs=0.02)


async def test_questions_of_one_owner_and_of_the_process_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions_module, "OPEN_PER_OWNER_MAX", 2)
    monkeypatch.setattr(questions_module, "OPEN_MAX", 3)
    questions = Questions("gateway-1")
    asked = [ask(questions), ask(questions)]
    for owner in ("s1", "s2", "s3"):
        if owner == "s2":
            asked.append(ask(questions, owner))
            continue
        with pytest.raises(MeshError) as caught:
            ask(questions, owner)
        assert caught.value.kind is ErrorKind.OVERLOADED
    for one in asked:
        questions.close(one)
        questions.close(one)
    assert len(questions) == 0
    ask(questions)


async def test_questions_of_an_owner_that_is_gone_are_answered_in_its_place() -> None:
    questions = Questions("gateway-1")
    gone, stays = ask(questions), ask(questions, "s2")
    questions.ender("s1", ErrorObject(-32000, "gone"))()
    assert gone.answered.result() == ErrorObject(-32000, "gone")
    assert not stays.answered.done()


def test_progress_names_its_question() -> None:
    def of(params: bytes) -> object:
        return progress_of(Notification("notifications/progress", msgspec.Raw(params)))

    assert of(b'{"progressToken":"g.1","progress":1}') == "g.1"
    assert of(b'{"progressToken":5}') == 5
    assert of(b"{}") is None
    assert of(b'{"progressToken":{}}') is None
