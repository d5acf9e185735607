"""The frames of a port: whatever arrives, a side keeps its bounds and finds its way back."""

import random
import struct

import pytest

from mesh_chassis.link.frames import (
    FRAME_MAX,
    MAGIC,
    STREAMS_MAX,
    WINDOW,
    Ended,
    Guest,
    Host,
    Opened,
    Received,
    Reset,
    Synced,
    Widened,
)

EPOCH = b"epoch--1"


def frame(kind: int, stream: int, payload: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">BII", kind, stream, len(payload) if size is None else size) + payload


def pair() -> tuple[Guest, Host]:
    guest, host = Guest(EPOCH), Host()
    guest.receive(host.take())
    assert host.receive(guest.take()) == [Synced()]
    assert guest.receive(host.take()) == [Synced()]
    return guest, host


def opened() -> tuple[Guest, Host, int]:
    guest, host = pair()
    stream = guest.open()
    assert host.receive(guest.take()) == [Opened(stream=stream)]
    return guest, host, stream


def test_the_sides_agree_whatever_the_port_still_held() -> None:
    guest, host = Guest(EPOCH), Host()
    stale = b"\x02\x00\x00\x00\x01\x00\x00\x00\x05hello" + MAGIC + b"anotherE"
    assert guest.receive(stale) == []
    assert host.receive(b"garbage" + MAGIC[:7] + guest.take()) == [Synced()]
    assert guest.receive(host.take()) == [Synced()]


def test_bytes_reach_the_other_side_in_pieces_of_any_size() -> None:
    guest, host, stream = opened()
    body = random.Random(1).randbytes(100_000)
    guest.send(stream, body[:FRAME_MAX])
    guest.send(stream, body[FRAME_MAX:])
    wire = guest.take()
    got = b""
    for at in range(0, len(wire), 997):
        for event in host.receive(wire[at : at + 997]):
            assert isinstance(event, Received)
            got += event.data
    assert got == body


def test_a_sender_stops_at_the_window_and_goes_on_with_credit() -> None:
    guest, host, stream = opened()
    while guest.room(stream):
        guest.send(stream, bytes(min(FRAME_MAX, guest.room(stream))))
    with pytest.raises(ValueError, match="more than"):
        guest.send(stream, b"x")
    host.receive(guest.take())
    host.consumed(stream, 10)
    assert host.take() == b""  # not per read
    host.consumed(stream, WINDOW - 10)
    assert guest.receive(host.take()) == [Widened(stream=stream)]
    assert guest.room(stream) == WINDOW


def test_a_guest_that_ignores_the_window_loses_its_streams() -> None:
    _, host, stream = opened()
    for _ in range(WINDOW // FRAME_MAX):
        host.receive(frame(2, stream, bytes(FRAME_MAX)))
    events = host.receive(frame(2, stream, b"x"))
    assert isinstance(events[-1], Reset)
    assert not host.in_step


@pytest.mark.parametrize(
    "hostile",
    [
        frame(9, 1),
        frame(0, 1),
        frame(255, 1),
        frame(2, 1, size=FRAME_MAX + 1),
        frame(2, 1, size=2**32 - 1),
        frame(1, 1),  # opened already
        frame(1, 0),
        frame(1, 5, b"x"),
        frame(3, 1, b"x"),
        frame(4, 1, b"xyz"),
        frame(4, 1, struct.pack(">I", 1)),  # credit for what was never sent
        frame(5, 0),
        MAGIC[:1] + b"no mark at all, but as long as one",
    ],
)
def test_the_host_drops_streams_and_nothing_else_when_a_frame_is_wrong(hostile: bytes) -> None:
    _, host, _ = opened()
    host.take()
    assert isinstance(host.receive(hostile)[-1], Reset)
    assert not host.in_step
    anew = Guest(b"epoch--2")
    assert host.receive(b"\x00rest" + anew.take()) == [Synced()]
    assert anew.receive(host.take()) == [Synced()]


def test_a_guest_that_opens_the_port_again_begins_without_streams() -> None:
    _, host, _ = opened()
    anew = Guest(b"epoch--2")
    events = host.receive(anew.take())
    assert [type(event) for event in events] == [Reset, Synced]
    anew.receive(host.take())
    assert host.receive(frame(1, anew.open())) == [Opened(stream=1)]


def test_a_guest_hears_that_its_host_was_replaced() -> None:
    guest, _, _ = opened()
    successor = Host()
    assert isinstance(guest.receive(successor.take())[0], Reset)
    assert guest.receive(MAGIC + EPOCH) == []  # of no more use


def test_the_ninth_stream_is_closed_at_once() -> None:
    guest, host = pair()
    for _ in range(STREAMS_MAX):
        guest.open()
    host.receive(guest.take())
    with pytest.raises(ValueError, match="at most 8"):
        guest.open()
    assert host.receive(frame(1, 99)) == []
    assert host.take() == frame(3, 99)
    assert host.in_step


def test_bytes_sent_before_a_close_arrived_are_dropped() -> None:
    guest, host, stream = opened()
    host.close(stream)
    assert host.receive(frame(2, stream, b"late") + frame(4, stream, bytes(4))) == []
    assert guest.receive(host.take()) == [Ended(stream=stream)]
    assert host.in_step


def test_random_bytes_never_make_a_host_fail_or_keep_more_than_a_frame() -> None:
    dice = random.Random(7)
    for _ in range(200):
        _, host, _ = opened()
        for _ in range(20):
            host.receive(dice.randbytes(dice.randrange(2000)))
            assert len(host._buffer) <= FRAME_MAX + 64
        anew = Guest(b"epoch--3")
        mark = anew.take()
        host.take()
        # Garbage that promised a long frame swallows what follows, but never more than a frame.
        for _ in range(FRAME_MAX // len(mark) + 3):
            if any(isinstance(event, Synced) for event in host.receive(mark)):
                break
        else:
            pytest.fail("the host never answered")
