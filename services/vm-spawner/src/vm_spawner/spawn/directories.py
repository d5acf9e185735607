"""A directory per machine on this host: what is needed to remove it after any crash.

``{state_dir}/{vmId}/machine.json`` names tenant, driver and handle; it is written
before the effect it describes, so whatever exists of a machine has a directory. All of it is 0700.
"""

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.core.machine import is_vm_id
from vm_spawner.drivers.machine import Handle, Link

__all__ = ["SOCKET_PATH_MAX", "Directories", "Trace"]

SOCKET_PATH_MAX = 107
"""Bytes of the path of a Unix socket, without its last NUL."""
_FILE = "machine.json"
_LINK = "l"
_SOCKETS = ("nats.sock", "ctl.sock", "out.sock")


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What may exist of one machine.

    Attributes:
        vm_id: which.
        tenant: whose.
        boot: life of the spawner that made it.
        driver: that was asked; "" = none yet.
        handle: of the driver; None = not created, or it died before it could say.
    """

    vm_id: str
    tenant: str
    boot: str
    driver: str = ""
    handle: Handle | None = None


_decoder = msgspec.json.Decoder(Trace)


class Directories:
    """The directories of this host's machines.

    Args:
        root: ``[vm] state_dir``; made if absent.

    Raises:
        MeshError: ``params``: the path is so long that no socket fits below it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        longest = max(len(os.fsencode(path)) for path in self._sockets("x" * 64))
        if longest > SOCKET_PATH_MAX:
            raise MeshError(
                ErrorKind.PARAMS,
                f"[vm] state_dir is too long: sockets below it would have paths of {longest} bytes,"
                f" and {SOCKET_PATH_MAX} are allowed",
            )
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, vm_id: str) -> Path:
        """Directory of a machine.

        Raises:
            MeshError: ``params``: not an id.
        """
        if not is_vm_id(vm_id):
            raise MeshError(ErrorKind.PARAMS, "not the id of a machine")
        return self.root / vm_id

    def make(self, trace: Trace) -> Path:
        """Make the directory; one that exists belongs to somebody else.

        Raises:
            MeshError: ``upstream``: it exists, or cannot be made (a full disk).
        """
        path = self.path(trace.vm_id)
        try:
            path.mkdir(mode=0o700)
            self.write(trace)
        except OSError as error:
            raise _failed("cannot make the machine's directory", error) from error
        return path

    def link(self, vm_id: str) -> Link:
        """The directory of the sockets, made; the sockets are whoever listens to make.

        Raises:
            MeshError: ``upstream``.
        """
        directory = self.path(vm_id) / _LINK
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _failed("cannot make the directory of the link", error) from error
        socket, control, console = self._sockets(vm_id)
        return Link(directory=str(directory), socket=socket, control=control, console=console)

    def write(self, trace: Trace) -> None:
        """Write what may exist, whole or not at all, and on the disk when this returns.

        Raises:
            MeshError: ``upstream``: the disk is full.
        """
        path = self.path(trace.vm_id)
        part = path / f"{_FILE}.part"
        try:
            with part.open("wb") as file:
                file.write(msgspec.json.encode(trace))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path / _FILE)
        except OSError as error:
            raise _failed("cannot write down the machine", error) from error

    def all(self) -> list[Trace]:
        """Every machine that has a directory; of one whose file is unreadable only the id."""
        found: list[Trace] = []
        for path in sorted(self.root.iterdir()):
            if not is_vm_id(path.name) or not path.is_dir():
                continue
            try:
                found.append(_decoder.decode((path / _FILE).read_bytes()))
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                found.append(Trace(vm_id=path.name, tenant="", boot=""))
        return found

    def remove(self, vm_id: str) -> None:
        """Remove a directory with everything in it; one that is gone is fine.

        Raises:
            MeshError: ``upstream``: something of it stays.
        """
        path = self.path(vm_id)
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(path)
            if path.exists():
                raise MeshError(ErrorKind.UPSTREAM, f"files of {vm_id} cannot be removed")

    def _sockets(self, vm_id: str) -> tuple[str, str, str]:
        base = self.root / vm_id / _LINK
        nats, control, console = (str(base / name) for name in _SOCKETS)
        return nats, control, console


def _failed(what: str, error: OSError) -> MeshError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return MeshError(
        ErrorKind.UPSTREAM, f"{what}: {reason}", data={"phase": "network"}, internal=str(error)
    )
