"""Bytes between the bus and the two kinds of upstream."""

import msgspec
import pytest

from mcp_proto.errors import ErrorObject, MeshError
from mcp_proto.versions import Revision
from mesh_chassis.child_environment import child_environment
from tool_runner.core.dialect import (
    caller_meta,
    initialize_params,
    read_discover,
    read_initialize,
    to_bus_error,
    to_bus_result,
    to_upstream_params,
)
from tool_runner.core.offers import read_page, tools_of

PV = "io.modelcontextprotocol/"
PARAMS = msgspec.Raw(
    b'{"name":"t","arguments":{"b": 1.50},"_meta":{"io.modelcontextprotocol/protocolVersion":'
    b'"2026-07-28","progressToken":"p","traceparent":"x"},"requestState":"s"}'
)


def convert(params, *, modern, token=None):
    raw = msgspec.Raw(params)
    return to_upstream_params(raw, caller_meta(raw), modern=modern, progress_token=token)


def test_legacy_upstream_sees_no_envelope_and_its_own_token():
    sent = convert(PARAMS, modern=False, token=5)
    assert b'"arguments":{"b": 1.50}' in sent
    assert msgspec.json.decode(sent) == {
        "name": "t",
        "arguments": {"b": 1.5},
        "_meta": {"traceparent": "x", "progressToken": 5},
    }


def test_meta_that_becomes_empty_is_left_out_for_a_legacy_upstream():
    assert convert(b'{"name":"t","_meta":{"progressToken":1}}', modern=False) == b'{"name":"t"}'
    assert convert(b"", modern=False) == b"{}"


def test_modern_upstream_gets_a_complete_envelope_whatever_the_caller_sent():
    meta = msgspec.json.decode(convert(b'{"name":"t"}', modern=True))["_meta"]
    assert meta[PV + "protocolVersion"] == "2026-07-28"
    assert meta[PV + "clientCapabilities"] == {}
    own = b'{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}}'
    meta = msgspec.json.decode(convert(own, modern=True))["_meta"]
    assert meta[PV + "clientCapabilities"] == {"elicitation": {}}


@pytest.mark.parametrize("params", [b'{"_meta":7}', b'{"_meta":{},"_meta":{}}', b"[]"])
def test_meta_that_is_no_single_object_is_refused(params):
    with pytest.raises(MeshError):
        caller_meta(msgspec.Raw(params))


def test_legacy_result_becomes_complete_and_reads_are_not_cached():
    result = msgspec.Raw(b'{"content":[ ]}')
    assert to_bus_result(result, modern=False, method="tools/call") == (
        b'{"resultType":"complete","content":[ ]}'
    )
    read = msgspec.json.decode(to_bus_result(result, modern=False, method="resources/read"))
    assert (read["ttlMs"], read["cacheScope"]) == (0, "private")


def test_modern_result_passes_byte_for_byte():
    for data in (
        b'{"resultType":"input_required", "inputRequests":{}}',
        b'{"content":[],"resultType":"complete"}',
    ):
        assert to_bus_result(msgspec.Raw(data), modern=True, method="tools/call") == data
    bare = to_bus_result(msgspec.Raw(b"{}"), modern=True, method="tools/call")
    assert msgspec.json.decode(bare) == {"resultType": "complete"}


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize(
    "meta",
    [
        b'"_meta":{"mesh/parked":{"instance":"x"},"v/a":1}',
        b'"_meta":{"mesh\\/parked":{"instance":"x"},"v/a":1}',
        b'"_me\\u0074a":{"\\u006desh/parked":{"instance":"x"},"v/a":1}',
    ],
)
def test_upstream_cannot_speak_as_the_mesh(modern, meta):
    result = msgspec.Raw(b'{"resultType":"complete","content":["mesh/"],' + meta + b"}")
    sent = msgspec.json.decode(to_bus_result(result, modern=modern, method="tools/call"))
    assert sent == {"resultType": "complete", "content": ["mesh/"], "_meta": {"v/a": 1}}


def test_meta_of_a_result_that_nobody_can_read_for_certain_is_dropped():
    result = msgspec.Raw(b'{"_meta":{"mesh/a":1},"_meta":{},"content":[]}')
    sent = to_bus_result(result, modern=False, method="tools/call")
    assert sent == b'{"resultType":"complete","content":[]}'


