"""Idempotency keys as rules: whose key, which call, what frees it."""

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.core import idempotency as rules


def params(key: object) -> bytes:
    return msgspec.json.encode({"name": "x", "_meta": {"mesh/idempotencyKey": key}})


def test_a_key_is_read_from_meta_alone() -> None:
    assert rules.key_of(params("k")) == "k"
    assert rules.key_of(b'{"arguments":{"mesh/idempotencyKey":"k"}}') is None
    assert rules.key_of(b"{}") is None


@pytest.mark.parametrize("key", ["", "x" * 129, 5, None, ["a"]])
def test_what_is_no_key_is_refused(key: object) -> None:
    with pytest.raises(MeshError) as refused:
        rules.key_of(params(key))
    assert refused.value.kind is ErrorKind.PARAMS
    assert rules.key_of(params("x" * 128))


def test_a_record_belongs_to_everything_that_names_the_call() -> None:
    parts = ["t", "p", "s", "x", "k"]
    names = {rules.record_name(*parts)}
    for at in range(5):
        names.add(rules.record_name(*[*parts[:at], "other", *parts[at + 1 :]]))
    names.add(rules.record_name("t", "p.s", "", "x", "k"))
    assert len(names) == 7
    assert all(name.count(".") == 2 for name in names)
    assert all(rules.is_tag(rules.tag_of(name)) for name in names)
    assert rules.named("t", "p", rules.tag_of(rules.record_name(*parts))) == rules.record_name(
        *parts
    )


def test_the_way_arguments_are_written_does_not_count() -> None:
    same = {rules.arguments_digest(raw) for raw in (b'{"a":1,"b":[2]}', b'{ "b":[2], "a":1 }')}
    assert len(same) == 1
    assert rules.arguments_digest(b"") == rules.arguments_digest(b"{}")
    assert rules.arguments_digest(b'{"a":"1"}') != rules.arguments_digest(b'{"a":1}')
    with pytest.raises(MeshError):
        rules.arguments_digest(b"{")


def test_a_lost_runner_leaves_the_outcome_unknown() -> None:
    assert rules.outcome_of(rules.lost("runner-1")) is Outcome.UNKNOWN


def test_key_is_read_however_its_slash_is_written() -> None:
    assert rules.key_of(b'{"_meta":{"mesh\\/idempotencyKey":"k"}}') == "k"


def test_a_question_and_the_answer_to_it_have_the_same_round_however_the_state_is_written() -> None:
    asked = rules.question_of(
        b'{"resultType":"input_required","requestState":"a/\\u00e9","_meta":{"mesh/parked":{}}}'
    )
    assert asked is not None
    assert asked.parked
    params = msgspec.json.encode({"requestState": "a/\u00e9", "inputResponses": {}})
    assert rules.round_of(params) == asked.round
    assert rules.round_of(b'{"requestState":"other"}') != asked.round
    assert rules.round_of(b'{"arguments":{"requestState":"a"}}') is None
    assert rules.round_of(b'{"inputResponses":{}}') == ""


def test_only_a_result_that_asks_is_a_question() -> None:
    assert rules.question_of(b'{"resultType":"complete","x":"input_required"}') is None
    assert rules.question_of(b'{"resultType":"input_required"}') is not None
    assert rules.question_of(b"input_required") is None
