"""Both ends of a port with many streams, for asyncio; each stream is a reader and a writer.

What carries the frames is any asyncio transport: the Unix socket that QEMU dials on the host, a
``PortTransport`` in the guest. A stream is a transport as well, so that whoever reads and writes
it cannot tell it from a socket.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from mesh_chassis.link.frames import (
    FRAME_MAX,
    STREAMS_MAX,
    Ended,
    Event,
    Guest,
    Host,
    Opened,
    Received,
    Reset,
    Synced,
)

__all__ = ["GuestMux", "HostMux", "OnStream", "Streams"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OnStream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
"""Told of each stream that the guest opens; must not block."""

READ_LIMIT = 256 * 1024
"""As the socket reads of the bus: twice this may wait for a reader before it is paused."""
HIGH_WATER = 64 * 1024
"""Unsent bytes of one stream from which ``drain`` waits."""
PIECE = 32 * 1024
"""One frame's share of the port, so that a large body does not keep the others waiting."""
CARRIER_MAX = 1024 * 1024
"""Unsent bytes of the port; a guest that makes us answer and never reads is cut off."""
_log = logging.getLogger(__name__)


class _StreamTransport(asyncio.Transport):
    """One stream as a transport."""

    def __init__(self, mux: "_Mux", stream: int) -> None:
        super().__init__()
        self._mux = mux
        self.stream = stream
        self._protocol: asyncio.Protocol | None = None
        self._unsent = bytearray()
        self._paused = False
        self._reading = True
        self._waiting = 0
        """Bytes given to a reader that is full; their room is given back when it reads again."""
        self._closing = False
        self._gone = False

    def begin(self, protocol: asyncio.StreamReaderProtocol) -> None:
        """Attach the reader's side."""
        self._protocol = protocol
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is nothing to say about a stream."""
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As of any transport."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As of any transport."""
        if self._protocol is None:
            raise RuntimeError("the stream has no protocol yet")
        return self._protocol

    def is_closing(self) -> bool:
        """True once ``close`` was called or the stream is gone."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes not yet in a frame."""
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send as much as the window allows; the rest waits."""
        if self._closing or not data:
            return
        self._unsent += data
        self._mux.pump()
        if len(self._unsent) > HIGH_WATER and not self._paused and self._protocol is not None:
            self._paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Streams end in both directions at once."""
        return False

    def pause_reading(self) -> None:
        """The reader is full: the other side gets no more room."""
        self._reading = False

    def resume_reading(self) -> None:
        """The reader takes bytes again."""
        self._reading = True
        waiting, self._waiting = self._waiting, 0
        self._mux.consumed(self.stream, waiting)

    def is_reading(self) -> bool:
        """False while the reader is full."""
        return self._reading

    def close(self) -> None:
        """End the stream once everything written is on its way."""
        if not self._closing:
            self._closing = True
            self._mux.pump()

    def abort(self) -> None:
        """End the stream at once."""
        self._closing = True
        self._unsent.clear()
        self._mux.pump()

    # For the mux

    def received(self, data: bytes) -> None:
        """Bytes from the other side."""
        if self._protocol is not None and not self._gone:
            self._protocol.data_received(data)
        if self._reading:
            self._mux.consumed(self.stream, len(data))
        else:
            self._waiting += len(data)

    def piece(self, room: int) -> bytes:
        """The next bytes to send, at most ``room``."""
        data = bytes(self._unsent[: min(room, PIECE)])
        del self._unsent[: len(data)]
        if self._paused and len(self._unsent) <= HIGH_WATER // 4 and self._protocol is not None:
            self._paused = False
            self._protocol.resume_writing()
        return data

    @property
    def finished(self) -> bool:
        """Closed by us and everything sent."""
        return self._closing and not self._unsent

    @property
    def unsent(self) -> bool:
        """Something waits for room."""
        return bool(self._unsent)

    def lost(self, error: OSError | None) -> None:
        """The stream is gone; None = the other side closed it."""
        if self._gone:
            return
        self._gone = self._closing = True
        self._unsent.clear()
        protocol = self._protocol
        if protocol is not None:
            asyncio.get_running_loop().call_soon(protocol.connection_lost, error)


