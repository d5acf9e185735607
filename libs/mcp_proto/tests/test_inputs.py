"""What may be asked, how it is put on the bus, and how answers are read."""

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.inputs import (
    capabilities_of,
    check_answer,
    given_up,
    input_required,
    links_required,
    may_declare_input,
    missing_capability,
    question,
    refusal,
    undeclared,
    wanted_key,
)

CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def declaring(capabilities: object) -> msgspec.Raw:
    return raw({"name": "t", "_meta": {CAPABILITIES: capabilities}})


def test_quick_test_never_overlooks_a_declaration() -> None:
    for name in ("elicitation", "sampling", "roots"):
        assert may_declare_input(declaring({name: {}}))
    escaped = b'{"_meta":{"' + CAPABILITIES.encode() + b'":{"\\u0072oots":{}}}}'
    assert may_declare_input(msgspec.Raw(escaped))
    assert capabilities_of(msgspec.Raw(escaped)).roots is not None
    assert not may_declare_input(declaring({"extensions": {}}))
    assert not may_declare_input(msgspec.Raw(b""))


@pytest.mark.parametrize("params", [b"", b"{}", b'{"_meta":null}', b"[]", b'{"_meta":{"a":1}}'])
def test_unreadable_declaration_declares_nothing(params: bytes) -> None:
    declared = capabilities_of(msgspec.Raw(params))
    assert declared.sampling is declared.roots is declared.elicitation is None


@pytest.mark.parametrize(
    ("declared", "method", "params", "code"),
    [
        ({"roots": {}}, "roots/list", None, 0),
        ({"elicitation": {}}, "elicitation/create", {"message": "m"}, 0),
        ({"elicitation": {}}, "elicitation/create", {"mode": "form"}, 0),
        ({"elicitation": {"url": {}}}, "elicitation/create", {"mode": "url"}, 0),
        ({"elicitation": {"url": {}}}, "elicitation/create", {}, -32602),
        ({"elicitation": {}}, "elicitation/create", {"mode": "url"}, -32602),
        ({"elicitation": {}}, "elicitation/create", {"mode": "telepathy"}, -32602),
        ({"elicitation": {}}, "elicitation/create", {"mode": 7}, -32602),
        ({"sampling": {}}, "sampling/createMessage", {"tools": None}, 0),
        ({"sampling": {}}, "sampling/createMessage", {"tools": []}, -32602),
        ({"sampling": {}}, "sampling/createMessage", {"toolChoice": {}}, -32602),
        ({"sampling": {"tools": {}}}, "sampling/createMessage", {"tools": []}, 0),
        ({}, "sampling/createMessage", {}, -32601),
        ({"sampling": {}}, "roots/list", None, -32601),
    ],
)
def test_only_what_is_declared_may_be_asked(declared, method, params, code) -> None:
    given = msgspec.Raw(b"") if params is None else raw(params)
    refused = refusal(capabilities_of(declaring(declared)), method, given)
    assert (0 if refused is None else refused.code) == code


def test_question_keeps_the_servers_bytes_but_for_what_its_connection_owns() -> None:
    params = b'{ "message":"a", "x":1.50, "task":{"ttl":1},"_meta":{"progressToken":1,"v/a":[1]}}'
    entry = question("elicitation/create", msgspec.Raw(params))
    assert entry == (
        b'{"method":"elicitation/create","params":{"message":"a","x":1.50,"_meta":{"v/a":[1]}}}'
    )
    assert question("roots/list", msgspec.Raw(b"")) == b'{"method":"roots/list"}'


def test_parked_call_names_its_state_and_its_runner() -> None:
    body = input_required({"a": b'{"method":"roots/list"}'}, "p1", "runner-1")
    assert body.startswith(b'{"resultType":"input_required",')
    assert msgspec.json.decode(body) == {
        "resultType": "input_required",
        "inputRequests": {"a": {"method": "roots/list"}},
        "requestState": "p1",
        "_meta": {"mesh/parked": {"instance": "runner-1"}},
    }


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("elicitation/create", {"content": {}}),
        ("elicitation/create", {"action": "yes"}),
        ("elicitation/create", 1),
        ("sampling/createMessage", {"role": "assistant"}),
        ("roots/list", {"roots": [{}]}),
    ],
)
def test_answer_that_is_none_is_refused_by_its_key(method: str, answer: object) -> None:
    with pytest.raises(MeshError) as caught:
        check_answer("k", method, raw(answer))
    assert caught.value.kind is ErrorKind.PARAMS
    assert "inputResponses.k" in caught.value.message


def test_answer_reaches_the_server_byte_for_byte() -> None:
    answer = b'{ "action":"accept", "content":{"n":1.50}, "extra":[1] }'
    assert check_answer("k", "elicitation/create", msgspec.Raw(answer)) == answer


def test_nobody_answers_means_cancel_to_a_form_and_an_error_to_the_rest() -> None:
    assert given_up("elicitation/create", "why") == b'{"action":"cancel"}'
    for method in ("roots/list", "sampling/createMessage"):
        error = given_up(method, "why")
        assert isinstance(error, ErrorObject)
        assert error.message == "why"


def test_refusal_that_a_server_passes_on_is_a_missing_capability() -> None:
    error = missing_capability(undeclared("sampling/createMessage"))
    assert error is not None
    assert error.code == -32021
    assert error.data["requiredCapabilities"] == {"sampling": {}}
    assert missing_capability(undeclared("what/ever")) is None
    assert missing_capability(ErrorObject(-32601, "unknown method", {})) is None


def test_links_are_asked_for_only_where_a_call_can_be_repeated() -> None:
    data = {"upstreamCode": -32042, "elicitations": [{"message": "m", "url": "https://e.x"}]}
    error = ErrorObject(-31017, "pay", data)
    able = declaring({"elicitation": {"url": {}}})
    asked = links_required(error, "tools/call", able)
    assert isinstance(asked, bytes)
    assert msgspec.json.decode(asked)["inputRequests"]["link-1"]["params"]["mode"] == "url"
    assert links_required(error, "completion/complete", able) is error
    for other in ({}, {"upstreamCode": -32042}, {**data, "elicitations": [1]}, "text"):
        plain = ErrorObject(-31017, "pay", other)
        assert links_required(plain, "tools/call", able) is plain


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"_meta": {"mesh/inputKey": "user_name"}}, "user_name"),
        ({"_meta": {"mesh/inputKey": "k" * 65}}, ""),
        ({"_meta": {"mesh/inputKey": 7}}, ""),
        ({"_meta": "mesh/inputKey"}, ""),
        ({"message": "inputKey"}, ""),
        ({}, ""),
    ],
)
def test_a_server_may_name_the_key_of_its_question(params: object, key: str) -> None:
    assert wanted_key(raw(params)) == key


def test_the_wish_for_a_key_does_not_reach_the_client() -> None:
    entry = question("roots/list", raw({"_meta": {"mesh/inputKey": "r", "own": 1}}))

    assert msgspec.json.decode(entry)["params"] == {"_meta": {"own": 1}}
