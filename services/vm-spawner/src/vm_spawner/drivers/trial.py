"""Does an image boot here? Asked by starting it once and waiting for its first words."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from vm_spawner.drivers.machine import Link

__all__ = ["trial"]

_LINE_MAX = 64 * 1024
_CONSOLE_SHOWN = 300


async def trial(
    boot: Callable[[Link], Awaitable[None]],
    root: Path,
    within_s: float,
    *,
    then: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Boot with sockets made for this, until the machine says hello.

    Args:
        boot: starts the machine; whoever calls ends it.
        root: state directory of the spawner: what a crash leaves is found there.
        within_s: deadline from here.
        then: what to do with a machine that said hello, before its sockets go.

    Returns:
        Why it did not boot; "" = it did.

    Raises:
        MeshError: as ``boot``.
    """
    folder = str(root / f"trial-{secrets.token_hex(6)}")
    await asyncio.to_thread(os.mkdir, folder, 0o700)
    sockets = _Sockets()
    link = Link(
        directory=folder,
        socket=f"{folder}/nats.sock",
        control=f"{folder}/ctl.sock",
        console=f"{folder}/out.sock",
    )
    try:
        await sockets.listen(link)
        await boot(link)
        problem = await sockets.hello(within_s)
        if not problem and then is not None:
            await then()
        return problem
    finally:
        await sockets.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


class _Sockets:
    def __init__(self) -> None:
        self._said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._console = bytearray()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[object]] = set()

    async def listen(self, link: Link) -> None:
        for path, handler in (
            (link.socket, self._on_link),
            (link.control, self._on_control),
            (link.console, self._on_console),
        ):
            server = await asyncio.start_unix_server(handler, path, limit=_LINE_MAX)
            self._servers.append(server)
            await asyncio.to_thread(Path(path).chmod, 0o600)

    async def hello(self, within_s: float) -> str:
        try:
            async with asyncio.timeout(within_s):
                line = await self._said
        except TimeoutError:
            said = bytes(self._console).decode("utf-8", "replace").strip()
            last = f"; its console ends with: {said[-_CONSOLE_SHOWN:]}" if said else ""
            return f"the image did not boot within {within_s:g} s{last}"
        return "" if b'"hello"' in line else "the image boots and does not say hello"

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _on_link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._read(reader, writer, lambda _data: None)

    async def _on_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def heard(data: bytes) -> None:
            if not self._said.done():
                self._said.set_result(data)

        await self._read(reader, writer, heard)

    async def _on_console(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def printed(data: bytes) -> None:
            self._console += data
            del self._console[:-_CONSOLE_SHOWN]

        await self._read(reader, writer, printed)

    async def _read(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        take: Callable[[bytes], None],
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while data := await reader.read(_LINE_MAX):
                take(data)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
