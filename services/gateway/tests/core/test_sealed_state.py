"""A sealed state works for one call of one caller; the digest sees the call, not its spelling."""

import msgspec
import pytest

from gateway.core.sealed_state import (
    INPUTS_MAX,
    SealedState,
    asked_of,
    carries_input,
    check,
    digest,
    may_ask,
)
from mcp_proto.errors import ErrorKind, MeshError, Outcome

PARAMS = b'{"name":"wipe","arguments":{"path":"/a","n":1}}'
METHOD = "tools/call"
STATE = SealedState(
    tenant="acme",
    principal="ann",
    server="disk",
    method=METHOD,
    target="wipe",
    digest=digest(METHOD, PARAMS),
    exp=1_000,
)


def checked(state: SealedState = STATE, *, params: bytes = PARAMS, now_ms: int = 999) -> None:
    check(
        state,
        tenant="acme",
        principal="ann",
        server="disk",
        method=METHOD,
        target="wipe",
        params=params,
        now_ms=now_ms,
    )


def test_state_of_the_very_call_is_accepted_until_it_expires() -> None:
    checked()
    with pytest.raises(MeshError) as caught:
        checked(now_ms=1_000)
    assert caught.value.data == {"reason": "expired"}


@pytest.mark.parametrize("field", ["tenant", "principal", "server", "method", "target", "digest"])
def test_state_with_any_other_field_is_refused(field: str) -> None:
    with pytest.raises(MeshError) as caught:
        checked(msgspec.structs.replace(STATE, **{field: "x"}))
    assert caught.value.kind is ErrorKind.PARAMS
    assert caught.value.message == "requestState belongs to another call"


@pytest.mark.parametrize(
    "params",
    [
        b'{"arguments":{"n":1,"path":"/a"},"name":"wipe"}',
        b' { "name" : "wipe", "arguments" : { "path" : "\\/\\u0061", "n" : 1.0 } } ',
        b'{"name":"other:wipe","arguments":{"path":"/a","n":1e0}}',
        b'{"name":"wipe","arguments":{"path":"/a","n":1},"_meta":{"x":1},"requestState":"s"}',
        b'{"inputResponses":{"a":{}},"name":"wipe","arguments":{"path":"/a","n":1}}',
        b'{"name":"wipe","arguments":{"path":"/a","n":1},"task":null}',
    ],
)
def test_digest_is_the_same_for_the_same_call_written_anew(params: bytes) -> None:
    assert digest(METHOD, params) == STATE.digest
    checked(params=params)


@pytest.mark.parametrize(
    "params",
    [
        b'{"name":"wipe","arguments":{"path":"/b","n":1}}',
        b'{"name":"wipe","arguments":{"path":"/a","n":"1"}}',
        b'{"name":"wipe","arguments":{"path":"/a","n":1,"force":null}}',
        b'{"name":"wipe","arguments":{"path":"/a","n":true}}',
        b'{"name":"wipe","arguments":{"path":"/a","n":2,"n":1}}',
        b'{"name":"wipe","arguments":[["n",1],["path","/a"]]}',
        b'{"name":"wipe","arguments":{"o":[["n",1],["path","/a"]]}}',
        b'{"name":"wipe","arguments":{}}',
        b'{"name":"wipe"}',
        b'{"name":"wipe","arguments":{"path":"/a","n":1},"task":{}}',
    ],
)
def test_digest_differs_for_another_call(params: bytes) -> None:
    assert digest(METHOD, params) != STATE.digest


def test_digest_names_the_method_and_tells_numbers_apart_exactly() -> None:
    assert digest("prompts/get", PARAMS) != STATE.digest

    def of(number: bytes) -> str:
        return digest(METHOD, b'{"arguments":{"n":%b}}' % number)

    assert of(b"9007199254740993") != of(b"9007199254740992")
    assert of(b"1" + b"0" * 20) == of(b"1e20")
    assert of(b"0.1") != of(b"0.10000000000000002")
    assert of(b"-0.0") == of(b"0")


def test_digest_counts_absent_null_and_empty_arguments_as_one() -> None:
    several = {digest(METHOD, p) for p in (b"", b"{}", b'{"arguments":null}', b'{"arguments":{}}')}
    assert len(several) == 1


@pytest.mark.parametrize("params", [b'{"a":NaN}', b'{"a":[1', b'{"a":1e999}'])
def test_digest_refuses_what_cannot_be_read(params: bytes) -> None:
    with pytest.raises(MeshError):
        digest(METHOD, params)


def test_ordinary_messages_pay_one_look_and_no_decode() -> None:
    assert not may_ask(b'{"resultType":"complete","content":"input_required"}')
    assert not may_ask(b'{"content":[]}')
    assert may_ask(b'{"resultType":"input_required"}')
    assert may_ask(b'{"resultType":"input_\\u0072equired"}')
    assert not carries_input(PARAMS)
    assert not carries_input(b'{"arguments":{"a":"\\u00fc"}}')
    assert carries_input(b'{"inputResponses":{}}')
    assert carries_input(b'{"request\\u0053tate":"x"}')


def test_result_that_asks_is_taken_apart() -> None:
    asked = asked_of(
        b'{"resultType":"input_required","requestState":"own","x":1,'
        b'"inputRequests":{"a":{"method":"roots/list"}},'
        b'"_meta":{"y":2,"mesh/parked":{"instance":"runner-1"}}}',
        "disk",
    )
    assert asked is not None
    assert (asked.inner, asked.instance) == ("own", "runner-1")
    assert asked.inputs["a"].method == "roots/list"
    assert b"own" not in asked.rest
    assert b"mesh/parked" not in asked.rest
    assert b'"y":2' in asked.rest
    assert b'"x":1' in asked.rest


def test_result_that_asks_for_nothing_is_left_alone() -> None:
    assert asked_of(b'{"content":[{"text":"input_required"}]}', "disk") is None
    assert asked_of(b'{"resultType":"task","taskId":"input_required"}', "disk") is None


@pytest.mark.parametrize(
    "members",
    [
        b"",
        b',"inputRequests":{}',
        b',"inputRequests":null',
        b',"inputRequests":[]',
        b',"inputRequests":{"a":{}}',
        b',"requestState":5',
        b',"requestState":"a","requestState":"b"',
        b',"requestState":"s","_meta":{"mesh/parked":{}}',
        b',"requestState":"s","_meta":{"mesh/parked":{"instance":"a.b"}}',
        b',"inputRequests":{"a":{"method":"roots/list"}},"_meta":{"mesh/parked":{"instance":"r"}}',
        b',"inputRequests":'
        + msgspec.json.encode({str(n): {"method": "roots/list"} for n in range(INPUTS_MAX + 1)}),
    ],
)
def test_result_that_asks_in_no_known_form_is_a_failure_of_its_server(members: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        asked_of(b'{"resultType":"input_required"%b}' % members, "disk")
    assert caught.value.kind is ErrorKind.UPSTREAM
    assert caught.value.outcome is Outcome.EXECUTED
    assert caught.value.data["server"] == "disk"


@pytest.mark.parametrize(
    "params",
    [
        rb'{"requestState":"x","a":"\ud800"}',
        rb'{"requestState":"x","\ud800":{}}',
        rb'{"\ud800":1,"req\u0075estState":"x"}',
    ],
)
def test_a_state_beside_what_no_parser_reads_does_not_pass_by_the_seal(params: bytes) -> None:
    with pytest.raises(MeshError):
        carries_input(params)