def test_answers_and_state_go_to_a_modern_upstream_only():
    params = b'{"inputResponses":{"a":{ }},"requestState":"s","name":"t"}'
    assert b'"inputResponses":{"a":{ }},"requestState":"s"' in convert(params, modern=True)
    assert convert(params, modern=False) == b'{"name":"t"}'


def test_legacy_refusal_after_a_question_says_that_the_call_has_begun():
    error = ErrorObject(code=-32601, message="no such method")
    for began, outcome in ((False, "not_executed"), (True, "unknown")):
        sent = to_bus_error(error, modern=False, method="tools/call", server="s", began=began)
        assert sent.data["outcome"] == outcome


def test_modern_error_keeps_its_code_and_data():
    error = ErrorObject(code=-32021, message="m", data={"requiredCapabilities": {}})
    sent = to_bus_error(error, modern=True, method="tools/call", server="s")
    assert sent.code == -32021
    assert sent.data == {"requiredCapabilities": {}, "upstream": "s", "outcome": "not_executed"}


def test_upstream_cannot_claim_an_outcome():
    error = ErrorObject(code=-32000, message="m", data={"outcome": "not_executed"})
    for modern in (True, False):
        sent = to_bus_error(error, modern=modern, method="tools/call", server="s")
        assert sent.data["outcome"] == "unknown"


def test_handshake_is_read_from_both_eras():
    modern = read_discover(
        msgspec.Raw(
            b'{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"_meta":'
            b'{"io.modelcontextprotocol/serverInfo":{"name":"n"}}}'
        )
    )
    assert modern is not None
    assert modern.modern
    assert bytes(modern.server_info) == b'{"name":"n"}'
    legacy = read_initialize(msgspec.Raw(b'{"protocolVersion":"2024-11-05","instructions":null}'))
    assert legacy.revision is Revision.R2024_11_05
    assert b'"2025-11-25"' in initialize_params()


@pytest.mark.parametrize("result", [b"{}", b"7", b'{"supportedVersions":["2027-01-01"]}'])
def test_anything_else_does_not_prove_a_modern_server(result):
    assert read_discover(msgspec.Raw(result)) is None


@pytest.mark.parametrize("result", [b"{}", b"[]", b'{"protocolVersion":"2026-07-28"}'])
def test_unusable_answer_to_initialize_is_an_error(result):
    with pytest.raises(MeshError):
        read_initialize(msgspec.Raw(result))


def test_page_of_a_list_is_read_or_refused():
    page = read_page(msgspec.Raw(b'{"tools":[{"name":"a"}],"nextCursor":""}'), "tools")
    assert page is not None
    assert page.cursor == ""
    assert read_page(msgspec.Raw(b'{"tools":7}'), "tools") is None
    assert read_page(msgspec.Raw(b"[]"), "tools") is None


def test_tool_with_a_huge_definition_is_left_out():
    big = msgspec.Raw(msgspec.json.encode({"name": "big", "description": "x" * 200_000}))
    kept, problems = tools_of([big, msgspec.Raw(b'{"name":"ok"}')])
    assert [tool.name for tool in kept] == ["ok"]
    assert len(problems) == 1


def test_child_inherits_only_what_programs_need():
    own = {"PATH": "/bin", "LC_ALL": "C", "NKEY_SEED": "s", "PYTHONPATH": "x", "HOME": "/h"}
    assert child_environment(own, {"HOME": "/else", "TOKEN": "t"}) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "HOME": "/else",
        "TOKEN": "t",
    }


@pytest.mark.parametrize(
    "result",
    [
        b'{"resultType":"complete","content":[],"resultType":"input_required","requestState":"x"}',
        b'{"resultType":"complete","taskId":"x","result\\u0054ype":"task"}',
    ],
)
def test_result_that_says_its_type_twice_is_refused(result):
    with pytest.raises(MeshError) as caught:
        to_bus_result(msgspec.Raw(result), modern=True, method="tools/call")
    assert caught.value.outcome.value == "executed"


def test_result_with_escapes_in_its_text_stays_byte_for_byte():
    result = b'{"resultType":"complete","content":[{"type":"text","text":"resultType\\u0022"}]}'
    assert to_bus_result(msgspec.Raw(result), modern=True, method="tools/call") == result
