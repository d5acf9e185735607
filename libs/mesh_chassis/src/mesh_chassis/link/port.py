"""A virtio-serial port as an asyncio transport, opened once and closed once.

The kernel lets one descriptor have the port. With nobody on the host's side a read gives no
bytes at once, and waiting for readiness returns at once: until the other side has answered, such
a port is asked again by the clock; afterwards it is lost.
"""

import asyncio
import os
from typing import Any, cast

__all__ = ["PortTransport", "open_port"]

READ_BYTES = 64 * 1024
HIGH_WATER = 128 * 1024
ASK_AGAIN_S = 0.005


def open_port(path: str) -> int:
    """The descriptor of a port.

    Raises:
        OSError: it cannot be opened; EBUSY while somebody else has it.
    """
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)


class PortTransport(asyncio.Transport):
    """An open port; reads begin at once.

    Args:
        descriptor: of a character device, not blocking; closed with the transport.
        protocol: gets the bytes.
    """

    def __init__(self, descriptor: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._descriptor = descriptor
        self._unsent = bytearray()
        self._full = False
        self._heard = False
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._writer_set = False
        protocol.connection_made(self)
        if self._timer is None:
            self._listen()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is nothing to say about a port."""
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As of any transport."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As of any transport."""
        return self._protocol

    def is_closing(self) -> bool:
        """True once the descriptor is closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes the port has not taken."""
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write now what the port takes; the rest follows."""
        if self._closing:
            return
        self._unsent += data
        if not self._writer_set and self._timer is None:
            self._write()
        if len(self._unsent) > HIGH_WATER and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Close; what the port has not taken is dropped."""
        self._end(None)

    def abort(self) -> None:
        """As ``close``."""
        self._end(None)

    def _listen(self) -> None:
        self._loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._heard = True
            self._protocol.data_received(data)
        elif self._heard:
            self._end(ConnectionResetError("nobody is on the other side of the port"))
        else:
            self._later()

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = os.write(self._descriptor, memoryview(bytes(self._unsent[:READ_BYTES])))
                del self._unsent[:sent]
        except BlockingIOError:
            if not self._heard:
                self._later()
            elif not self._writer_set:
                self._writer_set = True
                self._loop.add_writer(self._descriptor, self._write)
            return
        except OSError as error:
            self._end(error)
            return
        if self._writer_set:
            self._writer_set = False
            self._loop.remove_writer(self._descriptor)
        if self._full and len(self._unsent) <= HIGH_WATER // 4:
            self._full = False
            self._protocol.resume_writing()

    def _later(self) -> None:
        """Nobody is there yet: readiness would say so without end."""
        if self._timer is None and not self._closing:
            self._loop.remove_reader(self._descriptor)
            self._timer = self._loop.call_later(ASK_AGAIN_S, self._again)

    def _again(self) -> None:
        self._timer = None
        if not self._closing:
            self._listen()
            self._read()
        if not self._closing and self._timer is None:
            self._write()

    def _end(self, error: OSError | None) -> None:
        if self._closing:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._loop.call_soon(self._protocol.connection_lost, error)
