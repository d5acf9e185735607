import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.framing import Event, Line, LineFramer, TooLong, to_line


def feed_all(framer: LineFramer, *pieces: bytes) -> list[Event]:
    events = [event for piece in pieces for event in framer.feed(piece)]
    return events + framer.eof()


def test_the_framer_cuts_lines_when_they_end_in_lf_or_crlf() -> None:
    events = feed_all(LineFramer(), b"a\nb\r\n\n\r\n  \nc\rd\n\xef\xbb\xbfe\x00\n")
    assert events == [
        Line(b"a"),
        Line(b"b"),
        Line(b"c\rd"),
        Line(b"\xef\xbb\xbfe\x00"),
    ]


def test_the_framer_gives_the_unfinished_rest_when_the_stream_ends() -> None:
    framer = LineFramer()
    assert framer.feed(b'{"a":1}\n{"b"') == [Line(b'{"a":1}')]
    assert framer.feed(b":2}") == []
    assert framer.held_bytes == 7
    assert framer.eof() == [Line(b'{"b":2}')]
    assert framer.eof() == []


TEXT = (
    b'{"a":1}\r\n\n{"bb":"\xc3\xa9"}\n'
    + b"z" * 41
    + b'\n{"jsonrpc":"2.0","id":7,"method":"'
    + b"y" * 60
    + b'"}\nlast'
)


def test_the_framer_gives_the_same_events_when_the_stream_is_split_anywhere() -> None:
    whole = feed_all(LineFramer(40), TEXT)
    assert [type(event) for event in whole] == [Line, Line, TooLong, TooLong, Line]
    assert whole[3] == TooLong(7, 40)
    for cut in range(len(TEXT) + 1):
        assert feed_all(LineFramer(40), TEXT[:cut], TEXT[cut:]) == whole
    assert feed_all(LineFramer(40), *(TEXT[i : i + 1] for i in range(len(TEXT)))) == whole


@given(
    st.lists(st.text(alphabet='ab"\r 1', max_size=12), max_size=8),
    st.lists(st.integers(0, 120), max_size=6),
)
def test_the_framer_never_depends_on_how_bytes_arrive(lines: list[str], cuts: list[int]) -> None:
    data = "\n".join(lines).encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    assert feed_all(LineFramer(8), *pieces) == feed_all(LineFramer(8), data)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_limit_counts_the_line_without_its_end(end: bytes) -> None:
    for feed in (lambda data: [data], lambda data: [data[i : i + 1] for i in range(len(data))]):
        assert feed_all(LineFramer(10), *feed(b"x" * 10 + end)) == [Line(b"x" * 10)]
        assert feed_all(LineFramer(10), *feed(b"x" * 11 + end)) == [TooLong(None, 10)]


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":12,"method":"m","params":{"t":"%s"}}', 12),
        (b'{"id":"q","jsonrpc":"2.0","params":{"t":"%s"}}', "q"),
        (b' { "jsonrpc" : "2.0" , "id" : -3 , "params":["%s"]}', -3),
        (b'{"jsonrpc":"2.0","method":"m","params":{"t":"%s","id":9},"id":"end"}', "end"),
        (b'{"jsonrpc":"2.0","method":"m","params":{"id":5,"t":"%s"}}', None),
        (b'{"jsonrpc":"2.0","method":"m","params":{"t":"%s","id":5}}', None),
        (b'{"jsonrpc":"2.0","id":null,"params":{"t":"%s"}}', None),
        (b'{"jsonrpc":"2.0","id":1.5,"params":{"t":"%s"}}', None),
        (b'{"jsonrpc":"2.0","id":18446744073709551616,"params":{"t":"%s"}}', None),
        (b'{"note":"\\",\\"id\\":3,","id":4,"params":{"t":"%s"}}', 4),
        (b'{"jsonrpc":"2.0","text":"%s"}', None),
        (b"%s", None),
    ],
)
def test_an_over_long_line_gives_one_event_with_its_own_id(
    line: bytes, request_id: str | int | None
) -> None:
    data = line.replace(b"%s", b"x" * 20_000) + b'\n{"next":1}\n'
    expected: list[Event] = [TooLong(request_id, 5000), Line(b'{"next":1}')]
    assert feed_all(LineFramer(5000), data) == expected
    assert (
        feed_all(LineFramer(5000), *(data[i : i + 700] for i in range(0, len(data), 700)))
        == expected
    )


def test_the_id_at_the_front_is_answered_before_the_line_ends() -> None:
    framer = LineFramer(100)
    assert framer.feed(b'{"id":1,"x":"' + b"y" * 200) == [TooLong(1, 100)]
    assert framer.feed(b"z" * 10_000_000) == []
    assert framer.held_bytes < 10_000
    assert framer.feed(b'"}\n{}\n') == [Line(b"{}")]


def test_an_endless_line_keeps_memory_bounded() -> None:
    framer = LineFramer(100_000)
    for _ in range(1000):
        assert framer.feed(b"q" * 10_000) == []
        assert framer.held_bytes <= 100_000
    assert framer.eof() == [TooLong(None, 100_000)]


def test_big_lines_and_tiny_pieces_cost_linear_time() -> None:
    started = time.perf_counter()
    framer = LineFramer()
    piece = b"x" * 65_536
    for _ in range(159):
        framer.feed(piece)
    (line,) = framer.feed(b"\n")
    assert isinstance(line, Line)
    assert len(line.data) == 159 * 65_536
    tiny = LineFramer()
    for _ in range(300_000):
        tiny.feed(b"x")
    assert time.perf_counter() - started < 3.0


def test_a_pretty_printed_message_becomes_one_line() -> None:
    value = {"a": "x\r\ny", "b": [1, {"c": None}]}
    line = to_line(json.dumps(value, indent=2).replace("\n", "\r\n").encode())
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert b"\r" not in line
    assert json.loads(line) == value
