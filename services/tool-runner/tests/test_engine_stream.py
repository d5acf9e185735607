"""Tests of tool_runner.core.engine_stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tool_runner.core.engine_stream import STDERR, STDOUT, EngineStream


def framed(stream: int, piece: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(piece).to_bytes(4, "big") + piece


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_pieces_come_out_as_they_went_in_however_they_are_cut(
    pieces: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(framed(*piece) for piece in pieces)
    stream, at, turn = EngineStream(), 0, 0
    got = {STDOUT: b"", STDERR: b""}
    while at < len(data):
        size = cuts[turn % len(cuts)]
        for kind, piece in stream.feed(data[at : at + size]):
            got[kind] += piece
        at, turn = at + size, turn + 1
    for kind, told in got.items():
        assert told == b"".join(piece for one, piece in pieces if one == kind)


def test_a_terminal_is_one_stream_without_headers() -> None:
    assert list(EngineStream(plain=True).feed(b"\2\0\0\0abc")) == [(STDOUT, b"\2\0\0\0abc")]


@pytest.mark.parametrize("data", [b"HTTP/1.1 ", b"\3\0\0\0\0\0\0\1", b"\1\1\0\0\0\0\0\1"])
def test_what_is_no_such_stream_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no stream of a container"):
        list(EngineStream().feed(data))


def test_a_huge_piece_is_passed_on_without_being_gathered() -> None:
    stream = EngineStream()
    head = bytes([STDERR, 0, 0, 0]) + (2**32 - 1).to_bytes(4, "big")
    assert list(stream.feed(head)) == []
    assert list(stream.feed(b"x" * 10)) == [(STDERR, b"x" * 10)]
