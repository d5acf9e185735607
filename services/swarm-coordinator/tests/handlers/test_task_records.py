"""MCP tasks say what the swarm's tasks say, by the words of that protocol."""

from typing import Any

import msgspec

from swarm_coordinator.core import decide
from swarm_coordinator.handlers.task_records import mcp_status, record_of, result_of

Room = Any
APPROVAL = {"description": "d", "phases": [{"name": "p", "prompt": "go", "approval": True}]}


async def given(room: Room, **arguments: object) -> tuple[Any, Any]:
    owner = await room.swarm("tool")
    made = await room.call("task_orchestrate", **{"task": "go", **arguments})
    return owner, owner.state.tasks[made["taskId"]]


async def test_a_running_task_works(room: Room) -> None:
    owner, task = await given(room)
    record = record_of(owner.state, task)

    assert (record.status, record.is_error, record.held) == ("working", False, None)
    assert record.message == "running: 0 of 1 steps"
    assert record.expires_ms > task.deadline_ms + 6 * 86_400_000
    assert (record.owner, record.tool, record.principal) == ("", "task_orchestrate", "alice")
    assert result_of(owner.state, task) == b""


async def test_a_completed_task_has_the_result_of_the_call(room: Room) -> None:
    owner, task = await given(room)
    owner.finish_all({"n": 1})
    record = record_of(owner.state, task)
    result = msgspec.json.decode(result_of(owner.state, task))

    assert (record.status, record.is_error, record.message) == ("completed", False, "completed")
    told = await room.call("task_result", taskId=task.id)
    assert result["structuredContent"]["result"] == told["result"]
    assert result["structuredContent"]["status"] == "completed"
    assert result["structuredContent"]["taskId"] == task.id


async def test_the_result_of_a_task_fits_the_schema_of_the_tool_that_made_it(room: Room) -> None:
    owner, task = await given(room)
    made = await room.call("agent_task", agentId="tool-1", task="go")
    owner.finish_all({"n": 1})
    for tool, one in (
        ("task_orchestrate", task),
        ("agent_task", owner.state.tasks[made["taskId"]]),
    ):
        result = msgspec.json.decode(result_of(owner.state, one))
        room.checked(tool, result)


async def test_a_failed_task_is_a_completed_call_with_an_error(room: Room) -> None:
    owner, task = await given(room, execution={"retryPolicy": "none"})
    owner.finish(next(iter(owner.work())), error="broken")
    record = record_of(owner.state, task)
    result = msgspec.json.decode(result_of(owner.state, task))

    assert (record.status, record.is_error) == ("completed", True)
    error = result["structuredContent"]["error"]
    assert result["isError"] is True
    assert (error["code"], error["taskId"]) == ("task", task.id)
    assert error["outcome"] == "executed"
    assert error["failures"][0]["message"] == "broken"


async def test_a_task_that_waits_for_a_person_asks(room: Room) -> None:
    owner, task = await given(room, task=APPROVAL)
    record = record_of(owner.state, task)

    assert record.status == "input_required"
    assert record.held is not None
    ((key, request),) = record.held.requests.items()
    assert msgspec.json.decode(request)["method"] == "elicitation/create"
    status = await room.call("task_status", taskId=task.id)
    assert (status["status"], set(status["requests"])) == ("waiting", {key})

    answer = msgspec.Raw(b'{"action":"accept","content":{"approve":true}}')
    owner.fold(decide.answer_input(owner.state, task.id, {key: answer}, owner.now_ms()))
    assert record_of(owner.state, task).status == "working"
    owner.finish_all(1)
    assert task.status == "completed"


async def test_a_cancelled_task_is_cancelled(room: Room) -> None:
    owner, task = await given(room, task=APPROVAL)
    await room.call("task_cancel", taskId=task.id)
    record = record_of(owner.state, task)

    assert (task.status, record.status) == ("cancelled", "cancelled")
    assert result_of(owner.state, task) == b""
    error = await room.refused("task_result", taskId=task.id)
    assert (error["status"], error["outcome"]) == ("cancelled", "not_executed")


async def test_a_task_that_is_being_cancelled_still_works(room: Room) -> None:
    owner, task = await given(room)
    task.status, task.message = "cancelling", "why"
    record = record_of(owner.state, task)

    assert mcp_status(task) == record.status == "working"
    assert record.message == "why"
