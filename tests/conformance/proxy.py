"""A load balancer without memory: every HTTP request goes to a gateway drawn at random.

A client's connection is kept, each of its requests goes over a connection of its own to a gateway,
so that no client is pinned to one. Bytes pass as they come: streams stay streams, and a client that
goes away is gone for the gateway too.

Kept because Node 24 cannot be closed behind (nodejs/undici issue 5360): where ``fetch`` has paused
for a reader, the end of a connection whose answer said ``Connection: close`` fails an assertion
outside of any promise, and the process with it.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

__all__ = ["RandomProxy"]

_HEAD_MAX = 64 * 1024
_PIECE = 64 * 1024


class RandomProxy:
    """Runs in a thread of its own.

    Args:
        targets: ``http://host:port`` of the gateways.
        seed: of the choice, so that a failing run can be repeated.
    """

    def __init__(self, targets: Sequence[str], seed: int = 0) -> None:
        parts = [urlsplit(target) for target in targets]
        self._targets = [(str(part.hostname), int(part.port or 80)) for part in parts]
        self._draw = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.chosen = [0] * len(targets)
        """Requests sent to each gateway."""
        self.port = 0

    def start(self) -> "RandomProxy":
        """Listen on a free loopback port."""
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        """End it and every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://localhost:{self.port}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_HEAD_MAX)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            begun = b""
            while (rest := await self._forward(begun, reader, writer)) is not None:
                begun = rest
        writer.close()

    async def _forward(
        self, begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """One request and its answer.

        Returns what has come of the next request already; None = the connection has ended.
        """
        request = _Head.of(begun + await reader.readuntil(b"\r\n\r\n"))
        body = await reader.readexactly(int(request.get(b"content-length") or 0))
        number = self._draw.randrange(len(self._targets))
        self.chosen[number] += 1
        far_reader, far_writer = await asyncio.open_connection(
            *self._targets[number], limit=_HEAD_MAX
        )
        try:
            far_writer.write(request.bytes(b"Connection: close") + body)
            await far_writer.drain()
            return await self._until_either_ends(reader, far_reader, writer)
        finally:
            far_writer.close()

    async def _until_either_ends(
        self,
        reader: asyncio.StreamReader,
        far_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bytes | None:
        answering = asyncio.ensure_future(_answer(far_reader, writer))
        coming = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, coming), return_when=asyncio.FIRST_COMPLETED)
            if coming.done() and not coming.result():
                return None
            whole = await answering
            if not whole:
                return None
            return coming.result() if coming.done() else b""
        finally:
            for one in (answering, coming):
                one.cancel()
            await asyncio.gather(answering, coming, return_exceptions=True)


class _Head:
    """First line and headers of a message, without ``Connection``."""

    def __init__(self, first: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self.first = first
        self._headers = headers

    @classmethod
    def of(cls, head: bytes) -> "_Head":
        first, *lines = head[:-4].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        kept = ((name, value) for name, _, value in pairs if name.lower() != b"connection")
        return cls(first, tuple(kept))

    def get(self, wanted: bytes) -> bytes:
        """Value of a header; empty without it."""
        found = (value.strip() for name, value in self._headers if name.lower() == wanted)
        return next(found, b"")

    def bytes(self, connection: bytes = b"") -> bytes:
        """As it travels."""
        lines = [self.first, *(name + b":" + value for name, value in self._headers)]
        return b"\r\n".join([*lines, *([connection] if connection else []), b"", b""])


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Pass an answer on; False = the connection has to end behind it."""
    head = _Head.of(await reader.readuntil(b"\r\n\r\n"))
    status = head.first.split()[1]
    if status in {b"204", b"304"}:
        writer.write(head.bytes())
    elif head.get(b"content-length"):
        writer.write(head.bytes())
        await _measured(reader, writer, int(head.get(b"content-length")))
    elif head.get(b"transfer-encoding").lower() == b"chunked":
        writer.write(head.bytes())
        await _chunked(reader, writer)
    else:
        writer.write(head.bytes(b"Connection: close"))
        while piece := await reader.read(_PIECE):
            await _pass(writer, piece)
        return False
    await writer.drain()
    return True


async def _measured(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int
) -> None:
    while length:
        piece = await reader.read(min(length, _PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        await _pass(writer, piece)


async def _chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Up to the chunk without length, the line behind it included; there are no trailers."""
    length = -1
    while length:
        line = await reader.readuntil(b"\r\n")
        length = int(line.partition(b";")[0], 16)
        writer.write(line)
        await _measured(reader, writer, length + 2)


async def _pass(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(piece)
    await writer.drain()
