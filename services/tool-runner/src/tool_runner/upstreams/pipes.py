"""The three pipes of a child: lines in, lines out, and its log, each bounded.

A child is not trusted to behave: it may not read, print what is no protocol, write lines without
end or flood its log. Reading happens in callbacks of the event loop without a queue; what cannot
be used is dropped and counted.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import cast

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.framing import Line, LineFramer, TooLong, to_line
from mcp_proto.limits import UPSTREAM_MESSAGE_BYTES
from mesh_chassis.children import Child

__all__ = ["LOG_RING_BYTES", "WRITE_HIGH_BYTES", "LogPipe", "Pipes", "unwritable"]

WRITE_HIGH_BYTES = 1024 * 1024
"""Unread bytes towards a child from which further requests wait."""
LOG_RATE_BYTES_S = 64 * 1024
LOG_RING_BYTES = 256 * 1024
LOG_LINE_BYTES = 8 * 1024
LOG_RING_LINES = 2000  # very short lines cost more than their bytes
_FLOOD_BYTES = 8 * 1024 * 1024
"""Bytes of log in one second after which the child is left waiting for the rest of it."""
_REST_READ_BYTES = 64 * 1024
_REST_READS = 16  # a pipe holds 64 KiB, unless the child made it larger (up to 1 MiB)

_log = logging.getLogger(__name__)


class Pipes:
    """Stdin and stdout of a child as lines.

    Args:
        child: a started child; its descriptors belong to this object from now on.
        name: server name, for logs.
        on_line: called with each line.
        on_too_long: called once per line over 10 MiB.
        on_end: called when the child closed its stdout.
    """

    def __init__(
        self,
        child: Child,
        name: str,
        *,
        on_line: Callable[[bytes], None],
        on_too_long: Callable[[TooLong], None],
        on_end: Callable[[], None],
    ) -> None:
        self.log = LogPipe(name)
        self._child = child
        self._on_line = on_line
        self._on_too_long = on_too_long
        self._on_end = on_end
        self._out: asyncio.WriteTransport | None = None
        self._in: asyncio.ReadTransport | None = None
        self._err: asyncio.ReadTransport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._broken = False

    async def open(self) -> None:
        """Attach to the event loop."""
        loop = asyncio.get_running_loop()
        child = self._child
        self._out, _ = await loop.connect_write_pipe(
            lambda: _Writing(self._writable, self._on_broken), os.fdopen(child.stdin, "wb", 0)
        )
        self._out.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._err, _ = await loop.connect_read_pipe(
            lambda: self.log, os.fdopen(child.stderr, "rb", 0)
        )
        self._in, _ = await loop.connect_read_pipe(
            lambda: _Reading(self._on_line, self._on_too_long, self._on_end),
            os.fdopen(child.stdout, "rb", 0),
        )

    async def write(self, message: bytes, timeout_s: float) -> None:
        """Send one message.

        Raises:
            MeshError: ``upstream``, not executed: the child has not read for ``timeout_s``, or
                has closed its stdin.
        """
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._writable.wait()
            except TimeoutError:
                raise unwritable("does not read its input") from None
        self.write_now(message)

    def write_now(self, message: bytes) -> None:
        """Send one small message without waiting (answers, cancels).

        Raises:
            MeshError: ``upstream``, not executed.
        """
        if self._out is None or self._broken:
            raise unwritable("has closed its input")
        self._out.write(to_line(message))

    @property
    def congested(self) -> bool:
        """Whether the child leaves more than ``WRITE_HIGH_BYTES`` unread."""
        return not self._writable.is_set()

    def close_input(self) -> None:
        """Say that nothing more comes: the first step of the stdio shutdown of MCP."""
        if self._out is not None and not self._broken:
            if self._out.get_write_buffer_size():
                self._out.abort()  # it does not read; waiting for it would never end
            else:
                self._out.close()
        self._on_broken()

    def close(self) -> None:
        """Let go of all pipes; what the child last said on stderr is read before."""
        self.close_input()
        self.log.read_rest()
        for transport in (self._in, self._err):
            if transport is not None:
                transport.close()

    def _on_broken(self) -> None:
        self._broken = True
        self._writable.set()


def unwritable(what: str) -> MeshError:
    """Why nothing can be written to a server; nothing was."""
    return MeshError(ErrorKind.UPSTREAM, f"the server {what}", outcome=Outcome.NOT_EXECUTED)


class _Writing(asyncio.BaseProtocol):
    def __init__(self, writable: asyncio.Event, on_broken: Callable[[], None]) -> None:
        self._writable = writable
        self._on_broken = on_broken

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_broken()


class _Reading(asyncio.Protocol):
    def __init__(
        self,
        on_line: Callable[[bytes], None],
        on_too_long: Callable[[TooLong], None],
        on_end: Callable[[], None],
    ) -> None:
        self._framer = LineFramer(UPSTREAM_MESSAGE_BYTES)
        self._on_line = on_line
        self._on_too_long = on_too_long
        self._on_end = on_end

    def data_received(self, data: bytes) -> None:
        for event in self._framer.feed(data):
            self._take(event)

    def _take(self, event: Line | TooLong) -> None:
        if isinstance(event, Line):
            self._on_line(event.data)
        else:
            self._on_too_long(event)

    def connection_lost(self, exc: Exception | None) -> None:
        for event in self._framer.eof():
            self._take(event)
        self._on_end()


class LogPipe(asyncio.Protocol):
    """Stderr of a child: the newest part is kept, some of it goes to the log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ring: deque[bytes] = deque()
        self._held = 0
        self._rest = b""
        self._second = 0.0
        self._logged = 0
        self._seen = 0
        self._dropped = 0
        self._transport: asyncio.ReadTransport | None = None

    def tail(self, lines: int = 20) -> list[str]:
        """The newest lines."""
        newest = list(self._ring)[-lines:]
        return [line.decode(errors="replace") for line in newest]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # uvloop's transports are no subclass of asyncio's, only the same shape.
        self._transport = cast("asyncio.ReadTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._second >= 1.0:
            self._report_dropped()
            self._second, self._logged, self._seen = now, 0, 0
        self._seen += len(data)
        if self._seen > _FLOOD_BYTES and self._transport is not None:
            self._transport.pause_reading()
            loop.call_later(self._second + 1.0 - now, self._resume)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LOG_LINE_BYTES]
        for line in lines:
            self._keep(line[:LOG_LINE_BYTES].rstrip(b"\r"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        self._flush()
        self._report_dropped()

    def read_rest(self) -> None:
        """Take what a child that has exited left in the pipe, without waiting for more.

        A descendant may hold the pipe open and go on writing, so this is bounded.
        """
        pipe = self._transport.get_extra_info("pipe") if self._transport is not None else None
        if pipe is not None:
            for _ in range(_REST_READS):
                try:
                    data = os.read(pipe.fileno(), _REST_READ_BYTES)
                except OSError:
                    break  # nothing there now
                if not data:
                    break
                self.data_received(data)
        self._flush()

    def _flush(self) -> None:
        if self._rest:
            self._keep(self._rest)
            self._rest = b""

    def _resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _keep(self, line: bytes) -> None:
        if not line:
            return
        self._ring.append(line)
        self._held += len(line)
        while self._held > LOG_RING_BYTES or len(self._ring) > LOG_RING_LINES:
            self._held -= len(self._ring.popleft())
        if self._logged + len(line) <= LOG_RATE_BYTES_S:
            self._logged += len(line)
            text = line.decode(errors="replace")
            _log.info("%s", text, extra={"server": self._name, "stream": "stderr"})
        else:
            self._dropped += 1

    def _report_dropped(self) -> None:
        if self._dropped:
            _log.warning(
                "%d lines of the server's log were dropped", self._dropped,
                extra={"server": self._name},
            )  # fmt: skip
            self._dropped = 0
