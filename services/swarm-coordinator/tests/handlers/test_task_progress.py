"""What agents tell of their steps is shown wherever somebody looks at the task."""

import asyncio
from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.swarm_replicas import TaskReached
from mcp_proto.errors import MeshError
from swarm_coordinator.handlers import dispatch
from swarm_coordinator.handlers.asking import Resumption, asked_of, client_of, resumption_of
from swarm_coordinator.handlers.task_progress import MESSAGE_CHARS_MAX
from swarm_coordinator.handlers.task_records import record_of

Room = Any
FOUR = {
    "description": "d",
    "parallelism": 4,
    "phases": [{"name": "p", "prompt": "go", "fanout": {"items": [1, 2, 3, 4]}}],
}


async def given(room: Room, task: object = FOUR) -> tuple[Any, Any]:
    owner = await room.swarm("tool", "tool")
    made = await room.call("task_orchestrate", task=task)
    return owner, owner.state.tasks[made["taskId"]]


async def test_status_names_the_steps_that_run_and_what_they_told(room: Room) -> None:
    owner, task = await given(room)
    first, second = sorted(owner.work())[:2]
    owner.report(first, 2, 5, "half of it")
    owner.report(second, 7)

    told = await room.call("task_status", taskId=task.id)

    assert told["progress"] == {"done": 0, "total": 4}
    shown = {one["step"]: one for one in told["steps"]}
    assert len(shown) == 4
    by_item = {item.partition(".")[2].rpartition("-")[0]: item for item in (first, second)}
    one, other = (shown[step] for step in by_item)
    assert (one["progress"], one["total"], one["message"]) == (2, 5, "half of it")
    assert one["reportedAt"] is not None
    assert (other["progress"], other["total"], other["message"]) == (7, None, None)
    assert {step["progress"] for name, step in shown.items() if name not in by_item} == {None}
    assert told["message"].startswith("running: 0 of 4 steps; ")
    (entry,) = (await room.call("task_list"))["tasks"]
    assert entry["message"] == told["message"]


async def test_steps_that_ended_are_no_longer_shown(room: Room) -> None:
    owner, task = await given(room)
    owner.report(next(iter(owner.work())), 1, 2)
    owner.finish_all(1)
    told = await room.call("task_status", taskId=task.id)
    assert (told["steps"], told["message"]) == ([], None)


async def test_record_of_an_mcp_task_counts_shares_of_steps_that_run(room: Room) -> None:
    owner, task = await given(room)
    first, second, *_ = sorted(owner.work())
    owner.finish(first)
    owner.report(second, 1, 4, "x" * 1_000)

    record = record_of(owner.state, task, reports=owner.reported)

    assert (record.progress, record.total) == (1.25, 4.0)
    assert record.message.startswith("running: 1 of 4 steps; ")
    assert len(record.message) == MESSAGE_CHARS_MAX
    owner.finish_all()
    record = record_of(owner.state, task, reports=owner.reported)
    assert (record.status, record.progress, record.message) == ("completed", None, "completed")


async def test_a_record_is_newer_when_only_progress_was_told(room: Room) -> None:
    owner, task = await given(room)
    before = record_of(owner.state, task, reports=owner.reported).updated_ms
    room.swarms.clock.advance(3)
    owner.report(next(iter(owner.work())), 1, 2)
    after = record_of(owner.state, task, reports=owner.reported).updated_ms
    assert after == before + 3_000


async def test_a_report_above_its_total_counts_as_one_step(room: Room) -> None:
    owner, task = await given(room)
    for item in owner.work():
        owner.report(item, 9, 3)
    assert record_of(owner.state, task, reports=owner.reported).progress == 4.0


async def test_a_waiting_caller_with_a_token_is_told_to_the_end(room: Room) -> None:
    owner = await room.swarm("tool", "tool")
    told: list[TaskReached] = []
    half = asyncio.Event()

    def tell(reached: TaskReached) -> None:
        told.append(reached)
        if 0 < reached.progress < 1:
            half.set()

    caller = msgspec.structs.replace(room.caller, tell=tell)
    arguments = msgspec.Raw(msgspec.json.encode({"task": FOUR, "wait": True}))
    calling = asyncio.ensure_future(
        dispatch.call_on_owner(owner, caller, "task_orchestrate", arguments)
    )
    await owner.working()
    owner.report(next(iter(owner.work())), 1, 2)
    async with asyncio.timeout(5):
        await half.wait()
    owner.finish_all(1)
    await calling

    figures = [one.progress for one in told]
    assert figures == sorted(figures)
    assert (told[-1].progress, told[-1].total, told[-1].message) == (4, 4, "completed")


