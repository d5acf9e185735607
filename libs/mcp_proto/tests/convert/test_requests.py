import json

import pytest

from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.request_meta import check_envelope
from mcp_proto.types.meta import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LOG_LEVEL,
    PROTOCOL_VERSION,
    RELATED_TASK,
)

STAMP = EnvelopeStamp(b'{"roots": {}}', b'{"name":"c","version":"1"}', "info")
ENVELOPE = {
    PROTOCOL_VERSION: "2026-07-28",
    CLIENT_CAPABILITIES: {"roots": {}},
    CLIENT_INFO: {"name": "c", "version": "1"},
    LOG_LEVEL: "info",
}


@pytest.mark.parametrize(
    ("meta", "kept"),
    [
        (None, {}),
        ({}, {}),
        (
            {"progressToken": 5, "traceparent": "00-a", "x": [1]},
            {"progressToken": 5, "traceparent": "00-a", "x": [1]},
        ),
        ({PROTOCOL_VERSION: "2031-01-01", CLIENT_CAPABILITIES: {"sampling": {}}}, {}),
        ({RELATED_TASK: {"taskId": "t"}}, {RELATED_TASK: {"taskId": "t"}}),
        ({"io.modelcontextprotocol/subscriptionId": 1, "a": 1}, {"a": 1}),
    ],
)
def test_the_stamp_puts_the_envelope_on(meta: object, kept: dict[str, object]) -> None:
    params = {"name": "t", "arguments": {"_meta": 1}, "_meta": meta}
    stamped = STAMP.stamp(json.dumps(params).encode())
    assert json.loads(stamped) == {**params, "_meta": {**kept, **ENVELOPE}}
    assert check_envelope(stamped).log_level == "info"


def test_the_stamp_is_content_with_little() -> None:
    bare = EnvelopeStamp()
    assert json.loads(bare.stamp(b"")) == {
        "_meta": {PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {}}
    }
    assert bare.stamp(b'{"a": 1.0}').endswith(b',"a": 1.0}')
    check_envelope(bare.stamp(b""))


@pytest.mark.parametrize(("plain", "escaped"), [("client", "\\u0063lient"), ("/", "\\/")])
def test_a_client_cannot_raise_its_own_capabilities(plain: str, escaped: str) -> None:
    forged = json.dumps({CLIENT_CAPABILITIES: {"sampling": {}}}).replace(plain, escaped)
    stamped = STAMP.stamp(b'{"\\u005fmeta":' + forged.encode() + b"}")
    assert json.loads(stamped)["_meta"] == ENVELOPE
    assert stamped.count(b"apabilities") == 1


@pytest.mark.parametrize("params", [b"[]", b'{"_meta":5}', b'{"_meta":[]}'])
def test_params_that_are_no_objects_are_refused(params: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        STAMP.stamp(params)
    assert caught.value.kind is ErrorKind.PARAMS
