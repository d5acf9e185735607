import asyncio

import msgspec
import pytest

from mcp_proto.limits import RESULT_BYTES_MAX
from mesh_sdk.swarm.outcomes import MESSAGE_MAX, ended_by, ended_with
from mesh_sdk.swarm.steps import StepFailedError, StepOutput, StepRejectedError, ballot


def test_values_become_what_they_are():
    assert ended_with("text").text == "text"
    assert bytes(ended_with({"a": (1, 2)}).structured) == b'{"a":[1,2]}'
    assert ended_with(None).status == "ok"
    assert bytes(ended_with(StepOutput(structured=None)).structured) == b"null"
    assert bytes(ended_with(StepOutput(text="x")).structured) == b""
    assert ended_with(StepOutput(tokens=3), tool_calls=2).usage.tokens == 3
    assert ended_with("x", tool_calls=2).usage.tool_calls == 2


@pytest.mark.parametrize(
    "value", [object(), {"a": object()}, "\ud800", {1: object()}, {"a": "\ud800"}]
)
def test_what_is_no_json_is_a_failure_that_a_repeat_meets_again(value):
    ended = ended_with(value)
    assert (ended.status, ended.error.type, ended.error.retryable) == ("error", "output", False)
    msgspec.json.encode(ended)


def test_output_that_cannot_be_delivered_is_refused():
    half = "x" * (RESULT_BYTES_MAX // 2)
    assert ended_with(StepOutput(text=half)).status == "ok"
    large = StepOutput(text=half, structured=half, ballot=ballot(half))
    assert ended_with(large).error.type == "limit"


def test_errors_say_whether_another_attempt_could_help():
    failed = ended_by(StepFailedError("m", type="t", retryable=False, outcome="unknown")).error
    assert (failed.type, failed.retryable, failed.outcome) == ("t", False, "unknown")
    assert ended_by(StepRejectedError("no")).status == "rejected"
    assert ended_by(asyncio.CancelledError()).error.type == "cancelled"
    assert ended_by(MemoryError()).error.type == "limit"
    plain = ended_by(ValueError("x" * 10_000)).error
    assert (plain.type, plain.retryable, len(plain.message)) == ("error", True, MESSAGE_MAX)
    msgspec.json.encode(ended_by(ValueError("\ud800")))
