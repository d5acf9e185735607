"""The way back to a peer on a byte stream: answers joined, one write per loop iteration.

Back-pressure in three steps: notifications are dropped, then nothing more is read from the peer,
then the connection is cut. Answers are never dropped on a connection that lives.
"""

import asyncio
import logging
from typing import Protocol

from mcp_proto.framing import to_line
from mcp_proto.limits import EDGE_MESSAGE_BYTES

__all__ = ["ENOUGH_BYTES", "LineTransport", "LineWriter"]

ENOUGH_BYTES = 1024 * 1024
"""Unsent bytes from which no more is read: a peer that does not listen may not ask either."""
UNSENT_MAX_BYTES = 4 * EDGE_MESSAGE_BYTES
"""Unsent bytes at which a connection is cut: four of the largest answers."""
QUEUED_MAX = 1_000
"""Messages of one loop iteration from which notifications are dropped."""

_log = logging.getLogger(__name__)


class LineTransport(Protocol):
    """What carries the bytes; ``asyncio.Transport`` is one."""

    def write(self, data: bytes) -> None:
        """Send."""
        ...

    def get_write_buffer_size(self) -> int:
        """Bytes not yet sent."""
        ...

    def pause_reading(self) -> None:
        """Feed nothing more."""
        ...

    def resume_reading(self) -> None:
        """Feed again."""
        ...

    def close(self) -> None:
        """End after everything written is sent."""
        ...

    def abort(self) -> None:
        """End now."""
        ...


class LineWriter:
    """Writes messages as lines."""

    def __init__(self, transport: LineTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._armed = False
        self._paused = False
        self.gone = False
        """The peer is not there any more; nothing is written."""

    def send(self, message: bytes) -> None:
        """An answer, or anything else that must arrive."""
        if self.gone:
            return
        self._out.append(to_line(message))
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self.flush)

    def notice(self, message: bytes) -> None:
        """A notification; dropped when the peer does not keep up."""
        if self._transport.get_write_buffer_size() < ENOUGH_BYTES and len(self._out) < QUEUED_MAX:
            self.send(message)

    def flush(self) -> None:
        """Hand everything to the transport."""
        self._armed = False
        if not self._out or self.gone:
            return
        out, self._out = self._out, []
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._transport.get_write_buffer_size() > UNSENT_MAX_BYTES:
            _log.warning("a peer does not read its answers and is cut")
            self._transport.abort()

    def close(self) -> None:
        """Send what there is, then end."""
        self.flush()
        self._transport.close()

    def pause(self) -> None:
        """The peer does not read fast enough: read nothing from it either."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """It reads again."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
