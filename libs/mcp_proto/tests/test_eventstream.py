"""Tests of mcp_proto.eventstream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.eventstream import Event, EventStream

STREAM = (
    b"\xef\xbb\xbf: hello\r\n\r\nid: 7\r\nevent: message\ndata: one\rdata:two\n\n"
    b"retry: 1500\n\ndata\n\nid\ndata:  spaced\n\nevent: end\ndata: x\n\ndata: half"
)
EVENTS = [
    Event(b"one\ntwo", "message", "7"),
    Event(b""),
    Event(b" spaced", "", ""),
    Event(b"x", "end"),
]


def test_stream_is_cut_into_events() -> None:
    stream = EventStream()
    assert stream.feed(STREAM) == EVENTS
    assert stream.retry_ms == 1500


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    stream, at, events = EventStream(), 0, []
    for cut in [*sorted(cuts), len(STREAM)]:
        events += stream.feed(STREAM[at:cut])
        at = cut
    assert events == EVENTS


def test_priming_event_sets_the_id_to_resume_from() -> None:
    stream = EventStream()
    assert stream.feed(b"id: a1\ndata:\n\n") == [Event(b"", "", "a1")]
    assert stream.last_id == "a1"


@pytest.mark.parametrize(
    "parts",
    [
        [b"data: " + b"x" * 200 + b"\n\n"],
        [b"data: " + b"x" * 60] * 400,
        [b"data: " + b"x" * 60 + b"\n"] * 4,
        [b"x" * 20_000],
        [b"id: " + b"x" * 10_000] * 4,
    ],
)
def test_event_over_the_bound_is_refused_before_it_is_held(parts: list[bytes]) -> None:
    stream = EventStream(100)

    def feed() -> None:
        for part in parts:
            stream.feed(part)

    with pytest.raises(MeshError) as caught:
        feed()
    assert caught.value.kind is ErrorKind.TOO_LARGE


def test_absurd_fields_are_ignored() -> None:
    stream = EventStream()
    assert stream.feed(b"retry: soon\nretry: -5\nid: a\0b\nfoo: bar\ndata: x\n\n") == [Event(b"x")]
    assert stream.retry_ms is None
    assert stream.feed(b"retry: 999999999\n\n") == []
    assert stream.retry_ms == 30_000
