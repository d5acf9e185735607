"""Subject, headers and body of a request, and what happens when they disagree."""

import msgspec
import pytest

from mcp_proto import subjects
from mcp_proto.asked import read_request
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError

CALL = subjects.parse("mesh.v1.acme.call.kv.kv_get")
READ = subjects.parse("mesh.v1.acme.rpc.notes.resources.read")
COMPLETE = subjects.parse("mesh.v1.acme.rpc.notes.completion.complete")


def body(method="tools/call", **params) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})


def read(subject, payload, protocol=None, **headers):
    return read_request(subject, RequestEnvelope(**headers), protocol, payload)


def test_full_request_is_read_without_touching_its_arguments():
    raw = (
        b'{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"arguments":{ "b":1.50,"a":[]},'
    )
    raw += b'"name":"kv_get"}}'
    asked = read(CALL, raw, "2026-07-28", method="tools/call", name="kv_get")
    assert asked.id == "x"
    assert bytes(asked.arguments) == b'{ "b":1.50,"a":[]}'


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"arguments":{"key":"a"}}'])
def test_bare_params_or_nothing_make_a_call_of_the_subjects_tool(payload):
    asked = read(CALL, payload)
    assert asked.method == "tools/call"
    assert asked.name == "kv_get"
    assert msgspec.json.decode(asked.params)["name"] == "kv_get"


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (body(name="kv_set"), {}),
        (body(name="kv_get"), {"name": "kv_set"}),
        (body(name="kv_get"), {"method": "resources/read"}),
        (body("resources/read", uri="x"), {}),
        (b'{"name":"kv_set"}', {}),
    ],
)
def test_disagreement_is_a_header_mismatch(payload, headers):
    with pytest.raises(MeshError) as caught:
        read(CALL, payload, **headers)
    assert caught.value.kind is ErrorKind.HEADER_MISMATCH


@pytest.mark.parametrize(
    "payload",
    [
        b'{"name":"kv_get","name":"kv_set"}',
        b'{"name":"kv_set","n\\u0061me":"kv_get"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"kv_get"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    ],
)
def test_name_that_two_readers_would_read_differently_is_refused(payload):
    with pytest.raises(MeshError) as caught:
        read(CALL, payload)
    assert caught.value.kind in {ErrorKind.PARAMS, ErrorKind.HEADER_MISMATCH}


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"{", ErrorKind.PARSE),
        (b"\xff", ErrorKind.PARSE),
        (b"[1]", ErrorKind.REQUEST),
        (b'"x"', ErrorKind.REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"tools/call"}', ErrorKind.REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"tools/call"}', ErrorKind.REQUEST),
        (b'{"jsonrpc":"2.0","method":"tools/call"}', ErrorKind.REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', ErrorKind.REQUEST),
        (b"[" * 5000, ErrorKind.REQUEST),
    ],
)
def test_garbage_is_refused_with_the_right_kind(payload, kind):
    with pytest.raises(MeshError) as caught:
        read(CALL, payload)
    assert caught.value.kind is kind


def test_another_protocol_version_is_refused():
    with pytest.raises(MeshError) as caught:
        read(CALL, b"", "2025-11-25")
    assert caught.value.kind is ErrorKind.VERSION


def test_resource_request_takes_its_uri_from_body_or_header():
    assert read(READ, body("resources/read", uri="file:///a b")).name == "file:///a b"
    asked = read(READ, b"", name="file:///a")
    assert msgspec.json.decode(asked.params) == {"uri": "file:///a"}
    with pytest.raises(MeshError):
        read(READ, body("resources/read", uri="file:///a"), name="file:///b")


def test_method_without_a_name_passes_its_params_untouched():
    asked = read(COMPLETE, body("completion/complete", ref={"type": "x"}))
    assert bytes(asked.params) == b'{"ref":{"type":"x"}}'
