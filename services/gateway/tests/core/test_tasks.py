"""Tasks in the words of the extension, and in those of 2025-11-25."""

import msgspec
import pytest

from gateway.core import core_tasks, tasks
from mcp_proto.contracts.tasks import (
    TaskHeld,
    TaskRecord,
    create,
    is_task_id,
    keeper_of,
    policies_of,
    policy_of,
    policy_problem,
    record_key,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.types.meta import CLIENT_CAPABILITIES, TASKS_EXTENSION
from mcp_proto.versions import Revision

Raw = msgspec.Raw


def record(**members: object) -> TaskRecord:
    made = TaskRecord(
        id="task_1_a",
        tenant="t",
        principal="p",
        server="s",
        tool="x",
        status="working",
        created_ms=1_790_000_000_000,
        updated_ms=1_790_000_000_500,
        ttl_ms=60_000,
        poll_ms=1_000,
    )
    return msgspec.structs.replace(made, **members)


def shown(**members: object) -> dict[str, object]:
    return msgspec.json.decode(tasks.detailed(record(**members)))


def test_a_created_task_is_flat_and_carries_no_outcome() -> None:
    assert msgspec.json.decode(tasks.created(record())) == {
        "resultType": "task",
        "taskId": "task_1_a",
        "status": "working",
        "createdAt": "2026-09-21T14:13:20.000Z",
        "lastUpdatedAt": "2026-09-21T14:13:20.500Z",
        "ttlMs": 60_000,
        "pollIntervalMs": 1_000,
    }


def test_each_status_shows_what_belongs_to_it() -> None:
    completed = shown(status="completed", result=Raw(b'{"content":[]}'))
    assert completed["resultType"] == "complete"
    assert completed["result"] == {"content": []}
    failed = shown(status="failed", error=Raw(b'{"code":-1,"message":"m"}'), message="m")
    assert failed["error"] == {"code": -1, "message": "m"}
    assert failed["statusMessage"] == "m"
    held = TaskHeld(params=Raw(b"{}"), requests={"k": Raw(b'{"method":"m"}')}, names={"k": "k"})
    waiting = shown(status="input_required", held=held)
    assert waiting["inputRequests"] == {"k": {"method": "m"}}
    assert "params" not in waiting


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (b"{}", False),
        (b'{"extensions":{"io.modelcontextprotocol/tasks":{}}}', True),
        (b'{"extensions":{"io.modelcontextprotocol\\/tasks":{}}}', False),
        (b'{"extensions":{"io.modelcontextprotocol\\u002ftasks":{}}}', True),
        (b'{"experimental":{"io.modelcontextprotocol/tasks":{}}}', False),
        (b'{"extensions":[]}', False),
    ],
)
def test_only_the_extension_itself_declares_tasks(capabilities: bytes, expected: bool) -> None:
    if b"\\/" in capabilities:
        expected = tasks.declares(capabilities)  # either reading is fine: it costs a task only
    assert tasks.declares(capabilities) is expected


@pytest.mark.parametrize(
    ("wish", "asked", "ttl_ms"),
    [(True, True, 0), (False, False, 0), ({"ttlMs": 5}, True, 5), ({}, True, 0), (None, False, 0)],
)
def test_a_wish_is_read(wish: object, asked: bool, ttl_ms: int) -> None:
    params = msgspec.json.encode({"_meta": {"mesh/task": wish}})
    assert tasks.wish_of(params) == tasks.Wish(asked=asked, ttl_ms=ttl_ms)


@pytest.mark.parametrize("wish", [1, "yes", {"ttlMs": -1}, {"ttlMs": "5"}])
def test_a_malformed_wish_is_refused(wish: object) -> None:
    with pytest.raises(MeshError) as refused:
        tasks.wish_of(msgspec.json.encode({"_meta": {"mesh/task": wish}}))
    assert refused.value.kind is ErrorKind.PARAMS


def test_only_a_result_that_is_a_task_counts_as_one() -> None:
    assert tasks.task_id_of(b'{"resultType":"task","taskId":"u"}') == "u"
    assert tasks.task_id_of(b'{"resultType":"complete","taskId":"u"}') is None
    assert tasks.task_id_of(b'{"resultType":"task","taskId":5}') is None
    assert not tasks.may_be_task(b'{"resultType":"complete","x":"task"}')


def test_policies_of_a_definition_are_told_where_they_differ() -> None:
    assert policies_of("optional", {}) == {}
    told = policies_of("always", {"x": "never"})
    assert [policy_of(told, name) for name in ("x", "y")] == ["never", "always"]
    assert policy_of({}, "x") == "optional"
    assert policy_problem("always", {"x": "sometimes"})
    assert policy_problem("always", {"x": "never"}) is None


