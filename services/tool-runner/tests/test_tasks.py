"""The steps of a durable task's life, without a broker."""

import msgspec
import pytest

from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.inputs import capabilities_of
from mcp_proto.jsonrpc import ABSENT
from tool_runner.core import tasks as life

Raw = msgspec.Raw
ANYTHING = capabilities_of(
    Raw(
        b'{"_meta":{"io.modelcontextprotocol/clientCapabilities":'
        b'{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}}}'
    )
)


def record(**members: object) -> TaskRecord:
    made = TaskRecord(
        id="task_1_a",
        tenant="t",
        principal="p",
        server="s",
        tool="x",
        status="working",
        created_ms=1,
        updated_ms=1,
        ttl_ms=1000,
        poll_ms=100,
        owner="r",
        boot="b",
    )
    return msgspec.structs.replace(made, **members)


def waits(one: TaskRecord, *keys: str, state: bytes = b'"s"') -> TaskRecord:
    requests = {key: Raw(b'{"method":"elicitation/create"}') for key in keys}
    return life.waiting(
        one,
        params=b'{"name":"x"}',
        requests=requests,
        state=Raw(state) if state else ABSENT,
        instance="",
        declared=ANYTHING,
        now_ms=2,
    )


def test_params_of_the_call_have_the_tasks_own_token_and_nothing_of_the_mesh() -> None:
    sent = Raw(
        b'{"name":"x","task":{"ttl":1},"arguments":{"a":1.0},"_meta":{"progressToken":"mine",'
        b'"io.modelcontextprotocol/logLevel":"debug","mesh/task":true,'
        b'"mesh/idempotencyKey":"k","own":[1]}}'
    )
    made = msgspec.json.decode(life.call_params(sent, "task_1_a"))
    assert made == {
        "name": "x",
        "arguments": {"a": 1.0},
        "_meta": {"progressToken": "task_1_a", "own": [1]},
    }


def test_an_answered_task_is_ready_only_without_an_open_question() -> None:
    one = waits(record(), "a", "b")
    assert (one.status, one.owner, one.used) == ("input_required", "", ("a", "b"))
    some = life.answered(one, {"a": Raw(b"1"), "unknown": Raw(b"2")}, 3)
    assert some is not None
    assert some.held is not None
    assert set(some.held.requests) == {"b"}
    assert life.answered(some, {"a": Raw(b"9")}, 4) is None
    ready = life.answered(some, {"b": Raw(b"2")}, 4)
    assert ready is not None
    assert ready.held is not None
    assert not ready.held.requests
    params = msgspec.json.decode(life.resumed_params(ready.held))
    assert params == {"name": "x", "inputResponses": {"a": 1, "b": 2}, "requestState": "s"}


def test_a_key_is_never_asked_twice_and_the_server_hears_its_own() -> None:
    first = life.answered(waits(record(), "ask"), {"ask": Raw(b"1")}, 3)
    assert first is not None
    again = waits(life.began(first, owner="r", boot="b", now_ms=4), "ask", state=b"")
    assert again.held is not None
    assert set(again.held.requests) == {"ask-2"}
    done = life.answered(again, {"ask": Raw(b"0"), "ask-2": Raw(b"2")}, 5)
    assert done is not None
    assert done.held is not None
    assert msgspec.json.decode(life.resumed_params(done.held)) == {
        "name": "x",
        "inputResponses": {"ask": 2},
    }


def test_questions_have_a_bound() -> None:
    big = {"k": Raw(b'"' + b"x" * life.INPUTS_BYTES_MAX + b'"')}
    with pytest.raises(MeshError, match="exceed"):
        life.waiting(
            record(),
            params=b"{}",
            requests=big,
            state=ABSENT,
            instance="",
            declared=ANYTHING,
            now_ms=1,
        )


@pytest.mark.parametrize(
    ("requests", "state"),
    [
        ({f"k{at}": Raw(b'{"method":"roots/list"}') for at in range(33)}, b'"s"'),
        ({"k": Raw(b'{"method":"tools/call"}')}, b'"s"'),
        ({"k": Raw(b"[]")}, b'"s"'),
        ({"k" * life.INPUTS_BYTES_MAX: Raw(b'{"method":"roots/list"}')}, b'"s"'),
        ({"k": Raw(b'{"method":"roots/list"}')}, b'"%b"' % (b"x" * life.INPUTS_BYTES_MAX)),
    ],
)
def test_a_task_asks_nothing_that_an_ordinary_call_could_not_ask(
    requests: dict[str, Raw], state: bytes
) -> None:
    with pytest.raises(MeshError):
        life.waiting(
            record(),
            params=b"{}",
            requests=requests,
            state=Raw(state),
            instance="",
            declared=ANYTHING,
            now_ms=1,
        )


@pytest.mark.parametrize(
    ("declared", "question", "kind"),
    [
        ({}, {"method": "elicitation/create"}, ErrorKind.CAPABILITY),
        ({"elicitation": {}}, {"method": "roots/list"}, ErrorKind.CAPABILITY),
        (
            {"elicitation": {"form": {}}},
            {"method": "elicitation/create", "params": {"mode": "url"}},
            ErrorKind.CAPABILITY,
        ),
        (
            {"sampling": {}},
            {"method": "sampling/createMessage", "params": {"tools": []}},
            ErrorKind.CAPABILITY,
        ),
        ({"roots": {}}, {"method": "roots/list", "params": 7}, ErrorKind.UPSTREAM),
    ],
)
def test_a_task_asks_only_what_its_submitter_declared(
    declared: dict[str, object], question: dict[str, object], kind: ErrorKind
) -> None:
    meta = {"_meta": {"io.modelcontextprotocol/clientCapabilities": declared}}
    params = msgspec.json.encode(meta)
    with pytest.raises(MeshError) as refused:
        life.waiting(
            record(),
            params=params,
            requests={"k": Raw(msgspec.json.encode(question))},
            state=ABSENT,
            instance="",
            declared=capabilities_of(Raw(params)),
            now_ms=1,
        )
    assert refused.value.kind is kind
    assert ("requiredCapabilities" in refused.value.data) == (kind is ErrorKind.CAPABILITY)


def test_an_end_has_no_owner_and_nothing_held() -> None:
    ends = [
        life.completed(waits(record(), "a"), b"{}", parts=0, is_error=True, now_ms=5),
        life.failed(record(), ErrorObject(code=-1, message="m" * 900), 5),
        life.cancelled(waits(record(), "a"), 5),
        life.lost(record(), "gone", 5),
    ]
    for one in ends:
        assert one.terminal
        assert (one.owner, one.boot, one.held, one.updated_ms) == ("", "", None, 5)
        assert life.answered(one, {"a": Raw(b"1")}, 6) is None
        assert len(one.message) <= life.MESSAGE_CHARS_MAX
    assert b'"unknown"' in bytes(ends[3].error)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"progress": 1, "total": 4}, "1 of 4"),
        ({"progress": 2.5}, "progress 2.5"),
        ({"progress": 1, "message": "reading"}, "reading"),
    ],
)
def test_progress_is_told_in_words(params: dict[str, object], text: str) -> None:
    notice = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    assert life.progress_text(msgspec.json.encode(notice)) == text


def test_other_notices_are_no_progress() -> None:
    assert life.progress_text(b'{"method":"notifications/message","params":{"data":1}}') == ""
    assert life.progress_text(b"[]") == ""
