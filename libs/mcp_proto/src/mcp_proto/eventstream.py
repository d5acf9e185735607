"""Server-sent events: bytes to events, with a bound (WHATWG HTML, section 9.2.6)."""

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.limits import UPSTREAM_MESSAGE_BYTES

__all__ = ["Event", "EventStream"]

_LINE_HEAD_BYTES = 16 * 1024
"""Longest field other than data, ample for an event id."""
RETRY_MAX_MS = 30_000


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. ``kind`` "" = message; ``id`` None = the event gives none."""

    data: bytes
    kind: str = ""
    id: str | None = None


class EventStream:
    """Cuts a byte stream into events. Holds at most one event of at most ``max_bytes``.

    Attributes:
        last_id: id of the newest event that had one; "" = none.
        retry_ms: how long the server wants us to wait before coming back; None = it said nothing.
    """

    def __init__(self, max_bytes: int = UPSTREAM_MESSAGE_BYTES) -> None:
        self.last_id = ""
        self.retry_ms: int | None = None
        self._max = max_bytes
        self._held = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._kind = ""
        self._id: str | None = None
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes.

        Raises:
            MeshError: ``too_large`` (executed): an event exceeds the bound.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            # A lone CR ends a line too; of a CR LF cut in two the LF comes with the next chunk.
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[Event] = []
        *lines, rest = chunk.split(b"\n")
        for piece in lines:
            line = piece
            if self._held:
                self._held += piece
                line = bytes(self._held)
                self._held = bytearray()
            self._take(line, events)
        if rest:
            if len(self._held) + len(rest) + self._size > self._max + _LINE_HEAD_BYTES:
                raise self._too_large()
            self._held += rest
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._size += len(value) + 1
                if self._size - 1 > self._max:
                    raise self._too_large()
                self._data.append(value)
            case b"event":
                self._kind = value[:64].decode(errors="replace")
            case b"id" if b"\0" not in value and len(value) <= _LINE_HEAD_BYTES:
                self._id = self.last_id = value.decode(errors="replace")
            case b"retry" if value.isdigit() and len(value) < 10:
                self.retry_ms = min(int(value), RETRY_MAX_MS)
            case _:
                pass  # a comment, or a field nobody knows

    def _dispatch(self, events: list[Event]) -> None:
        if self._data or self._id is not None:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(Event(data, self._kind, self._id))
        self._data, self._size, self._kind, self._id = [], 0, "", None

    def _too_large(self) -> MeshError:
        return MeshError(
            ErrorKind.TOO_LARGE,
            f"an event of the server exceeds {self._max} bytes",
            data={"maxBytes": self._max},
            outcome=Outcome.EXECUTED,
        )
