"""The handshake on the control channel: a machine says hello, gets ``go``, and says ready.

Nothing inside may make a client, an id or a random value before ``go``: it brings fresh
randomness and the time, which clones of one snapshot need to be different machines. It brings no
credential: who the machine is follows from the socket it speaks on. The channel stays open; its
end, and the word ``stop`` on it, tell the machine to finish.
"""

import asyncio
import contextlib
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT

__all__ = ["Control", "Go"]

LINE_MAX = 64 * 1024
"""The guest may send any bytes: a longer line ends the channel."""
ENTROPY_BYTES = 32


class _Line(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One JSON object per line; unknown members are ignored."""


class Hello(_Line, frozen=True, kw_only=True):
    """First line of the guest."""

    type: str
    parked: bool = False
    image: str = ""
    agent: str = ""


class Go(_Line, frozen=True, kw_only=True, tag="go", tag_field="type"):
    """Answer of the host.

    Attributes:
        vm_id: who the machine is; also the instance id of the agent.
        tenant: whose.
        prefix: of every subject it may use.
        now: Unix time in seconds.
        entropy: hex digits of ``ENTROPY_BYTES`` fresh random bytes.
        link: address of the byte stream to the broker, seen from inside.
        config: for the program inside.
    """

    vm_id: str
    tenant: str
    prefix: str
    now: float
    entropy: str
    link: str = ""
    config: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(Hello).decode


class Control:
    """The control socket of one machine; it is used by one guest at a time.

    A guest that connects again (a second boot) replaces the one before.
    """

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._lines: asyncio.Queue[Hello | MeshError] = asyncio.Queue(16)
        self._writer: asyncio.StreamWriter | None = None
        self._handlers: set[asyncio.Task[object]] = set()

    async def listen(self, path: str) -> None:
        """Wait for the guest.

        Raises:
            OSError: the socket cannot be made.
        """
        self._server = await asyncio.start_unix_server(self._on_connect, path, limit=LINE_MAX)
        await asyncio.to_thread(Path(path).chmod, 0o600)

    async def hello(self) -> Hello:
        """The guest's first line.

        Raises:
            MeshError: ``upstream``: it said something else.
        """
        return await self._next("hello")

    async def go(self, go: Go) -> None:
        """Let it go on.

        Raises:
            MeshError: ``upstream``: it is gone.
        """
        await self._send(msgspec.json.encode(go))

    async def ready(self) -> None:
        """Wait until it is connected.

        Raises:
            MeshError: ``upstream``: it said something else.
        """
        await self._next("ready")

    async def stop(self) -> bool:
        """Ask the guest to finish; False = it does not listen."""
        try:
            await self._send(b'{"type":"stop"}')
        except MeshError:
            return False
        return True

    def forget(self) -> None:
        """What an earlier boot said counts no more."""
        while not self._lines.empty():
            self._lines.get_nowait()

    async def close(self) -> None:
        """Stop listening and hang up."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._writer is not None:
            self._writer.transport.abort()
        handlers = list(self._handlers)
        if handlers:
            await asyncio.wait(handlers, timeout=1.0)

    async def _next(self, kind: str) -> Hello:
        said = await self._lines.get()
        # A guest on a port says hello until it hears go, since nobody tells it who listens.
        while not isinstance(said, MeshError) and said.type == "hello" != kind:
            said = await self._lines.get()
        if isinstance(said, MeshError):
            raise said
        if said.type != kind:
            raise _odd(f"the machine said {said.type[:40]!r} instead of {kind!r}")
        return said

    async def _send(self, line: bytes) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise _odd("the machine has hung up")
        try:
            writer.write(line + b"\n")
            async with asyncio.timeout(1.0):
                await writer.drain()
        except (OSError, TimeoutError) as error:
            raise _odd("the machine does not listen") from error

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        before, self._writer = self._writer, writer
        if before is not None:
            before.transport.abort()
        self._handlers.add(task)
        try:
            await self._read(reader)
        finally:
            self._handlers.discard(task)
            if self._writer is writer:
                self._writer = None
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.QueueFull):
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                    said = _decode(line)
                except asyncio.IncompleteReadError:
                    return
                except (asyncio.LimitOverrunError, msgspec.DecodeError, UnicodeDecodeError):
                    self._lines.put_nowait(_odd("the machine says what is no hello"))
                    return
                self._lines.put_nowait(said)


def _odd(message: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, message, data={"phase": "hello"})
