"""Driver ``sandbox``: bubblewrap, the default. The wall itself is ``mesh_chassis.sandbox``.

A machine sees the host's programs read-only, an empty ``/tmp`` in memory, its own processes, no
network, and the sockets of its link below ``/run/mesh``; nothing else of the host.
"""

import asyncio
import os
from pathlib import Path

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxed, Sandboxes
from mesh_chassis.sandbox.policy import Bind, SandboxPolicy
from vm_spawner.drivers.children import ChildMachines, WithoutExtras, placed
from vm_spawner.drivers.machine import Handle, Link, MachineSpec, Orphan, Report, Usage
from vm_spawner.drivers.traces import marks

__all__ = ["SandboxDriver"]

BOOT_S = 15.0
"""A Python program with its imports takes a second; a busy host gets patience."""
PIDS_MAX = 512
FILES_MAX = 1024
FILE_BYTES_MAX = 1024 * 1024 * 1024
TMP_BYTES = 64 * 1024 * 1024
INSIDE = "/run/mesh"
"""Where the sockets of the link are inside."""
_MIB = 1024 * 1024


class SandboxDriver(WithoutExtras):
    """Machines that are sandboxed processes of this host.

    Args:
        children: the reaper.
        sandboxes: starts programs in sandboxes.
        root: state directory of the spawner.
    """

    name = "sandbox"

    def __init__(self, children: Children, sandboxes: Sandboxes, root: Path) -> None:
        self._machines = ChildMachines(children, root, self.name)
        self._sandboxes = sandboxes
        self._policies: dict[str, tuple[SandboxPolicy, list[str]]] = {}
        self._started: dict[str, Sandboxed] = {}

    async def probe(self) -> Report:
        """An empty program is started in a sandbox."""
        report = await self._sandboxes.probe()
        return Report(
            driver=self.name,
            available=report.available,
            reason=report.reason or "an empty program ran in a sandbox",
            isolation="sandbox",
            versions={"bubblewrap": report.version} if report.version else {},
            limits=report.limits,
            boot_s=BOOT_S,
        )

    async def create(self, spec: MachineSpec, link: Link) -> Handle:
        """Its policy, and the sockets for the user that it will be."""
        if not spec.program:
            raise MeshError(
                ErrorKind.PARAMS, "driver sandbox needs a program", data={"phase": "boot"}
            )
        argv = placed(
            spec.program, control=_inside(link, link.control), link=_inside(link, link.socket)
        )
        report = await self._sandboxes.probe()
        if os.geteuid() == 0:
            await asyncio.to_thread(_give, link, report.uid)
        policy = SandboxPolicy(
            binds=(
                *(Bind(source=path) for path in spec.read_only),
                Bind(source=link.directory, target=INSIDE),
            ),
            environment={
                "PATH": "/usr/bin:/bin",
                "HOME": "/tmp",  # noqa: S108 - inside, where it is its own
                **spec.environment,
                **marks(spec, link),
            },
            memory_bytes=spec.shape.mem_mib * _MIB,
            cpus=spec.shape.cpu,
            pids=PIDS_MAX,
            files=FILES_MAX,
            file_bytes=FILE_BYTES_MAX,
            tmp_bytes=min(TMP_BYTES, spec.shape.mem_mib * _MIB // 2),
        )
        self._policies[spec.vm_id] = (policy, argv)
        return self._machines.made(spec, link, report.limits)

    async def start(self, handle: Handle) -> Handle:
        """Start it, already inside its limits."""
        policy, argv = self._policies[handle.vm_id]
        made: list[Sandboxed] = []

        async def spawn() -> Sandboxed:
            made.append(await self._sandboxes.spawn(policy, argv))
            return made[0]

        started = await self._machines.adopt(handle, spawn)
        self._started[handle.vm_id] = made[0]
        return started

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM to the program, then SIGKILL to all of it."""
        await self._machines.stop(handle, grace_s)

    async def kill(self, handle: Handle) -> None:
        """SIGKILL; its process namespace goes with its first process."""
        await self._machines.kill(handle)

    async def stat(self, handle: Handle) -> Usage:
        """By its control groups where it has some, else summed over its processes."""
        return await self._machines.stat(handle)

    async def scan(self) -> list[Orphan]:
        """By the marks in the environment."""
        return await self._machines.scan()

    async def destroy(self, handle: Handle) -> None:
        """End it; its control groups are removed by the reaper."""
        await self._machines.destroy(handle)
        self._policies.pop(handle.vm_id, None)
        started = self._started.pop(handle.vm_id, None)
        if started is not None:
            started.group.remove()


def _inside(link: Link, path: str) -> str:
    return f"unix:{INSIDE}/{Path(path).relative_to(link.directory)}"


def _give(link: Link, uid: int) -> None:
    """The sockets belong to the user that the machine is, and to nobody else."""
    for path in (link.directory, link.socket, link.control, link.console):
        os.chown(path, uid, uid)
