"""A program that is run once: fed, read until it ends, and never trusted to do either."""

import asyncio
import contextlib
import os
from collections.abc import Mapping

import msgspec

from mcp_proto.server_definitions import is_secret_reference
from mesh_chassis.children import Child
from tool_runner.upstreams.secrets import secret

__all__ = ["Reading", "Said", "follow", "secrets_read"]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How much is read.

    Attributes:
        output_bytes: longest standard output; a program that writes more is not followed on.
        errors_bytes: how much of the end of standard error is kept.
    """

    output_bytes: int
    errors_bytes: int


class Said:
    """What a program has written so far.

    Attributes:
        output: its standard output, one byte more than allowed at most.
        status: how it ended, negative for a signal; None = it has not, or wrote too much.
    """

    def __init__(self, reading: Reading) -> None:
        self.status: int | None = None
        self._head = _Head(reading.output_bytes)
        self._tail = _Tail(reading.errors_bytes)

    @property
    def output(self) -> bytes:
        """See the class."""
        return bytes(self._head.data)

    @property
    def errors(self) -> str:
        """The end of its standard error, without white space around it."""
        return self._tail.text()

    async def hear(self, child: Child, fed: bytes) -> None:
        """Feed the program and follow it to its end; its pipes are closed afterwards."""
        async with contextlib.AsyncExitStack() as pipes:
            await self._attach(child, fed, pipes)
            await self._head.done
            if not self._head.overrun:
                status = await asyncio.shield(child.exited)
                await self._tail.done  # nobody is left who could write any more
                self.status = status

    async def _attach(self, child: Child, fed: bytes, pipes: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        files = [
            os.fdopen(fd, mode, 0)
            for fd, mode in ((child.stdout, "rb"), (child.stderr, "rb"), (child.stdin, "wb"))
        ]
        try:
            reading, _ = await loop.connect_read_pipe(lambda: self._head, files[0])
            pipes.callback(reading.close)
            noting, _ = await loop.connect_read_pipe(lambda: self._tail, files[1])
            pipes.callback(noting.close)
            writing, feed = await loop.connect_write_pipe(_Feed, files[2])
            pipes.callback(lambda: None if feed.lost else writing.abort())
        except BaseException:
            for file in files:
                file.close()
            raise
        if fed:
            writing.write(fed)
        writing.close()


async def follow(child: Child, fed: bytes, said: Said, timeout_s: float) -> bool:
    """Follow a program to its end, or until it is late or has written too much.

    Args:
        child: just started; its descriptors belong to this call.
        fed: its standard input; what it does not read is dropped.
        said: takes what it writes.
        timeout_s: seconds.

    Returns:
        False when it was late; the caller ends it, also when it wrote too much.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await said.hear(child, fed)
    except TimeoutError:
        return False
    return True


def secrets_read(declared: Mapping[str, str], server: str) -> dict[str, str]:
    """Variables of a program, with the secrets that they name.

    Raises:
        MeshError: ``upstream``, not executed: a secret is missing.
    """
    return {
        name: secret(value, server) if is_secret_reference(value) else value
        for name, value in declared.items()
    }


class _Head(asyncio.Protocol):
    """The beginning of what comes through a pipe; ``done`` when it ended or is too much."""

    def __init__(self, bytes_max: int) -> None:
        self.data = bytearray()
        self.overrun = False
        self.done = asyncio.get_running_loop().create_future()
        self._bytes_max = bytes_max

    def data_received(self, data: bytes) -> None:
        self.data += data[: self._bytes_max + 1 - len(self.data)]
        if len(self.data) > self._bytes_max:
            self.overrun = True
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class _Tail(asyncio.Protocol):
    """The end of what comes through a pipe."""

    def __init__(self, bytes_max: int) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._data = bytearray()
        self._bytes_max = bytes_max

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * self._bytes_max:
            del self._data[: -self._bytes_max]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.done.done():
            self.done.set_result(None)

    def text(self) -> str:
        return bytes(self._data[-self._bytes_max :]).decode(errors="replace").strip()


class _Feed(asyncio.BaseProtocol):
    """Whether all was written; a program that does not read its input misses nothing."""

    lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
