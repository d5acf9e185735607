"""Old TCP clients get the codes they know for failures of swarms; nothing else is touched."""

import msgspec
import pytest

from gateway.core.answers import AnsweredError
from gateway.core.swarm_codes import check_refused, of_server
from mcp_proto.convert.errors import Peer, render_error
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError

CALL = "tools/call"


def params(name: str) -> bytes:
    return msgspec.json.encode({"name": name, "arguments": {}})


def refusal(code: str, **more: object) -> bytes:
    error = {"code": code, "reason": "limit", "message": "no more", "retryable": True, **more}
    return msgspec.json.encode(
        {
            "resultType": "complete",
            "isError": True,
            "content": [{"type": "text", "text": "no more"}],
            "structuredContent": {"error": error, "timestamp": 1},
        }
    )


def rendered(name: str, result: bytes) -> ErrorObject:
    with pytest.raises(AnsweredError) as caught:
        check_refused(CALL, params(name), result)
    return render_error(caught.value, Peer.LEGACY_TCP, method=CALL)


@pytest.mark.parametrize(("word", "code"), [("agent", -32001), ("swarm", -32002)])
def test_a_refusal_becomes_the_old_code_of_its_word(word: str, code: int) -> None:
    error = rendered("agent_spawn", refusal(word, swarmId="swarm_1", agentId="agent_1"))

    assert (error.code, error.message) == (code, "no more")
    assert error.data["swarmId"] == "swarm_1"
    assert error.data["agentId"] == "agent_1"
    assert error.data["reason"] == "limit"


def test_a_resource_refusal_keeps_how_long_to_wait() -> None:
    error = rendered("task_orchestrate", refusal("resource", retryAfterMs=1500, inFlight=1000))

    assert error.code == -32003
    assert error.data == {
        "reason": "limit", "retryable": True, "retryAfterMs": 1500, "inFlight": 1000,
    }  # fmt: skip


def test_the_alias_with_the_server_is_the_same_tool() -> None:
    assert rendered("swarm:swarm_status", refusal("swarm")).code == -32002


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("files__read", refusal("agent")),
        ("task_result", refusal("task")),
        ("swarm_status", refusal("agent").replace(b"true", b"false")),
        ("swarm_status", b'{"isError":true,"content":[]}'),
        ("swarm_status", b'{"isError":true,"structuredContent":{"error":"agent"}}'),
        ("swarm_status", b'{"content":[{"type":"text","text":"\\"isError\\":true"}]}'),
        ("swarm_status", refusal("agent", padding="x" * 70_000)),
    ],
)
def test_what_is_no_refusal_of_a_swarm_passes(name: str, result: bytes) -> None:
    check_refused(CALL, params(name), result)


def test_other_methods_pass() -> None:
    check_refused("tasks/get", params("swarm_status"), refusal("agent"))
    check_refused(CALL, b"[]", refusal("agent"))


@pytest.mark.parametrize(
    "error",
    [
        MeshError(ErrorKind.INTERNAL, "internal error"),
        AnsweredError(ErrorObject(-32603, "internal error", {"outcome": "unknown"})),
    ],
)
def test_a_defect_of_the_coordinator_is_the_old_server_error(error: MeshError) -> None:
    found = render_error(of_server(error, CALL, params("swarm_init")), Peer.LEGACY_TCP)

    assert (found.code, found.message) == (-32000, "internal error")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (MeshError(ErrorKind.INTERNAL, "internal error"), "kv_get"),
        (MeshError(ErrorKind.PARAMS, "bad"), "swarm_init"),
        (AnsweredError(ErrorObject(-32602, "bad", {})), "swarm_init"),
        (MeshError(ErrorKind.NO_RUNNER, "nobody"), "swarm_init"),
    ],
)
def test_other_errors_keep_their_codes(error: MeshError, name: str) -> None:
    assert of_server(error, CALL, params(name)) is error
