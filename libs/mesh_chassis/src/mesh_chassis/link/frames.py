"""Many streams over one serial port, as frames: the rules, without any I/O.

A virtio-serial port is one byte stream that neither says when the other side was replaced nor
keeps what was on its way then. So the guest begins with a mark nobody else knows (``MAGIC`` and a
random epoch) and believes nothing until it comes back; the host that loses the thread says so
(``RESET``) and waits for the next mark.

Frame, big-endian: type u8, stream u32, length u32, then as many bytes. Each stream has a window:
``WINDOW`` bytes may be on their way, more after ``CREDIT``; so a stream whose reader stalls
neither fills memory nor stops the other streams.
"""

import struct
from enum import IntEnum

import msgspec

__all__ = [
    "FRAME_MAX",
    "MAGIC",
    "STREAMS_MAX",
    "WINDOW",
    "Ended",
    "Event",
    "Guest",
    "Host",
    "Opened",
    "Received",
    "Reset",
    "Synced",
    "Widened",
]

MAGIC = b"MESH-LINK-MUX\x01\r\n"
"""16 bytes; the first is no frame type."""
EPOCH_BYTES = 8
FRAME_MAX = 64 * 1024
"""Largest payload of one frame, in bytes."""
STREAMS_MAX = 8
WINDOW = 256 * 1024
"""Bytes of one stream and direction that may be on their way."""
_CREDIT_STEP = WINDOW // 4
"""Credit is given back in pieces of this size, not per read."""
_MARK_BYTES = len(MAGIC) + EPOCH_BYTES
_HEAD = struct.Struct(">BII")
_CREDIT = struct.Struct(">I")


class _Type(IntEnum):
    OPEN = 1
    DATA = 2
    CLOSE = 3
    CREDIT = 4
    RESET = 5


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides speak of the same epoch; there are no streams."""


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """Every stream is gone.

    Attributes:
        reason: for logs.
    """

    reason: str


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The guest opened a stream."""

    stream: int


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a stream; ``consumed`` gives their room back."""

    stream: int
    data: bytes


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The other side closed a stream, in both directions."""

    stream: int


class Widened(msgspec.Struct, frozen=True, kw_only=True):
    """The other side takes more of a stream."""

    stream: int


Event = Synced | Reset | Opened | Received | Ended | Widened


class _Stream:
    __slots__ = ("expected", "owed", "room")

    def __init__(self) -> None:
        self.room = WINDOW
        """What we may still send."""
        self.expected = WINDOW
        """What the other side may still send."""
        self.owed = 0
        """Taken by our reader and not yet given back."""


class _OutOfStepError(Exception):
    pass


class _Side:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._streams: dict[int, _Stream] = {}
        self._last = 0
        self._events: list[Event] = []
        self.in_step = False

    def take(self) -> bytes:
        """What is to be written to the port; each byte is given once."""
        out, self._out = self._out, []
        return b"".join(out)

    def receive(self, data: bytes) -> list[Event]:
        """Bytes from the port, in pieces of any size."""
        self._buffer += data
        while self._frame() if self.in_step else self._seek():
            pass
        events, self._events = self._events, []
        return events

    def room(self, stream: int) -> int:
        """Bytes that may be sent on this stream now."""
        known = self._streams.get(stream)
        return known.room if known is not None else 0

    def send(self, stream: int, data: bytes | memoryview) -> None:
        """One frame; the caller has asked ``room`` and keeps within ``FRAME_MAX``."""
        known = self._streams[stream]
        if len(data) > min(known.room, FRAME_MAX):
            raise ValueError("more than the other side takes")
        known.room -= len(data)
        self._put(_Type.DATA, stream, bytes(data))

    def consumed(self, stream: int, size: int) -> None:
        """Our reader has taken this many bytes: the other side may send as many more."""
        known = self._streams.get(stream)
        if known is None:
            return
        known.owed += size
        if known.owed >= _CREDIT_STEP:
            self._put(_Type.CREDIT, stream, _CREDIT.pack(known.owed))
            known.expected += known.owed
            known.owed = 0

    def close(self, stream: int) -> None:
        """End a stream in both directions; what arrives for it later is dropped."""
        if self._streams.pop(stream, None) is not None:
            self._put(_Type.CLOSE, stream)

    def _put(self, kind: _Type, stream: int, payload: bytes = b"") -> None:
        self._out.append(_HEAD.pack(kind, stream, len(payload)) + payload)

    def _drop(self, reason: str) -> None:
        had = self.in_step
        self.in_step = False
        self._streams.clear()
        self._last = 0
        if had:
            self._events.append(Reset(reason=reason))

    def _seek(self) -> bool:
        raise NotImplementedError

    def _lost(self, reason: str) -> bool:
        raise NotImplementedError

    def _frame(self) -> bool:
        """Take one frame off the buffer; False = there is none yet."""
        buffer = self._buffer
        if len(buffer) < _HEAD.size:
            return False
        kind, stream, size = _HEAD.unpack_from(buffer)
        if size > FRAME_MAX or not _Type.OPEN <= kind <= _Type.RESET:
            return self._lost("a frame of unknown type or size")
        end = _HEAD.size + size
        if len(buffer) < end:
            return False
        payload = bytes(memoryview(buffer)[_HEAD.size : end])
        del buffer[:end]
        try:
            self._understand(kind, stream, payload)
        except _OutOfStepError as error:
            return self._lost(str(error))
        return self.in_step or bool(buffer)

    def _understand(self, kind: int, stream: int, payload: bytes) -> None:
        match kind:
            case _Type.OPEN:
                self._on_open(stream, payload)
            case _Type.DATA:
                self._on_data(stream, payload)
            case _Type.CLOSE:
                self._on_close(stream, payload)
            case _Type.CREDIT:
                self._on_credit(stream, payload)
            case _:
                raise _OutOfStepError("the other side lost the thread")

    def _on_open(self, stream: int, payload: bytes) -> None:
        raise _OutOfStepError("only the guest opens streams")

    def _on_data(self, stream: int, payload: bytes) -> None:
        known = self._streams.get(stream)
        if known is None:
            return  # sent before our CLOSE arrived there
        if len(payload) > known.expected:
            raise _OutOfStepError("more bytes than the window of a stream allows")
        known.expected -= len(payload)
        if payload:
            self._events.append(Received(stream=stream, data=payload))

    def _on_close(self, stream: int, payload: bytes) -> None:
        if payload:
            raise _OutOfStepError("CLOSE with bytes")
        if self._streams.pop(stream, None) is not None:
            self._events.append(Ended(stream=stream))

    def _on_credit(self, stream: int, payload: bytes) -> None:
        if len(payload) != _CREDIT.size:
            raise _OutOfStepError("CREDIT of a wrong size")
        known = self._streams.get(stream)
        if known is None:
            return
        known.room += _CREDIT.unpack(payload)[0]
        if known.room > WINDOW:
            raise _OutOfStepError("credit for bytes that were never sent")
        self._events.append(Widened(stream=stream))


