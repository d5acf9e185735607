"""QEMU's monitor protocol, as far as machines need it: pause, go on, end.

The spawner listens and QEMU dials, so QEMU may not write into the folder of the machine's
sockets. A QEMU that was taken over may say anything here: answers are bounded in size and time.
"""

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["Monitor"]

ANSWER_S = 5.0
LINE_MAX = 64 * 1024


class _Failure(msgspec.Struct):
    desc: str = ""


class _Line(msgspec.Struct):
    id: int = 0
    error: _Failure | None = None
    greeting: msgspec.Raw = msgspec.field(name="QMP", default=msgspec.Raw(b""))
    value: msgspec.Raw = msgspec.field(name="return", default=msgspec.Raw(b""))


_decode = msgspec.json.Decoder(_Line).decode


class Monitor:
    """The monitor of one machine."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._greeted = asyncio.Event()
        self._answers: dict[int, asyncio.Future[_Line]] = {}
        self._numbers = itertools.count(1)
        self._handlers: set[asyncio.Task[object]] = set()

    async def listen(self, path: str) -> None:
        """Wait for QEMU.

        Raises:
            OSError: the socket cannot be made.
        """
        self._server = await asyncio.start_unix_server(self._on_connect, path, limit=LINE_MAX)
        await asyncio.to_thread(Path(path).chmod, 0o600)

    async def command(
        self, name: str, arguments: Mapping[str, object] | None = None, *, descriptor: int = -1
    ) -> bytes:
        """Run a command; its result as JSON.

        Args:
            name: of the command.
            arguments: of the command.
            descriptor: an open file that goes with it; -1 = none.

        Raises:
            MeshError: ``upstream``: QEMU is not there, does not answer, or refuses.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._greeted.wait()
                return await self._ask(name, arguments or {}, descriptor)
        except TimeoutError:
            raise _failed(f"the machine monitor does not answer {name}") from None
        except OSError as error:
            raise _failed(f"the machine monitor is gone: {name}") from error

    async def close(self) -> None:
        """Stop listening and hang up. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._writer is not None:
            self._writer.transport.abort()
        handlers = list(self._handlers)
        if handlers:
            await asyncio.wait(handlers, timeout=1.0)

    async def _ask(self, name: str, arguments: Mapping[str, object], descriptor: int) -> bytes:
        writer = self._writer
        if writer is None:
            raise _failed("the machine monitor is gone")
        number = next(self._numbers)
        answer: asyncio.Future[_Line] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            order = {"execute": name, "arguments": arguments, "id": number}
            _send(writer, msgspec.json.encode(order) + b"\n", descriptor)
            await writer.drain()
            line = await answer
        finally:
            self._answers.pop(number, None)
        if line.error is not None:
            raise _failed(f"the machine monitor refuses {name}: {line.error.desc[:200]}")
        return bytes(line.value)

    async def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        before, self._writer = self._writer, writer
        if before is not None:
            before.transport.abort()
        try:
            with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                await self._talk(reader, writer)
        finally:
            self._handlers.discard(task)
            writer.close()
            if self._writer is writer:
                self._writer = None
                self._greeted.clear()
                for answer in self._answers.values():
                    if not answer.done():
                        answer.set_exception(_failed("the machine monitor hung up"))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _decode(await reader.readuntil(b"\n"))
        writer.write(b'{"execute":"qmp_capabilities","id":0}\n')
        while True:
            line = _decode(await reader.readuntil(b"\n"))
            if line.id == 0 and line.value:
                self._greeted.set()
            answer = self._answers.get(line.id)
            if answer is not None and not answer.done():
                answer.set_result(line)


def _send(writer: asyncio.StreamWriter, line: bytes, descriptor: int) -> None:
    """Write a line; a descriptor can only go with bytes that are sent here and now."""
    if descriptor < 0:
        writer.write(line)
        return
    handle = writer.get_extra_info("socket")
    with socket.socket(fileno=os.dup(handle.fileno())) as same:
        if writer.transport.get_write_buffer_size() or (
            socket.send_fds(same, [line], [descriptor]) < len(line)
        ):
            raise OSError("the monitor's socket is full")


def _failed(message: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, message, data={"phase": "run"})
