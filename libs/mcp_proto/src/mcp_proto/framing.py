"""Byte streams to lines and back: the framing of stdio and TCP, without I/O.

One JSON message per line, LF or CRLF. A line over the limit is answered and skipped; the
connection goes on with the next line. Nothing is judged here: NUL, BOM and bad UTF-8 are bytes
of a line, and the decoder says what is wrong with them.
"""

import re
from typing import TypeAlias

import msgspec

from mcp_proto.jsonrpc import ID_CHARS_MAX, ID_MAX, ID_MIN, RequestId
from mcp_proto.limits import EDGE_MESSAGE_BYTES

__all__ = ["Event", "Line", "LineFramer", "TooLong", "leading_id", "to_line"]

_PEEK_BYTES = 4096
"""Kept of an over-long line at either end, to find its id: envelopes begin or end with it."""


class Line(msgspec.Struct, frozen=True, gc=False):
    """One complete line without its line end."""

    data: bytes


class TooLong(msgspec.Struct, frozen=True, gc=False):
    """A line exceeded the limit and is being discarded; answer it with ``too_large``.

    Attributes:
        request_id: id of the message, where it could be read; else None.
        max_bytes: the limit.
    """

    request_id: RequestId | None
    max_bytes: int


Event: TypeAlias = Line | TooLong


class LineFramer:
    """Cuts a byte stream into lines; holds at most one line of at most ``max_bytes``.

    Args:
        max_bytes: longest line, without its line end.
    """

    def __init__(self, max_bytes: int = EDGE_MESSAGE_BYTES) -> None:
        self._max = max_bytes
        # One growing buffer: appending is amortised constant whatever the size of the pieces.
        self._held = bytearray()
        self._skipping = False
        self._answered = False

    @property
    def held_bytes(self) -> int:
        """Bytes of the unfinished line kept in memory."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """Take the next piece of the stream.

        Returns:
            The lines it completes, in order; blank lines are left out. A line over the limit
            gives exactly one ``TooLong``: at once if its beginning shows the id, else at its end.
        """
        *complete, rest = data.split(b"\n")
        events: list[Event] = []
        for piece in complete:
            self._finish(piece, events)
        if rest:
            self._hold(rest, events)
        return events

    def eof(self) -> list[Event]:
        """The stream has ended: a line without line end still counts."""
        events: list[Event] = []
        self._finish(b"", events)
        return events

    def _finish(self, piece: bytes, events: list[Event]) -> None:
        if self._held or self._skipping:
            self._hold(piece, events)
            if self._skipping:
                if not self._answered:
                    events.append(TooLong(_tail_id(self._held), self._max))
                self._skipping = self._answered = False
                self._held = bytearray()
                return
            piece = bytes(self._held)
            self._held = bytearray()
        if piece.endswith(b"\r"):
            piece = piece[:-1]
        if len(piece) > self._max:
            found = _head_id(piece[:_PEEK_BYTES])
            events.append(
                TooLong(found if found is not None else _tail_id(piece[-_PEEK_BYTES:]), self._max)
            )
        elif piece and not piece.isspace():
            events.append(Line(piece))

    def _hold(self, piece: bytes, events: list[Event]) -> None:
        held = self._held
        if self._skipping:
            # Only the end of the line can still matter, and only if it is not answered yet.
            if not self._answered:
                held += piece[-_PEEK_BYTES:]
                del held[:-_PEEK_BYTES]
            return
        size = len(held) + len(piece)
        # One byte of grace: it may turn out to be the CR of the line end.
        if size <= self._max or (size == self._max + 1 and (piece or held)[-1:] == b"\r"):
            held += piece
            return
        found = _head_id(bytes(held[:_PEEK_BYTES]) + piece[:_PEEK_BYTES])
        self._skipping = True
        self._answered = found is not None
        if found is not None:
            events.append(TooLong(found, self._max))
            self._held = bytearray()
        else:
            self._held = held[-_PEEK_BYTES:] + piece[-_PEEK_BYTES:]


_STRING = rb'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_NUMBER = rb"-?\d++(?:\.\d++)?+(?:[eE][+-]?\d++)?+"
# From the opening brace over scalar members only: an id seen later may belong to a nested object.
_HEAD = re.compile(
    rb"[\s\xef\xbb\xbf]*+\{(?:\s*+(?!\"id\")" + _STRING + rb"\s*+:\s*+"
    rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null)\s*+,)*+"
    rb"\s*+\"id\"\s*+:\s*+(" + _STRING + rb"|-?\d++)\s*+[,}]"
)
# The very last member: the brace behind it ends the line, so it closes the message itself.
_TAIL = re.compile(rb"[,{]\s*+\"id\"\s*+:\s*+(" + _STRING + rb"|-?\d++)\s*+\}\s*+\Z")
_id = msgspec.json.Decoder(RequestId)


def leading_id(data: bytes) -> RequestId | None:
    """The id of a message that cannot be decoded, where its beginning shows it; else None."""
    return _head_id(data[:_PEEK_BYTES])


def _head_id(head: bytes) -> RequestId | None:
    match = _HEAD.match(head)
    return _checked_id(match.group(1)) if match else None


def _tail_id(tail: bytes | bytearray) -> RequestId | None:
    match = _TAIL.search(tail)
    return _checked_id(match.group(1)) if match else None


def _checked_id(raw: bytes | bytearray) -> RequestId | None:
    try:
        value = _id.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if isinstance(value, int):
        return value if ID_MIN <= value <= ID_MAX else None
    return value if len(value) <= ID_CHARS_MAX else None


def to_line(message: bytes) -> bytes:
    """A message as one line, with its line end.

    Valid JSON has raw line breaks only between tokens (a pretty-printed body from HTTP has), so
    they become blanks and no value changes.
    """
    if b"\n" in message:
        message = message.replace(b"\n", b" ")
    if b"\r" in message:
        message = message.replace(b"\r", b" ")
    return message + b"\n"
