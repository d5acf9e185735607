"""A machine that has booted, kept as memory and state, from which others begin in a moment.

A template is taken of a machine that waits for ``go``: it belongs to nobody, has no id and no
randomness of its own, and every clone gets both with its ``go``. Its files have no name, so
nothing of it outlives this process. Each clone has a copy of the memory, because QEMU insists on
opening that file for writing: one that was taken over must not change what others begin with.
"""

import asyncio
import contextlib
import os
import weakref
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.drivers.qmp import Monitor

__all__ = ["Template", "Templates", "make_memory", "wake"]

MOVE_S = 10.0
"""Longest move of a state, which takes 30 ms."""
_POLL_S = 0.005
_COPY_BYTES = 64 * 1024 * 1024
_IGNORE_SHARED = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}


class _Progress(msgspec.Struct):
    status: str = "none"


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """Open files of one template.

    Attributes:
        memory: descriptor.
        state: descriptor: processor and devices.
    """

    memory: int
    state: int

    def copy_memory(self, path: str, owner: int) -> None:
        """A copy for one clone, 0600; 0.1 s, so not on the event loop.

        Raises:
            OSError: the disk is full.
        """
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        target = os.open(path, flags, 0o600)
        try:
            size = os.fstat(self.memory).st_size
            os.truncate(target, size)
            at = 0
            while at < size:
                try:
                    at = os.lseek(self.memory, at, os.SEEK_DATA)
                except OSError:
                    break  # nothing but holes from here on
                end = os.lseek(self.memory, at, os.SEEK_HOLE)
                while at < end:
                    at += os.copy_file_range(
                        self.memory, target, min(end - at, _COPY_BYTES), at, at
                    )
            if os.geteuid() == 0:
                os.fchown(target, owner, owner)
        finally:
            os.close(target)

    def close(self) -> None:
        """Let it go."""
        os.close(self.memory)
        os.close(self.state)


class Templates:
    """The templates of one driver, by key: whatever must be the same in a clone."""

    def __init__(self) -> None:
        self._known: dict[str, Template] = {}
        # A driver has no end of its own; its templates end with it, not with the process.
        weakref.finalize(self, _close_all, self._known)

    def find(self, key: str) -> Template | None:
        """That of a key."""
        return self._known.get(key)

    async def keep(self, key: str, monitor: Monitor, memory: str) -> None:
        """Take a parked machine for a template; it is used up.

        Args:
            key: of the machine.
            monitor: its own.
            memory: the file that is its memory; may be removed afterwards.

        Raises:
            MeshError: ``upstream``: it cannot be had.
        """
        state = os.memfd_create("template", os.MFD_CLOEXEC)
        try:
            await monitor.command("stop")
            await monitor.command("migrate-set-capabilities", _IGNORE_SHARED)
            await monitor.command("getfd", {"fdname": "state"}, descriptor=state)
            await monitor.command("migrate", {"uri": "fd:state"})
            await _moved(monitor)
            opened = await asyncio.to_thread(os.open, memory, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(state)
            raise
        self.drop(key)
        self._known[key] = Template(memory=opened, state=state)

    def drop(self, key: str) -> None:
        """Forget a template, such as one that no clone wakes up from."""
        known = self._known.pop(key, None)
        if known is not None:
            known.close()


def _close_all(known: dict[str, Template]) -> None:
    for template in known.values():
        template.close()
    known.clear()


def make_memory(path: str, size_mib: int, owner: int) -> None:
    """An empty file of that size, 0600.

    Raises:
        OSError: it cannot be made.
    """
    made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(made, size_mib * 1024 * 1024)
        if os.geteuid() == 0:
            os.fchown(made, owner, owner)
    finally:
        os.close(made)


async def wake(template: Template, monitor: Monitor, memory: str) -> None:
    """Let a QEMU that waits for a state go on from the template's.

    Args:
        template: from which.
        monitor: of the new machine.
        memory: its copy of the memory; the name is removed here, QEMU has it open.

    Raises:
        MeshError: ``upstream``: it does not wake up.
    """
    # Opened anew: clones must not share a position in the file.
    state = os.open(f"/proc/self/fd/{template.state}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        await monitor.command("migrate-set-capabilities", _IGNORE_SHARED)
        await monitor.command("getfd", {"fdname": "state"}, descriptor=state)
        await monitor.command("migrate-incoming", {"uri": "fd:state"})
        await _moved(monitor)
        await monitor.command("cont")
    finally:
        os.close(state)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(Path(memory).unlink)


async def _moved(monitor: Monitor) -> None:
    try:
        async with asyncio.timeout(MOVE_S):
            while True:
                answer = await monitor.command("query-migrate")
                status = msgspec.json.decode(answer, type=_Progress).status
                if status == "completed":
                    return
                if status in ("failed", "cancelled"):
                    raise MeshError(ErrorKind.UPSTREAM, "the machine's state cannot be moved")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise MeshError(ErrorKind.UPSTREAM, "the machine's state does not move") from None
