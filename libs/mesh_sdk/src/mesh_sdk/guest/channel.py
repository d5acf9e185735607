"""The control channel of a machine, without an event loop: nothing here may outlive a snapshot.

Over a virtio-serial port that nobody holds on the host a read gives no bytes at once; that is not
its end, and waiting for readiness would return at once. A socket that gives no bytes has ended.
"""

import contextlib
import os
import select
import socket
import time

from mesh_chassis.link.addresses import LinkAddress

__all__ = ["Channel"]

OPEN_S = 10.0
_PAUSE_S = 0.02
_REPEAT_S = 0.1
_READ_BYTES = 64 * 1024


class Channel:
    """Lines to and from the host.

    Args:
        address: where the host listens, or the port.
        line_max: longest line, in bytes.

    Raises:
        OSError: nobody is there within ``OPEN_S``.
    """

    def __init__(self, address: LinkAddress, line_max: int) -> None:
        self._port = address.scheme == "serial"
        self._line_max = line_max
        self._held = b""
        self._socket: socket.socket | None = None
        self._descriptor = self._opened(address)
        os.set_blocking(self._descriptor, False)

    def fileno(self) -> int:
        """For ``select``; of a port nobody holds it says readable without end."""
        return self._descriptor

    @property
    def lasts(self) -> bool:
        """The channel does not end with its other side."""
        return self._port

    @property
    def overrun(self) -> bool:
        """A line was too long; nothing can be read any more."""
        return len(self._held) > self._line_max

    def send(self, line: bytes) -> None:
        """Send a line; waits until it is taken.

        Raises:
            OSError: nobody takes it.
        """
        rest = line + b"\n"
        until = time.monotonic() + OPEN_S
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("nobody takes what is said on the control channel") from None
                time.sleep(_PAUSE_S)

    def wait_line(self, repeated: bytes) -> bytes:
        """The next line, however long it takes.

        Args:
            repeated: said again and again on a port, whose other side changes unseen when this
                machine is a clone that wakes up.

        Raises:
            EOFError: the other side is gone. ValueError: a line that is too long.
        """
        while True:
            line = self.line()
            if line is not None:
                return line
            if not self._port:
                select.select([self._descriptor], [], [])
            elif not select.select([self._descriptor], [], [], _REPEAT_S)[0]:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._descriptor, repeated + b"\n")
            else:
                time.sleep(_PAUSE_S)

    def line(self) -> bytes | None:
        """A line if there is one.

        Raises:
            EOFError: the other side is gone. ValueError: a line that is too long.
        """
        if b"\n" not in self._held:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._descriptor, _READ_BYTES)
                if not data and not self._port:
                    raise EOFError("the host has hung up")
                self._held += data
        line, found, rest = self._held.partition(b"\n")
        if not found:
            if self.overrun:
                raise ValueError("an endless line on the control channel")
            return None
        self._held = rest
        return line

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)

    def _opened(self, address: LinkAddress) -> int:
        until = time.monotonic() + OPEN_S
        while True:
            try:
                if self._port:
                    return os.open(address.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
                return self._connected(address)
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_S)

    def _connected(self, address: LinkAddress) -> int:
        family, where = _socket_address(address)
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.connect(where)
        except OSError:
            made.close()
            raise
        self._socket = made
        return made.fileno()


def _socket_address(address: LinkAddress) -> tuple[int, str | tuple[int | str, int]]:
    match address.scheme:
        case "unix":
            return socket.AF_UNIX, address.path
        case "vsock":
            return socket.AF_VSOCK, (int(address.host), address.port)
        case _:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            return family, (address.host, address.port)
