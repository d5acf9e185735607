import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.convert.results import flatten, to_legacy_result
from mcp_proto.convert.upstream import from_legacy_result
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.types.meta import SERVER_INFO
from mcp_proto.versions import LEGACY, Revision

R1, R2, R3, R4 = LEGACY
TEXT = {"type": "text", "text": "hi"}
LINK = {
    "type": "resource_link",
    "uri": "file:///a",
    "name": "a",
    "title": "A",
    "description": "an a",
    "annotations": {"priority": 1},
}
AUDIO = {"type": "audio", "data": "UklG", "mimeType": "audio/wav", "_meta": {"x": 1}}


def convert(method: str, result: object, revision: Revision, *, flat: bool = False) -> object:
    return json.loads(to_legacy_result(method, json.dumps(result).encode(), revision, flat=flat))


@pytest.mark.parametrize("revision", LEGACY)
def test_the_usual_result_is_a_slice_of_its_bytes(revision: Revision) -> None:
    body = b'"content":[{"type":"text", "text":"1.0"}],"structuredContent":{"a": 1.00},"x":false}'
    modern = b'{"resultType":"complete",' + body
    assert to_legacy_result("tools/call", modern, revision) == b"{" + body
    assert to_legacy_result("tools/call", b"{" + body, revision) == b"{" + body
    assert from_legacy_result("tools/call", b"{" + body) == modern


@pytest.mark.parametrize(
    "body",
    [
        '"content":[{"type":"text", "text":"1.0"}],"structuredContent":{"a": 1.00}}',
        '"content":[{"type":"text","text":"\\u0041","_meta":{"b": 1}}]}',
        '"ttlMs":5,"content":[]}',
    ],
)
def test_a_signed_result_loses_the_signature_and_no_other_byte(body: str) -> None:
    info = b'"_meta":{"%b":{"name":"mesh"}},' % SERVER_INFO.encode()
    rest = body.replace('"ttlMs":5,', "").encode()
    signed = b'{"resultType":"complete",' + info + body.encode()
    assert to_legacy_result("tools/call", signed, R4) == b"{" + rest
    twice = signed[:-1] + b"," + info[:-1] + b"}"
    assert SERVER_INFO.encode() not in to_legacy_result("tools/call", twice, R4)
    escaped = signed[:-1] + b"," + info[:-1].replace(b"_meta", b"\\u005fmeta") + b"}"
    assert SERVER_INFO.encode() not in to_legacy_result("tools/call", escaped, R4)
    beside = signed.replace(b'"mesh"}}', b'"mesh"},"own":1}')
    assert json.loads(to_legacy_result("tools/call", beside, R4))["_meta"] == {"own": 1}


@pytest.mark.parametrize("revision", LEGACY)
@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"resultType": "complete"}, {}),
        ({"a": 1, "resultType": "complete"}, {"a": 1}),
        (
            {"resultType": "complete", "ttlMs": 5, "cacheScope": "private", "contents": []},
            {"contents": []},
        ),
        ({"contents": [], "ttlMs": 0}, {"contents": []}),
        ({"resultType": "complete", "_meta": {SERVER_INFO: {"name": "g"}}}, {}),
        (
            {"resultType": "complete", "x": 1, "_meta": {SERVER_INFO: {}, "own": {"ttlMs": 1}}},
            {"x": 1, "_meta": {"own": {"ttlMs": 1}}},
        ),
        (
            {"x": {"resultType": "complete", "ttlMs": 1}},
            {"x": {"resultType": "complete", "ttlMs": 1}},
        ),
    ],
)
def test_what_only_the_modern_era_has_is_stripped(
    revision: Revision, result: object, expected: object
) -> None:
    assert convert("resources/read", result, revision) == expected


@pytest.mark.parametrize("structured", [[1], "text", 5, None, True])
def test_structured_content_that_is_no_object_is_dropped(structured: object) -> None:
    result = {"resultType": "complete", "content": [TEXT], "structuredContent": structured}
    for revision in LEGACY:
        assert convert("tools/call", result, revision) == {"content": [TEXT]}
    kept = {"content": [TEXT], "structuredContent": {"a": 1}}
    for revision in LEGACY:
        assert convert("tools/call", kept, revision) == kept


