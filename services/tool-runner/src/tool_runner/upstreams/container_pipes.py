"""Stdin, stdout and stderr of a container over one connection to its engine, as lines and log.

The twin of ``pipes.Pipes``: the same words, the same bounds.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.framing import Line, LineFramer, TooLong, to_line
from mcp_proto.limits import UPSTREAM_MESSAGE_BYTES
from tool_runner.core.engine_stream import STDERR, EngineStream
from tool_runner.upstreams.engine import message_of
from tool_runner.upstreams.pipes import WRITE_HIGH_BYTES, LogPipe, unwritable

__all__ = ["ContainerPipes"]

HEAD_BYTES_MAX = 16 * 1024
_END_OF_HEAD = b"\r\n\r\n"


class ContainerPipes(asyncio.Protocol):
    """Pipes of a container.

    Args:
        name: server name, for logs.
        on_line: called with each line of stdout.
        on_too_long: called once per line over 10 MiB.
        on_end: called when the connection ends: no answer can come any more.
    """

    def __init__(
        self,
        name: str,
        *,
        on_line: Callable[[bytes], None],
        on_too_long: Callable[[TooLong], None],
        on_end: Callable[[], None],
    ) -> None:
        self.log = LogPipe(name)
        self._on_line = on_line
        self._on_too_long = on_too_long
        self._on_end = on_end
        self._framer = LineFramer(UPSTREAM_MESSAGE_BYTES)
        self._stream = EngineStream()
        self._head = b""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._broken = False

    async def opened(self) -> None:
        """Wait until the engine has attached us.

        Raises:
            MeshError: ``upstream``, not executed: it does not; says why.
        """
        await self._opened

    async def write(self, message: bytes, timeout_s: float) -> None:
        """See ``Pipes``."""
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._writable.wait()
            except TimeoutError:
                raise unwritable("does not read its input") from None
        self.write_now(message)

    def write_now(self, message: bytes) -> None:
        """See ``Pipes``."""
        if self._transport is None or self._broken:
            raise unwritable("has closed its input")
        self._transport.write(to_line(message))

    @property
    def congested(self) -> bool:
        """See ``Pipes``."""
        return not self._writable.is_set()

    def close_input(self) -> None:
        """See ``Pipes``."""
        transport = self._transport
        if transport is not None and not self._broken:
            if transport.get_write_buffer_size():
                transport.abort()  # it does not read; waiting for it would never end
            elif transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
        self._on_broken()

    def close(self) -> None:
        """Let go of the connection."""
        self.close_input()
        self.log.read_rest()
        if self._transport is not None:
            self._transport.close()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        # uvloop's transports are no subclass of asyncio's, only the same shape.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        # A flood of log makes it read nothing for a while: the container then waits.
        self.log.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if not self._opened.done():
            data = self._read_head(data)
        try:
            for stream, piece in self._stream.feed(data):
                if stream == STDERR:
                    self.log.data_received(piece)
                else:
                    for event in self._framer.feed(piece):
                        self._take(event)
        except ValueError:
            self._abort("the engine's stream cannot be read")

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._on_broken()
        self._refuse("the engine closed the connection")
        for event in self._framer.eof():
            self._take(event)
        self.log.connection_lost(exc)
        self._on_end()

    def _read_head(self, data: bytes) -> bytes:
        """Take the head of the engine's answer; what follows it is the container's."""
        head, end, rest = (self._head + data).partition(_END_OF_HEAD)
        if not end:
            self._head = head
            if len(head) > HEAD_BYTES_MAX:
                self._abort("the engine's answer has no end")
            return b""
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        status = words[1] if len(words) > 1 and words[0].startswith(b"HTTP/1.") else b""
        if status in {b"101", b"200"}:
            self._opened.set_result(None)
            return rest
        self._abort(message_of(rest) or "the engine does not attach us")
        return b""

    def _take(self, event: Line | TooLong) -> None:
        if isinstance(event, Line):
            self._on_line(event.data)
        else:
            self._on_too_long(event)

    def _abort(self, reason: str) -> None:
        self._refuse(reason)
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, reason: str) -> None:
        if not self._opened.done():
            self._opened.set_exception(
                MeshError(
                    ErrorKind.UPSTREAM,
                    f"cannot attach to the container: {reason}",
                    outcome=Outcome.NOT_EXECUTED,
                )
            )
            self._opened.exception()  # whoever gave up before no longer looks at it

    def _on_broken(self) -> None:
        self._broken = True
        self._writable.set()
