import json

import pytest

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.request_meta import check_envelope, is_enveloped, meta_of
from mcp_proto.types.meta import CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL, PROTOCOL_VERSION

ENVELOPE = {PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {"sampling": {}}}


def params(**changes: object) -> bytes:
    meta = {**ENVELOPE, **{k: v for k, v in changes.items() if v != "-"}}
    return json.dumps({"name": "x", "_meta": meta}).encode()


def test_a_complete_envelope_is_read() -> None:
    raw = {CLIENT_INFO: {"name": "c", "version": "1"}, LOG_LEVEL: "info", "progressToken": 5}
    meta = check_envelope(params(**raw, traceparent="00-a-b-01", other=[1]))
    assert meta.protocol_version == "2026-07-28"
    assert bytes(meta.client_capabilities) == b'{"sampling": {}}'
    assert (meta.log_level, meta.progress_token, meta.traceparent) == ("info", 5, "00-a-b-01")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ErrorKind.PARAMS),
        (b"{}", ErrorKind.PARAMS),
        (b'{"_meta":null}', ErrorKind.PARAMS),
        (b'{"_meta":[]}', ErrorKind.PARAMS),
        (b'{"_meta":{}}', ErrorKind.PARAMS),
        (b"[]", ErrorKind.PARAMS),
        (json.dumps({"_meta": {PROTOCOL_VERSION: "2026-07-28"}}).encode(), ErrorKind.PARAMS),
        (params(**{PROTOCOL_VERSION: 5}), ErrorKind.PARAMS),
        (params(**{CLIENT_CAPABILITIES: []}), ErrorKind.PARAMS),
        (params(**{CLIENT_CAPABILITIES: None}), ErrorKind.PARAMS),
        (params(**{CLIENT_INFO: "me"}), ErrorKind.PARAMS),
        (params(progressToken=1.5), ErrorKind.PARAMS),
        (params(**{PROTOCOL_VERSION: "2031-01-01"}), ErrorKind.VERSION),
        (params(**{PROTOCOL_VERSION: "2025-11-25"}), ErrorKind.VERSION),
    ],
)
def test_an_incomplete_envelope_is_refused(data: bytes, kind: ErrorKind) -> None:
    with pytest.raises(MeshError) as caught:
        check_envelope(data)
    assert caught.value.kind is kind
    if kind is ErrorKind.VERSION:
        assert caught.value.data["supported"] == ["2026-07-28"]
        assert caught.value.data["requested"] in {"2031-01-01", "2025-11-25"}


def test_only_an_envelope_makes_a_request_modern() -> None:
    assert is_enveloped(params())
    assert is_enveloped(params(**{PROTOCOL_VERSION: "2031-01-01"}))
    assert is_enveloped(params(progressToken=1.5))
    assert is_enveloped(params(**{PROTOCOL_VERSION: 5}))
    escaped = params().replace(b"protocolVersion", b"protocol\\u0056ersion")
    assert is_enveloped(escaped)
    for data in (
        b"",
        b"{}",
        b"[]",
        b'{"protocolVersion":"2024-11-05","capabilities":{}}',
        b'{"arguments":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}',
        b'{"_meta":"io.modelcontextprotocol/protocolVersion"}',
    ):
        assert not is_enveloped(data)
    assert meta_of(b'{"_meta":{"progressToken":"t"}}').progress_token == "t"