def test_content_becomes_what_the_revision_knows() -> None:
    result = {"resultType": "complete", "content": [TEXT, LINK, AUDIO, {"type": "new"}]}
    link = {"type": "text", "text": "A: file:///a\nan a", "annotations": {"priority": 1}}
    blob = {
        "type": "resource",
        "resource": {"uri": "urn:mcp-mesh:audio:2", "mimeType": "audio/wav", "blob": "UklG"},
        "_meta": {"x": 1},
    }
    old = {"type": "new"}
    assert convert("tools/call", result, R4) == {"content": [TEXT, LINK, AUDIO, old]}
    assert convert("tools/call", result, R3) == {"content": [TEXT, LINK, AUDIO, old]}
    assert convert("tools/call", result, R2) == {"content": [TEXT, link, AUDIO, old]}
    assert convert("tools/call", result, R1) == {"content": [TEXT, link, blob, old]}


def test_prompt_messages_are_converted_too() -> None:
    messages = [{"role": "user", "content": LINK}, {"role": "user", "content": TEXT}]
    result = {"resultType": "complete", "description": "d", "messages": messages}
    assert convert("prompts/get", result, R3) == {"description": "d", "messages": messages}
    older = convert("prompts/get", result, R2)
    assert isinstance(older, dict)
    assert older["messages"][0]["content"]["text"] == "A: file:///a\nan a"
    assert older["messages"][1] == messages[1]


def test_output_schemas_go_where_they_are_not_known() -> None:
    def tool(schema: object) -> dict[str, object]:
        return {"name": "t", "inputSchema": {"type": "object"}, "outputSchema": schema}

    bare = {"name": "t", "inputSchema": {"type": "object"}}
    objects, arrays = tool({"type": "object", "x": 1}), tool({"type": "array"})
    result = {
        "resultType": "complete",
        "tools": [objects, arrays, tool(True), bare],
        "ttlMs": 1,
        "cacheScope": "private",
        "nextCursor": "c",
    }
    assert convert("tools/list", result, R3) == {
        "tools": [objects, bare, bare, bare],
        "nextCursor": "c",
    }
    assert convert("tools/list", result, R2) == {"tools": [bare] * 4, "nextCursor": "c"}


def test_flat_keys_never_displace_members_of_the_protocol() -> None:
    result = {
        "resultType": "complete",
        "content": [TEXT],
        "structuredContent": {"agentId": "a", "content": 1, "isError": "x", "_meta": 2, "é": 3},
        "isError": False,
    }
    own = {k: v for k, v in result.items() if k != "resultType"}
    assert convert("tools/call", result, R1, flat=True) == {
        **own,
        "agentId": "a",
        "_meta": 2,
        "é": 3,
    }
    assert convert("tools/call", result, R1) == own
    assert convert("tools/call", {"content": []}, R1, flat=True) == {"content": []}
    assert flatten(b"{}", b'{"a":1}') == b'{"a":1}'
    assert flatten(b'{"x":1}', b"[1]") == b'{"x":1}'
    assert flatten(b'{"x":1}', b"{}") == b'{"x":1}'


@pytest.mark.parametrize(
    "result",
    [
        b"[]",
        b"5",
        b"{",
        b'{"resultType":"input_required"}',
        b'{"resultType":"task"}',
        b'{"resultType":null}',
    ],
)
def test_what_an_old_client_cannot_understand_is_an_error(result: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        to_legacy_result("tools/call", result, R4)
    assert (caught.value.kind, caught.value.outcome) == (ErrorKind.UPSTREAM, Outcome.EXECUTED)


keys = st.sampled_from(["content", "resultType", "ttlMs", "_meta", "x", "é", "structuredContent"])
plain = st.dictionaries(
    keys.filter(lambda key: key != "resultType"), st.integers() | st.just({}), max_size=4
)


@given(plain, st.booleans())
def test_a_result_comes_back_as_it_went(result: dict[str, object], spaced: bool) -> None:
    data = json.dumps(result, indent=1 if spaced else None).encode()
    modern = from_legacy_result("logging/setLevel", data)
    assert json.loads(modern) == {"resultType": "complete", **result}
    expected = {key: value for key, value in result.items() if key != "ttlMs"}
    assert convert("logging/setLevel", json.loads(modern), R4) == expected


def test_malformed_content_passes_unchanged() -> None:
    for content in (
        "audio",
        [5, "audio"],
        {"type": "audio", "data": 5},
        [{"type": "resource_link", "uri": 1}],
    ):
        result = {"content": content}
        assert convert("tools/call", result, R1) == result
    with pytest.raises(MeshError):
        convert("tools/list", {"tools": {"outputSchema": 1}}, R1)