class Guest(_Side):
    """The side that opens streams. Out of step it is of no more use: open the port anew.

    Args:
        epoch: 8 bytes that no earlier side of this port used.
    """

    def __init__(self, epoch: bytes) -> None:
        super().__init__()
        if len(epoch) != EPOCH_BYTES:
            raise ValueError("an epoch is 8 bytes")
        self._mark = MAGIC + epoch
        self._dead = False
        self._out.append(self._mark)

    def open(self) -> int:
        """A new stream; usable at once.

        Raises:
            ValueError: as many as there may be are open, or the sides are not in step.
        """
        if not self.in_step or len(self._streams) >= STREAMS_MAX:
            raise ValueError(f"at most {STREAMS_MAX} streams over one port")
        self._last += 1
        self._streams[self._last] = _Stream()
        self._put(_Type.OPEN, self._last)
        return self._last

    def _seek(self) -> bool:
        if self._dead:
            self._buffer.clear()
            return False
        found = self._buffer.find(self._mark)
        if found < 0:
            del self._buffer[: -(_MARK_BYTES - 1)]
            return False
        del self._buffer[: found + _MARK_BYTES]
        self.in_step = True
        self._events.append(Synced())
        return True

    def _lost(self, reason: str) -> bool:
        self._dead = True
        self._drop(reason)
        return False


class Host(_Side):
    """The side that streams are opened to. Whatever the guest sends, it only loses its streams."""

    def __init__(self) -> None:
        super().__init__()
        # A guest that outlived the host before us still believes in its streams.
        self._put(_Type.RESET, 0)

    def _seek(self) -> bool:
        found = self._buffer.find(MAGIC)
        if found < 0:
            del self._buffer[: -(len(MAGIC) - 1)]
            return False
        if len(self._buffer) < found + _MARK_BYTES:
            del self._buffer[:found]
            return False
        self._out.append(bytes(self._buffer[found : found + _MARK_BYTES]))
        del self._buffer[: found + _MARK_BYTES]
        self.in_step = True
        self._events.append(Synced())
        return True

    def _frame(self) -> bool:
        if (
            self._buffer and self._buffer[0] == MAGIC[0]
        ):  # no frame begins so: the guest opened the port again
            self._drop("the guest began anew")
            return True
        return super()._frame()

    def _lost(self, reason: str) -> bool:
        self._drop(reason)
        self._put(_Type.RESET, 0)
        return True

    def _on_open(self, stream: int, payload: bytes) -> None:
        if payload or stream <= self._last:
            raise _OutOfStepError("streams are numbered upwards")
        self._last = stream
        if len(self._streams) >= STREAMS_MAX:
            self._put(_Type.CLOSE, stream)
            return
        self._streams[stream] = _Stream()
        self._events.append(Opened(stream=stream))
