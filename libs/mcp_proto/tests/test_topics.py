"""Topics of tenants: one token whatever their text, and patterns in which a star is any text."""

import time

import pytest

from mcp_proto import subjects
from mcp_proto.contracts.topics import fits, readable_source, writable_source
from mcp_proto.errors import ErrorKind, MeshError


@pytest.mark.parametrize("text", ["a", "tasks:high_priority", "a.b", "*", ">", "..", "ключ", "_"])
def test_topic_is_one_token_and_comes_back(text: str) -> None:
    subject = subjects.topic("acme", text)
    assert subject.count(".") == 4
    assert not set(subject) & set("*> ")
    assert subjects.parse(subject).names == (text,)
    assert subjects.parse(subject).tenant == "acme"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", ErrorKind.PARAMS), ("\ud800", ErrorKind.PARAMS), ("x" * 257, ErrorKind.TOO_LARGE)],
)
def test_what_is_no_topic_is_refused(text: str, kind: ErrorKind) -> None:
    with pytest.raises(MeshError) as refused:
        subjects.topic("acme", text)
    assert refused.value.kind is kind


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("", "anything", True),
        ("a", "a", True),
        ("a", "ab", False),
        ("*", "", True),
        ("tasks:*", "tasks:a:b", True),
        ("tasks:*", "tasks", False),
        ("*:high", "tasks:high", True),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "acb", False),
        ("a**b", "a\nb", True),
        (".*", "x", False),
        ("[a]*", "a", False),
    ],
)
def test_star_is_any_text_and_nothing_else_is_special(
    pattern: str, topic: str, expected: bool
) -> None:
    assert fits(pattern, topic) is expected


def test_hostile_pattern_costs_no_more_than_its_length() -> None:
    began = time.perf_counter()
    assert not fits("*a" * 120 + "*b", "a" * 256)
    assert time.perf_counter() - began < 0.5


def test_source_travels_as_a_header_value() -> None:
    for principal in ("user@example.com", "a\r\nMesh-Ctx: x", "ключ"):
        value = writable_source(principal)
        assert value.isascii()
        assert value.isprintable()
        assert readable_source(value) == principal