# Questions in mid-call

FORM = msgspec.Raw(b'{"elicitation":{}}')
APPROVED = {
    "description": "d",
    "phases": [{"name": "p", "prompt": "go", "approval": True}],
}


async def asked(room: Room, client: msgspec.Raw, tool: str = "task_orchestrate") -> Any:
    """A call that waits for a task which needs an approval; the result once there is one."""
    owner = await room.swarm("tool")
    caller = msgspec.structs.replace(room.caller, client=client, deadline_s=owner.monotonic() + 1)
    arguments: dict[str, object] = {"task": APPROVED, "wait": True}
    if tool == "task_result":
        made = await room.call("task_orchestrate", task=APPROVED)
        arguments = {"taskId": made["taskId"], "wait": True}
    raw = msgspec.Raw(msgspec.json.encode(arguments))
    return owner, caller, await dispatch.call_on_owner(owner, caller, tool, raw)


async def test_a_client_that_takes_questions_is_asked_and_its_repeat_goes_on(room: Room) -> None:
    for tool in ("task_orchestrate", "task_result"):
        owner, caller, body = await asked(room, FORM, tool)
        result = msgspec.json.decode(body)
        assert result["resultType"] == "input_required"
        ((key, request),) = result["inputRequests"].items()
        assert request["method"] == "elicitation/create"
        (field,) = request["params"]["requestedSchema"]["properties"]

        answer = msgspec.Raw(msgspec.json.encode({"action": "accept", "content": {field: True}}))
        params = {"requestState": result["requestState"], "inputResponses": {key: answer}}
        given = resumption_of(msgspec.Raw(msgspec.json.encode(params)))
        assert given is not None
        caller = msgspec.structs.replace(caller, deadline_s=owner.monotonic() + 5)
        repeat = asyncio.ensure_future(dispatch.resume(owner, caller, tool, given))
        await owner.working()
        owner.finish_all({"n": 1})
        done = room.checked(tool, msgspec.json.decode(await repeat))
        assert done["structuredContent"]["status"] == "completed"
        assert done["structuredContent"]["result"] == {"n": 1}


async def test_a_repeat_without_the_answer_is_asked_again(room: Room) -> None:
    owner, caller, body = await asked(room, FORM)
    first = msgspec.json.decode(body)
    given = Resumption(first["requestState"], {})
    assert (
        msgspec.json.decode(await dispatch.resume(owner, caller, "task_orchestrate", given))
        == first
    )


async def test_who_cannot_be_asked_is_not(room: Room) -> None:
    for client in (b"", b"{}", b'{"sampling":{}}', b'{"elicitation":{"url":{}}}', b"7"):
        owner, caller, _ = await with_no_wait(room, msgspec.Raw(client))
        (task,) = owner.state.tasks.values()
        assert task.requests
        assert asked_of(caller, task) == {}


async def with_no_wait(room: Room, client: msgspec.Raw) -> Any:
    owner = await room.swarm("tool")
    made = await room.call("task_orchestrate", task=APPROVED)
    return owner, msgspec.structs.replace(room.caller, client=client), made


async def test_a_stranger_cannot_answer_in_anothers_call(room: Room) -> None:
    owner, _, body = await asked(room, FORM)
    given = Resumption(msgspec.json.decode(body)["requestState"], {})
    bob = room.someone_else("bob").caller
    with pytest.raises(MeshError, match="unknown task"):
        await dispatch.resume(owner, bob, "task_orchestrate", given)
    with pytest.raises(MeshError, match="unknown task"):
        await dispatch.resume(owner, room.caller, "task_result", Resumption("task_0", {}))


def test_only_a_call_with_state_is_a_repeat() -> None:
    assert resumption_of(msgspec.Raw(b'{"name":"x","arguments":{"requestState":1}}')) is None
    with pytest.raises(MeshError, match="malformed"):
        resumption_of(msgspec.Raw(b'{"requestState":7}'))
    assert not bytes(client_of(msgspec.Raw(b'{"arguments":{"elicitation":{}}}')))
