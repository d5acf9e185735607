"""Machines that are child processes of this host: what ``process`` and ``sandbox`` share.

Children are owned by the chassis' reaper, so they die with this spawner however it dies. What
they print goes to the machine's console.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.children import Child, ChildLimits, Children
from mesh_chassis.sandbox.launch import Sandboxed
from vm_spawner.drivers.machine import (
    Handle,
    Image,
    Link,
    MachineSpec,
    Orphan,
    SnapRef,
    Usage,
)
from vm_spawner.drivers.measured import process_start, usage_of
from vm_spawner.drivers.traces import end_marked, find_marked

__all__ = ["ChildMachines", "Launch", "WithoutExtras", "placed"]

KILL_S = 5.0
_READ_BYTES = 16 * 1024


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How a machine is started.

    Attributes:
        argv: program and arguments.
        environment: complete.
        limits: resource limits of the child.
        stdin: descriptor that becomes its standard input; -1 = an empty pipe.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    limits: ChildLimits = ChildLimits()
    stdin: int = -1


def placed(program: Sequence[str], *, control: str, link: str) -> list[str]:
    """A program of the host's file with the addresses that it was written for.

    Args:
        program: argument vector; ``{control}`` and ``{link}`` in it are replaced.
        control: address of the control channel, seen from inside.
        link: address of the link, likewise.
    """
    return [part.replace("{control}", control).replace("{link}", link) for part in program]


class _Running:
    def __init__(self, child: Child, pumps: Sequence["asyncio.Task[None]"]) -> None:
        self.child = child
        self.pumps = pumps


class ChildMachines:
    """Starts, watches and ends the children of one driver.

    Args:
        children: the reaper.
        root: state directory of the spawner.
        driver: name of the driver.
    """

    def __init__(self, children: Children, root: Path, driver: str) -> None:
        self._children = children
        self._root = root
        self._driver = driver
        self._links: dict[str, Link] = {}
        self._running: dict[str, _Running] = {}

    def made(self, spec: MachineSpec, link: Link, limits: str) -> Handle:
        """The handle of a machine that is not started yet."""
        self._links[spec.vm_id] = link
        return Handle(
            driver=self._driver, vm_id=spec.vm_id, directory=link.directory, limits=limits
        )

    async def start(self, handle: Handle, launch: Launch) -> Handle:
        """Start a plain child; what it prints goes to the console.

        Raises:
            MeshError: ``upstream`` with the reason of the system.
        """

        async def spawn() -> Child:
            return await self._children.spawn(
                launch.argv,
                env=launch.environment,
                cwd="/",
                limits=launch.limits,
                stdin=launch.stdin,
            )

        return await self.adopt(handle, spawn)

    async def adopt(
        self, handle: Handle, spawn: Callable[[], Awaitable[Child | Sandboxed]]
    ) -> Handle:
        """Start a child in whatever way; what it prints goes to the console.

        Raises:
            MeshError: ``upstream`` with the reason of the system.
        """
        link = self._links[handle.vm_id]
        try:
            _, writer = await asyncio.open_unix_connection(link.console)
        except OSError as error:
            raise MeshError(
                ErrorKind.UPSTREAM, "the machine has no console", data={"phase": "boot"}
            ) from error
        try:
            made = await spawn()
        except BaseException as error:
            writer.transport.abort()
            if isinstance(error, MeshError):
                error.data.setdefault("phase", "boot")
            raise
        child = made if isinstance(made, Child) else made.child
        if child.stdin >= 0:
            os.close(child.stdin)
        loop = asyncio.get_running_loop()
        pumps = [
            loop.create_task(_pump(descriptor, writer), name="machine-console")
            for descriptor in (child.stdout, child.stderr)
        ]
        self._running[handle.vm_id] = _Running(child, pumps)
        started = await asyncio.to_thread(process_start, child.pid)
        limits = handle.limits if isinstance(made, Child) else made.limits
        return msgspec.structs.replace(handle, pid=child.pid, started=started, limits=limits)

    async def ended(self, handle: Handle, within_s: float) -> bool:
        """Wait for its own end."""
        running = self._running.get(handle.vm_id)
        if running is None:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.shield(running.child.exited)
        return running.child.exited.done()

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM, then SIGKILL; returns when nothing that it started is left."""
        running = self._running.get(handle.vm_id)
        if running is not None:
            self._children.kill(running.child, grace_s=grace_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + KILL_S):
                    await asyncio.shield(running.child.exited)
        await self.kill(handle)

    async def kill(self, handle: Handle) -> None:
        """SIGKILL to all of it, whoever started it."""
        running = self._running.get(handle.vm_id)
        if running is not None and not running.child.exited.done():
            self._children.kill(running.child)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_S):
                    await asyncio.shield(running.child.exited)
        await end_marked(self._root, handle.vm_id)

    async def stat(self, handle: Handle) -> Usage:
        """Summed over its processes."""
        running = self._running.get(handle.vm_id)
        status: int | None = None
        if running is not None and running.child.exited.done():
            status = running.child.exited.result()
        marked = await asyncio.to_thread(find_marked, self._root, handle.vm_id)
        pids = marked.get(handle.vm_id, [])
        alive = bool(pids) and status is None
        return usage_of(pids, running=alive, exit_status=status)

    async def scan(self) -> list[Orphan]:
        """Processes of machines below the state directory."""
        marked = await asyncio.to_thread(find_marked, self._root)
        return [
            Orphan(
                vm_id=vm_id,
                handle=Handle(driver=self._driver, vm_id=vm_id, directory=str(self._root / vm_id)),
                running=True,
            )
            for vm_id in sorted(marked)
        ]

    async def destroy(self, handle: Handle) -> None:
        """End it; the files are the spawner's."""
        await self.kill(handle)
        self._links.pop(handle.vm_id, None)
        running = self._running.pop(handle.vm_id, None)
        if running is not None:
            # Its pipes end with its processes, so the last words are through in a moment.
            _, left = await asyncio.wait(running.pumps, timeout=1.0)
            for pump in left:
                pump.cancel()
            if left:
                await asyncio.wait(left)


class WithoutExtras:
    """What drivers of child processes cannot, and say so."""

    name: str

    async def prepare(self, image: Image) -> None:
        """Nothing to unpack."""

    async def pause(self, handle: Handle) -> None:
        """Not a feature."""
        raise self._cannot("pause")

    async def resume(self, handle: Handle) -> None:
        """Not a feature."""
        raise self._cannot("resume")

    async def snapshot(self, handle: Handle) -> SnapRef:
        """Not a feature."""
        raise self._cannot("snapshot")

    async def restore(self, ref: SnapRef, spec: MachineSpec, link: Link) -> Handle:
        """Not a feature."""
        raise self._cannot("restore")

    def _cannot(self, what: str) -> MeshError:
        return MeshError(ErrorKind.CAPABILITY, f"driver {self.name} cannot {what} a machine")


async def _pump(descriptor: int, writer: asyncio.StreamWriter) -> None:
    """From a pipe of the child to the console, no faster than that reads."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_READ_BYTES)
    pipe = open(descriptor, "rb", buffering=0)  # noqa: SIM115, ASYNC230 - closed with the transport
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                writer.write(data)
                await writer.drain()
    finally:
        transport.close()
        writer.close()