def test_keys_keep_tenants_and_principals_apart() -> None:
    one = record_key("t", "p", "task_1_a")
    assert one.count(".") == 2
    assert len({one, record_key("t", "q", "task_1_a"), record_key("u", "p", "task_1_a")}) == 3
    assert is_task_id("task_1_a")
    assert not is_task_id("kid.sealed")
    assert not is_task_id("task_" + "x" * 100)


# The core form ------------------------------------------------------------------------------


def test_core_params_become_the_wish_and_the_declared_extension() -> None:
    params = {"name": "x", "task": {"ttl": 7}, "_meta": {CLIENT_CAPABILITIES: {"sampling": {}}}}
    made = msgspec.json.decode(core_tasks.call_params(msgspec.json.encode(params)))
    assert "task" not in made
    assert made["_meta"]["mesh/task"] == {"ttlMs": 7, "must": True}
    assert made["_meta"][CLIENT_CAPABILITIES] == {
        "sampling": {},
        "extensions": {TASKS_EXTENSION: {}},
    }


def test_a_tools_own_error_is_a_failed_core_task() -> None:
    def status(result: bytes) -> object:
        seen = core_tasks.read(tasks.detailed(record(status="completed", result=Raw(result))))
        return msgspec.json.decode(core_tasks.core_task(seen))["status"]

    assert status(b'{"content":[],"isError":true}') == "failed"
    assert status(b'{"content":[],"isError":false}') == "completed"


def test_only_requests_about_tasks_are_taken() -> None:
    assert core_tasks.wants_task("tasks/list", b"{}")
    assert core_tasks.wants_task("tools/call", b'{"task":{}}')
    assert not core_tasks.wants_task("tools/call", b'{"arguments":{"task":1}}')
    assert not core_tasks.wants_task("prompts/get", b'{"task":{}}')


def test_lists_say_for_2025_11_25_what_each_tool_can_do() -> None:
    tools = [
        {"name": "a", "inputSchema": {}},
        {"name": "b", "_meta": {"mesh/task": "never"}},
        {"name": "c", "_meta": {"mesh/task": "required"}, "execution": {"x": 1}},
        {"name": "d", "execution": {"taskSupport": "required"}},
    ]
    data = msgspec.json.encode({"tools": tools})
    made = msgspec.json.decode(core_tasks.older_list("tools/list", data, Revision.R2025_11_25))
    assert [tool["execution"]["taskSupport"] for tool in made["tools"]] == [
        "optional",
        "forbidden",
        "required",
        "optional",
    ]
    assert made["tools"][2]["execution"]["x"] == 1
    assert core_tasks.older_list("tools/list", data, Revision.R2025_06_18) == data


def test_wish_and_declaration_are_read_however_their_slashes_are_written() -> None:
    assert tasks.declares(b'{"extensions":{"io.modelcontextprotocol\\/tasks":{}}}')
    assert tasks.wish_of(b'{"_meta":{"mesh\\/task":true}}').asked


def test_tasks_of_swarms_are_made_by_the_coordinator_and_all_others_by_runners() -> None:
    assert keeper_of("kv") == keeper_of("swarming") == "tool-runner"
    assert create.at(keeper_of("kv")) == create
    asked = create.at(keeper_of("swarm"))
    assert asked.subject == "mesh.v1._.svc.swarm-coordinator.task-create"


def working(progress: float, **members: object) -> core_tasks.Seen:
    made = record(progress=progress, total=4.0, message="at it", **members)
    return core_tasks.read(tasks.detailed(made))


def test_progress_of_a_task_is_in_its_meta_while_it_works() -> None:
    told = shown(progress=1.5, total=4.0)
    assert told["_meta"] == {"mesh/progress": {"progress": 1.5, "total": 4.0}}
    assert shown(progress=1.5)["_meta"] == {"mesh/progress": {"progress": 1.5, "total": None}}
    ended = shown(progress=4.0, status="completed", result=Raw(b"{}"))
    assert "_meta" not in ended
    assert working(1.5).meta.reached == core_tasks.Reached(1.5, 4.0)


def test_progress_goes_to_who_gave_a_token_and_only_grows() -> None:
    pace = core_tasks.Pace(b'{"taskId":"x","_meta":{"progressToken":7}}')
    told = [pace.notice(working(figure)) for figure in (0.0, 1.5, 1.5, 1.0, 2.0)]
    figures = [msgspec.json.decode(one)["params"]["progress"] for one in told if one is not None]
    assert figures == [0, 1.5, 2.0]
    assert msgspec.json.decode(told[1]) == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {
            "progressToken": 7,
            "progress": 1.5,
            "total": 4.0,
            "message": "at it",
            "_meta": {"io.modelcontextprotocol/related-task": {"taskId": "task_1_a"}},
        },
    }
    assert pace.wanted
    silent = core_tasks.Pace(b'{"taskId":"progressToken","_meta":{}}')
    assert not silent.wanted
    assert silent.notice(working(3.0)) is None