class _Mux(asyncio.Protocol):
    """What both ends share: frames in, events to the streams, pieces of streams out."""

    def __init__(self, side: Guest | Host) -> None:
        self._side = side
        self._carrier: asyncio.Transport | None = None
        self._streams: dict[int, _StreamTransport] = {}
        self._full = False

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The port is open."""
        self._carrier = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes from the port."""
        for event in self._side.receive(data):
            self._on(event)
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """The port is gone, and every stream with it."""
        self._carrier = None
        self._lose_all("the port is closed")

    def pause_writing(self) -> None:
        """The port takes no more; streams keep what they have."""
        self._full = True

    def resume_writing(self) -> None:
        """The port takes bytes again."""
        self._full = False
        self.pump()

    def consumed(self, stream: int, size: int) -> None:
        """A reader took bytes."""
        self._side.consumed(stream, size)
        self._flush()

    def pump(self) -> None:
        """Send what windows and port allow, one piece per stream and turn."""
        busy = True
        while busy and not self._full:
            busy = False
            for one in list(self._streams.values()):
                room = min(self._side.room(one.stream), FRAME_MAX)
                if one.unsent and room and not self._full:
                    self._side.send(one.stream, one.piece(room))
                    self._flush()
                    busy = True
        for one in [one for one in self._streams.values() if one.finished]:
            self._side.close(one.stream)
            self._forget(one.stream, None)
        self._flush()

    def close(self) -> None:
        """Close the port."""
        if self._carrier is not None:
            self._carrier.close()

    def _new(self, stream: int) -> tuple[_StreamTransport, Streams]:
        loop = asyncio.get_running_loop()
        transport = _StreamTransport(self, stream)
        reader = asyncio.StreamReader(limit=READ_LIMIT, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        self._streams[stream] = transport
        transport.begin(protocol)
        return transport, (reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    def _on(self, event: Event) -> None:
        match event:
            case Received(stream=stream, data=data):
                if stream in self._streams:
                    self._streams[stream].received(data)
            case Ended(stream=stream):
                self._forget(stream, None)
            case Reset(reason=reason):
                self._lose_all(reason)
            case _:
                pass

    def _forget(self, stream: int, error: OSError | None) -> None:
        known = self._streams.pop(stream, None)
        if known is not None:
            known.lost(error)

    def _lose_all(self, reason: str) -> None:
        for stream in list(self._streams):
            self._forget(stream, ConnectionResetError(reason))

    def _flush(self) -> None:
        data = self._side.take()
        if data and self._carrier is not None:
            self._carrier.write(data)
            if self._carrier.get_write_buffer_size() > CARRIER_MAX:
                _log.warning("a port that is written to and never read is cut off")
                self._carrier.abort()


class HostMux(_Mux):
    """The spawner's end of one port: ``create_unix_server(lambda: HostMux(...))``.

    Args:
        on_stream: see ``OnStream``.
    """

    def __init__(self, on_stream: OnStream) -> None:
        super().__init__(Host())
        self._on_stream = on_stream

    def _on(self, event: Event) -> None:
        if isinstance(event, Opened):
            _, (reader, writer) = self._new(event.stream)
            self._on_stream(reader, writer)
        else:
            super()._on(event)


class GuestMux(_Mux):
    """The guest's end of one opening of the port.

    Args:
        epoch: 8 bytes that no earlier opening used.
        on_lost: called once when the sides are out of step or the port is gone.
    """

    def __init__(self, epoch: bytes, on_lost: Callable[[], None]) -> None:
        self._guest = Guest(epoch)
        super().__init__(self._guest)
        self._on_lost = on_lost
        self._lost = False
        self.synced = asyncio.get_running_loop().create_future()

    def open(self) -> Streams:
        """A new stream.

        Raises:
            ConnectionError: the port is gone, or it carries as many streams as it may.
        """
        if self._lost or self._carrier is None or not self._guest.in_step:
            raise ConnectionResetError("the port is closed")
        if self.streams >= STREAMS_MAX:
            raise ConnectionRefusedError(f"at most {STREAMS_MAX} streams over one port")
        _, streams = self._new(self._guest.open())
        self._flush()
        return streams

    def connection_lost(self, exc: Exception | None) -> None:
        """The port is gone."""
        super().connection_lost(exc)
        self._tell_lost()

    def _on(self, event: Event) -> None:
        if isinstance(event, Synced):
            if not self.synced.done():
                self.synced.set_result(None)
            return
        super()._on(event)
        if isinstance(event, Reset):
            self._tell_lost()
            self.close()

    def _forget(self, stream: int, error: OSError | None) -> None:
        super()._forget(stream, error)
        if not self._streams and not self._lost:
            self._flush()  # the host hears of the last stream before the port is let go
            self._tell_lost()
            self.close()

    def _tell_lost(self) -> None:
        if not self._lost:
            self._lost = True
            if not self.synced.done():
                self.synced.set_exception(ConnectionResetError("the port is closed"))
                self.synced.exception()  # somebody may wait, nobody must
            self._on_lost()
