"""Channels and topics, payloads and data, patterns as Redis reads them, own echoes."""

import json

import pytest

from tool_runner.core.redis_channels import data_of, matcher, patterns_of, topic_of
from tool_runner.core.redis_echoes import ECHO_S, ECHOES_MAX, Echoes


def test_patterns_may_be_written_with_and_without_the_prefix() -> None:
    assert patterns_of("mcp:", ("tasks:*", "mcp:tasks:*", "mcp:a")) == ("mcp:tasks:*", "mcp:a")
    assert patterns_of("", ("a*",)) == ("a*",)
    assert patterns_of("m[1]*", ("x",)) == (r"m\[1\]\*x",)


@pytest.mark.parametrize(
    ("channel", "topic"),
    [
        (b"mcp:tasks:high", "tasks:high"),
        ("mcp:größe".encode(), "größe"),
        (b"mcp:", None),
        (b"other:x", None),
        (b"mcp:\xff", None),
        (b"mcp:a\0b", None),
        (b"mcp:" + b"x" * 257, None),
    ],
)
def test_topic_is_the_channel_without_the_prefix(channel: bytes, topic: str | None) -> None:
    assert topic_of("mcp:", channel) == topic


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"7", 7),
        (b'"x"', "x"),
        (b"hello", {"text": "hello"}),
        (b"", {"text": ""}),
        (b"{broken", {"text": "{broken"}),
        (b"\xff\xfe", {"base64": "//4="}),
    ],
)
def test_payload_that_is_no_json_is_wrapped(payload: bytes, data: object) -> None:
    assert json.loads(data_of(payload)) == data


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("a*", [b"a", b"abc", b"a\n"], [b"ba"]),
        ("a?c", [b"abc"], [b"ac", b"abbc"]),
        ("h[ae]llo", [b"hallo", b"hello"], [b"hillo"]),
        ("h[^e]llo", [b"hallo"], [b"hello"]),
        ("h[a-c]llo", [b"hbllo"], [b"hdllo"]),
        (r"a\*b", [b"a*b"], [b"axb"]),
        ("a.b", [b"a.b"], [b"axb"]),
        ("a[b", [b"a[b"], [b"ab"]),
        ("**a**", [b"a", b"xay"], [b"x"]),
    ],
)
def test_patterns_fit_as_in_redis(pattern: str, fits: list[bytes], does_not: list[bytes]) -> None:
    first = matcher((pattern,))
    assert all(first(one) == pattern.encode() for one in fits)
    assert not any(first(one) for one in does_not)


def test_of_two_patterns_that_fit_the_first_counts() -> None:
    first = matcher(("mcp:a*", "mcp:*"))
    assert (first(b"mcp:ab"), first(b"mcp:b"), first(b"x")) == (b"mcp:a*", b"mcp:*", None)


def test_own_message_is_heard_as_ours_as_often_as_it_was_sent() -> None:
    now = [0.0]
    echoes = Echoes(lambda: now[0])
    echoes.expect(b"c", b"x")
    echoes.expect(b"c", b"x")
    assert [echoes.heard(b"c", b"x") for _ in range(3)] == [True, True, False]
    echoes.expect(b"c", b"x")
    assert not echoes.heard(b"cx", b"")
    now[0] = ECHO_S + 1
    assert not echoes.heard(b"c", b"x")


def test_echoes_that_never_come_are_bounded() -> None:
    now = [0.0]
    echoes = Echoes(lambda: now[0])
    for n in range(3 * ECHOES_MAX):
        now[0] += 0.01
        echoes.expect(b"c", str(n).encode())
    assert echoes._size <= ECHOES_MAX
    assert echoes.heard(b"c", str(3 * ECHOES_MAX - 1).encode())
