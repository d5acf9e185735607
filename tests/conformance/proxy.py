"""A load balancer without memory: every HTTP request goes to a gateway drawn at random.

One request per connection (``Connection: close`` both ways), so that a kept-alive connection
cannot pin a client to one gateway. Bytes pass as they come: streams stay streams, and a client
that goes away is gone for the gateway too.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

__all__ = ["RandomProxy"]

_HEAD_MAX = 64 * 1024


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
            await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].split(b"\r\n")
        length = 0
        kept = [lines[0]]
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            if name.lower() != b"connection":
                kept.append(line)
        body = await reader.readexactly(length)
        number = self._draw.randrange(len(self._targets))
        self.chosen[number] += 1
        far_reader, far_writer = await asyncio.open_connection(*self._targets[number])
        try:
            far_writer.write(b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body)
            await far_writer.drain()
            await self._until_either_ends(reader, far_reader, writer)
        finally:
            far_writer.close()

    async def _until_either_ends(
        self,
        reader: asyncio.StreamReader,
        far_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        answering = asyncio.ensure_future(_pump(far_reader, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (answering, leaving):
                one.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head_sent = False
    while chunk := await reader.read(65536):
        if not head_sent:
            # The connection ends with this answer: say so, or the client would keep it.
            first, _, rest = chunk.partition(b"\r\n")
            chunk = first + b"\r\nConnection: close\r\n" + rest
            head_sent = True
        writer.write(chunk)
        await writer.drain()
