"""Tests of gateway.core.httprules and gateway.core.paramheaders."""

import msgspec
import pytest

from gateway.core import httprules, paramheaders
from gateway.core.httprules import HostRules
from mcp_proto.errors import ErrorKind, MeshError

LOCAL = HostRules.of(
    host="127.0.0.1",
    loopback=True,
    allowed_hosts=("gw.example",),
    origins=("https://app.example/",),
)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"localhost", True),
        (b"LOCALHOST:3000", True),
        (b"127.0.0.1:1", True),
        (b"[::1]:3000", True),
        (b"gw.example:443", True),
        (b"evil.example", False),
        (b"localhost.evil.example", False),
        (b"127.0.0.1.nip.io", False),
        (b"", False),
        (None, False),
    ],
)
def test_only_own_names_are_accepted_in_host(host: bytes | None, allowed: bool) -> None:
    assert LOCAL.host_allowed(host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"http://localhost:3000", True),
        (b"http://127.0.0.1:3000", True),
        (b"HTTPS://APP.example", True),
        (b"http://localhost:3001", False),
        (b"http://localhost", False),
        (b"null", False),
        (b"https://evil.example", False),
        (b"http://localhost:3000/", False),
        (b"http://localhost:3000@evil.example", False),
        (b"http://[bad", False),
        (b"file://localhost:3000", False),
        (b"", False),
    ],
)
def test_only_own_and_listed_origins_are_accepted(origin: bytes, allowed: bool) -> None:
    assert LOCAL.origin_allowed(origin, b"localhost:3000") is allowed


def test_a_public_listener_does_not_answer_to_loopback_names() -> None:
    rules = HostRules.of(host="10.0.0.1", loopback=False, allowed_hosts=(), origins=())
    assert rules.host_allowed(b"10.0.0.1:3000")
    assert not rules.host_allowed(b"localhost:3000")


def test_routing_headers_appear_once_others_may_repeat() -> None:
    read = httprules.read([(b"x", b"1"), (b"x", b"2"), (b"mcp-name", b" \ta\t ")])
    assert read == {b"x": b"1", b"mcp-name": b"a"}
    for name in (b"mcp-name", b"mcp-param-x", b"host", b"authorization"):
        with pytest.raises(MeshError) as caught:
            httprules.read([(name, b"a"), (name, b"a")])
        assert caught.value.kind is ErrorKind.HEADER_MISMATCH


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/json, text/event-stream", (True, True)),
        (b"*/*", (True, True)),
        (b"APPLICATION/*;q=0.5", (True, False)),
        (b"text/event-stream;q=0, application/json", (True, False)),
        (b"text/html", (False, False)),
        (None, (False, False)),
    ],
)
def test_accept_is_read_as_types(value: bytes | None, expected: tuple[bool, bool]) -> None:
    assert httprules.accepts(value) == expected


@pytest.mark.parametrize("value", [b"Basic x", b"Bearer", b"Bearer  ", b"Bearer \xff", b"token"])
def test_anything_but_a_bearer_token_is_refused(value: bytes) -> None:
    with pytest.raises(MeshError):
        httprules.bearer(value)


def test_a_bearer_token_is_read_whatever_the_case_of_the_scheme() -> None:
    assert httprules.bearer(b"bEaReR abc") == "abc"
    assert httprules.bearer(None) == ""


def schema(properties: dict[str, object]) -> bytes:
    return msgspec.json.encode(
        {"name": "t", "inputSchema": {"type": "object", "properties": properties}}
    )


RULES = paramheaders.param_headers(
    schema(
        {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "flag": {"type": "boolean", "x-mcp-header": "Flag"},
        }
    )
)


@pytest.mark.parametrize(
    ("arguments", "headers", "agree"),
    [
        ({}, {}, True),
        ({"region": None}, {}, True),
        ({"region": "eu"}, {"mcp-param-region": "eu"}, True),
        ({"region": "é"}, {"mcp-param-region": "=?base64?w6k=?="}, True),
        ({"deep": {"n": 42}}, {"mcp-param-n": "42.0"}, True),
        ({"flag": True}, {"mcp-param-flag": "true"}, True),
        ({"flag": True}, {"mcp-param-flag": "1"}, False),
        ({"region": "eu"}, {}, False),
        ({}, {"mcp-param-region": "eu"}, False),
        ({"region": "eu"}, {"mcp-param-region": "us"}, False),
        ({"region": "eu"}, {"mcp-param-region": "=?base64?!!?="}, False),
        ({"deep": {"n": 42}}, {"mcp-param-n": "x"}, False),
    ],
)
def test_mirrored_arguments_are_compared_with_their_headers(
    arguments: object, headers: dict[str, str], agree: bool
) -> None:
    raw = msgspec.json.encode(arguments)
    if agree:
        paramheaders.check(RULES, raw, headers)
        return
    with pytest.raises(MeshError) as caught:
        paramheaders.check(RULES, raw, headers)
    assert caught.value.kind is ErrorKind.HEADER_MISMATCH


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": "object", "x-mcp-header": "A"}},
        {"a": {"type": "string", "x-mcp-header": "bad name"}},
        {
            "a": {"type": "string", "x-mcp-header": "A"},
            "b": {"type": "string", "x-mcp-header": "a"},
        },
        {"a": {"items": {"type": "string", "x-mcp-header": "A"}}},
        {},
    ],
)
def test_an_invalid_annotation_counts_as_none(properties: dict[str, object]) -> None:
    assert paramheaders.param_headers(schema(properties)) == ()
