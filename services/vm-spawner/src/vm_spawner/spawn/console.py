"""What a machine prints: kept to the last 16 KiB, passed on line by line within a hard rate.

The machine may write as much as it likes: it is read, so that it does not block, and what is over
the rate is counted and thrown away before it costs anybody else.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mcp_proto.contracts.vm_spawner import CONSOLE_BYTES_MAX, LINE_BYTES_MAX
from mesh_chassis.clock import monotonic

__all__ = ["Console"]

CONNECTIONS_MAX = 2
"""One writer; a second while the first is being torn down (a retry of the boot)."""
_READ_BYTES = 16 * 1024
_BURST_S = 2.0

OnLine = Callable[[bytes], None]


class Console:
    """The console socket of one machine.

    Args:
        on_line: called with each line that is within the rate, without its end.
        bytes_per_s: rate that is passed on.
        clock: seconds, monotonic.
    """

    def __init__(
        self, on_line: OnLine, *, bytes_per_s: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self._on_line = on_line
        self._rate = bytes_per_s
        self._clock = clock
        self._allowed = bytes_per_s * _BURST_S
        self._at = clock()
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._line = bytearray()
        self._cut = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[object]] = set()
        self.dropped = 0
        """Bytes that were not passed on."""

    async def listen(self, path: str) -> None:
        """Take what the machine prints.

        Raises:
            OSError: the socket cannot be made.
        """
        self._server = await asyncio.start_unix_server(self._on_connect, path, limit=_READ_BYTES)
        await asyncio.to_thread(Path(path).chmod, 0o600)

    @property
    def tail(self) -> bytes:
        """The last of it."""
        return b"".join(self._kept)[-CONSOLE_BYTES_MAX:]

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._kept.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes - len(self._kept[0]) >= CONSOLE_BYTES_MAX:
            self._kept_bytes -= len(self._kept.popleft())
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            self._end_line()
        self._add(rest)

    async def close(self) -> None:
        """Stop listening; what was read stays."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        handlers = list(self._handlers)
        if handlers:
            await asyncio.wait(handlers, timeout=1.0)
        if self._line:
            self._end_line()

    def _add(self, part: bytes) -> None:
        room = LINE_BYTES_MAX - len(self._line)
        if len(part) > room:
            self.dropped += len(part) - room
            part = part[:room]
        self._line += part

    def _end_line(self) -> None:
        line = bytes(self._line).rstrip(b"\r")
        self._line.clear()
        if not line:
            return
        now = self._clock()
        self._allowed = min(self._rate * _BURST_S, self._allowed + (now - self._at) * self._rate)
        self._at = now
        if len(line) > self._allowed:
            self.dropped += len(line)
            return
        self._allowed -= len(line)
        self._on_line(line)

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._writers.add(writer)
        self._handlers.add(task)
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(_READ_BYTES):
                    self.feed(data)
        finally:
            self._handlers.discard(task)
            self._writers.discard(writer)
            writer.close()
