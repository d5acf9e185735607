"""Content types of artifacts: what is taken, and what is text."""

import pytest

from tool_runner.core.media_types import charset_problem, is_text, media_type_problem


@pytest.mark.parametrize(
    "text",
    [
        "text/plain",
        "text/plain; charset=utf-8",
        'text/plain; charset="utf-8"; x=y',
        "application/vnd.oasis.opendocument.text",
        "image/svg+xml",
        "application/x.y-z_1+json;v=2",
    ],
)
def test_media_types_are_taken(text: str) -> None:
    assert media_type_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    ["", "text", "text/", "/plain", "text/plain;", "text/plain; x", "a b/c", "text/plain\r\nx: y",
     "text/plän", 'text/plain; x="a\nb"', "x/" + "y" * 300, "*/*;q=0.1 "],
)  # fmt: skip
def test_anything_else_is_refused_with_the_reason(text: str) -> None:
    assert media_type_problem(text)


@pytest.mark.parametrize(
    ("text", "textual"),
    [
        ("text/markdown", True),
        ("TEXT/HTML; charset=UTF-8", True),
        ("application/json", True),
        ("application/problem+json", True),
        ("image/svg+xml", True),
        ("text/plain; charset=latin-1", False),
        ("application/pdf", False),
        ("image/png", False),
    ],
)
def test_text_is_what_a_person_can_read_as_utf8(text: str, textual: bool) -> None:
    assert is_text(text) is textual


def test_text_in_another_charset_is_sent_as_bytes() -> None:
    assert "latin-1" in charset_problem("text/plain; charset=latin-1")
    assert charset_problem("text/plain; charset=us-ascii") == ""
