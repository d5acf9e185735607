"""Open a link: a reader and a writer, whatever carries them."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from mesh_chassis.link.addresses import LinkAddress
from mesh_chassis.link.frames import EPOCH_BYTES
from mesh_chassis.link.mux import READ_LIMIT, GuestMux, Streams
from mesh_chassis.link.port import PortTransport, open_port

__all__ = ["Dial", "dialler"]

Dial = Callable[[], Awaitable[Streams]]
"""Opens the link once; ``OSError`` when nobody is there."""


def dialler(address: LinkAddress) -> Dial:
    """What opens this link, as often as it is called."""

    async def dial() -> Streams:
        match address.scheme:
            case "unix":
                return await asyncio.open_unix_connection(address.path, limit=READ_LIMIT)
            case "vsock":
                return await _vsock(int(address.host), address.port)
            case "serial":
                return await _port_of(address.path).stream()
            case _:
                return await asyncio.open_connection(address.host, address.port, limit=READ_LIMIT)

    return dial


async def _vsock(cid: int, port: int) -> Streams:
    made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, (cid, port))
        return await asyncio.open_connection(sock=made, limit=READ_LIMIT)
    except BaseException:
        made.close()
        raise


class _Port:
    """A port of this process: opened for the first stream, closed after the last."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mux: GuestMux | None = None
        self._turn = asyncio.Lock()

    async def stream(self) -> Streams:
        """A stream over the port, which is opened when it is not.

        Raises:
            OSError: it cannot be opened, or the host does not answer.
        """
        async with self._turn:
            if self._mux is None:
                await self._open()
            if self._mux is None:
                raise ConnectionResetError("the port is closed")
            reader, writer = self._mux.open()
            return reader, writer

    async def _open(self) -> None:
        mux = GuestMux(os.urandom(EPOCH_BYTES), self._lost)
        self._mux = mux
        try:
            PortTransport(open_port(self._path), mux)
            await mux.synced
        except BaseException:
            self._mux = None
            mux.close()
            raise

    def _lost(self) -> None:
        self._mux = None


_ports: dict[tuple[asyncio.AbstractEventLoop, str], _Port] = {}
"""The kernel gives a port to one descriptor, and a bus has two connections."""


def _port_of(path: str) -> _Port:
    loop = asyncio.get_running_loop()
    for known in [key for key in _ports if key[0].is_closed()]:
        del _ports[known]
    return _ports.setdefault((loop, path), _Port(path))
