import json
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tool_runner.core import long_string
from tool_runner.core.long_string import LongString

MARK = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_string, "LONG_BYTES", 32)


def cut(data: bytes, size: int) -> tuple[LongString, list[bytes]]:
    """Feed a text in pieces of a size; what came out of it."""
    made = LongString(MARK, lambda _head: True)
    found = [made.feed(data[at : at + size]) for at in range(0, len(data), size)]
    return made, [one for one in found if one]


def read(pieces: list[bytes]) -> str:
    """Each piece by itself, as whoever uses it on its way does."""
    return "".join(msgspec.json.decode(b'"%b"' % one, type=str) for one in pieces)


texts = st.text(
    st.characters(codec="utf-8") | st.sampled_from(['"', "\\", "\n", "/", "\U0001f600", "ä", "€"]),
    min_size=40,
    max_size=300,
)
quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(text=texts, size=st.integers(1, 70), ascii_only=st.booleans())
@quick
def test_long_string_comes_out_whole_whatever_the_pieces_are(
    text: str, size: int, ascii_only: bool
) -> None:
    value = {"name": 'a "quoted\\" one', "arguments": {"key": "k", "content": text, "n": [1, "x"]}}
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    made, pieces = cut(data, size)
    rest = made.rest()
    if rest is None:  # it ended within the piece in which it grew long: nothing to cut
        assert pieces == []
        return
    assert read(pieces) == text
    left = json.loads(rest)
    assert left["arguments"].pop("content") == MARK.decode()
    assert left["arguments"] == {"key": "k", "n": [1, "x"]}


@given(data=st.binary(max_size=300), size=st.integers(1, 40))
@quick
def test_bytes_that_are_no_json_are_never_lost(data: bytes, size: int) -> None:
    made, pieces = cut(data, size)
    rest = made.rest()
    if rest is not None:
        assert rest.replace(MARK, b"".join(pieces), 1) == data


def test_string_that_is_not_wanted_there_stays() -> None:
    seen: list[bytes] = []

    def unwanted(head: bytes) -> bool:
        seen.append(head)
        return False

    made = LongString(MARK, unwanted)
    assert made.feed(b'{"a":"' + b"x" * 100) == b""
    assert made.feed(b'"}') == b""
    assert (made.rest(), made.begun, seen) == (None, False, [b'{"a":'])


def test_text_with_too_much_before_the_string_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_string, "STRINGS_MAX", 3)
    made, pieces = cut(b'["a","b","c","d","' + b"x" * 200 + b'"]', 50)
    assert (made.rest(), pieces) == (None, [])
    monkeypatch.setattr(long_string, "HEAD_BYTES_MAX", 100)
    made, pieces = cut(b"[" + b" " * 200 + b'"' + b"x" * 200 + b'"]', 50)
    assert (made.rest(), pieces) == (None, [])


def test_run_of_backslashes_is_read_from_its_start() -> None:
    for count in range(1, 60):
        text = "\\" * count + '"' + "y" * 40
        for size in (7, 33, 64):
            made, pieces = cut(json.dumps({"c": text}).encode(), size)
            if made.ended:
                assert read(pieces) == text


def test_string_without_an_end_is_no_string() -> None:
    made, pieces = cut(b'{"c":"' + bytes(random.Random(1).choices(b"abc", k=500)), 64)
    assert made.begun
    assert pieces
    assert made.rest() is None
