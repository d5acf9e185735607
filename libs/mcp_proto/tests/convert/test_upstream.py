import json

import pytest

from mcp_proto.convert.upstream import from_legacy_error, from_legacy_result
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.methods import CACHEABLE


def test_cacheable_results_get_their_hints() -> None:
    for method in CACHEABLE:
        made = from_legacy_result(method, b' {"x": 1.0}', ttl_ms=7)
        assert json.loads(made) == {
            "resultType": "complete",
            "ttlMs": 7,
            "cacheScope": "private",
            "x": 1.0,
        }
        assert made.endswith(b'"x": 1.0}')
        own = from_legacy_result(method, b'{"ttlMs":1,"cacheScope":"public"}')
        assert json.loads(own) == {"resultType": "complete", "ttlMs": 1, "cacheScope": "public"}
    assert from_legacy_result("tools/call", b"{ }") == b'{"resultType":"complete"}'


def test_a_result_type_of_an_old_upstream_does_not_count() -> None:
    made = from_legacy_result("tools/call", b'{"resultType":"task","a":{"resultType":1}}')
    assert json.loads(made) == {"resultType": "complete", "a": {"resultType": 1}}
    escaped = from_legacy_result("tools/call", b'{"r\\u0065sultType":"task"}')
    assert escaped == b'{"resultType":"complete"}'


@pytest.mark.parametrize("result", [b"[]", b"null", b"", b'"x"'])
def test_a_result_that_is_no_object_is_an_upstream_failure(result: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        from_legacy_result("tools/call", result)
    assert caught.value.kind is ErrorKind.UPSTREAM


@pytest.mark.parametrize(
    ("method", "code", "kind", "outcome"),
    [
        ("resources/read", -32002, ErrorKind.NOT_FOUND, Outcome.NOT_EXECUTED),
        ("tools/call", -32002, ErrorKind.UPSTREAM, Outcome.UNKNOWN),
        ("tools/call", -32602, ErrorKind.PARAMS, Outcome.UNKNOWN),
        ("tools/call", -32601, ErrorKind.METHOD, Outcome.NOT_EXECUTED),
        ("tools/call", -32603, ErrorKind.INTERNAL, Outcome.UNKNOWN),
        ("tools/call", -32000, ErrorKind.UPSTREAM, Outcome.UNKNOWN),
        ("tools/call", -32042, ErrorKind.UPSTREAM, Outcome.UNKNOWN),
        ("tools/call", -31016, ErrorKind.UPSTREAM, Outcome.UNKNOWN),
        ("tools/call", 7, ErrorKind.UPSTREAM, Outcome.UNKNOWN),
    ],
)
def test_upstream_codes_cross_the_bus_cleanly(
    method: str, code: int, kind: ErrorKind, outcome: Outcome
) -> None:
    error = from_legacy_error(
        method, ErrorObject(code, "text", {"uri": "u", "outcome": "executed", "retryAfterMs": 1})
    )
    assert (error.kind, error.outcome, error.message) == (kind, outcome, "text")
    assert error.data["uri"] == "u"
    assert error.retry_after_s is None
    assert not -32019 <= error.code <= -32000
    assert error.data.get("upstreamCode") == (code if kind is ErrorKind.UPSTREAM else None)


def test_data_of_any_shape_is_kept() -> None:
    assert from_legacy_error("x", ErrorObject(-32602, "t", [1])).data == {"upstreamData": [1]}
    assert from_legacy_error("x", ErrorObject(-32602, "t", None)).data == {}
    assert from_legacy_error("x", ErrorObject(-32602, "t")).data == {}
