"""Driver ``process``: a plain child of the spawner. It isolates nothing; development only.

It exists so that machines can be tried where nothing else works, and says what it is: class
``none`` in every record and answer, and it is off unless the host's own file says
``[process] enabled = true`` and ``allow_unsafe = true``.
"""

import os
from pathlib import Path

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.child_environment import child_environment
from mesh_chassis.children import ChildLimits, Children
from vm_spawner.drivers.children import ChildMachines, Launch, WithoutExtras, placed
from vm_spawner.drivers.machine import Handle, Link, MachineSpec, Orphan, Report, Usage
from vm_spawner.drivers.traces import marks

__all__ = ["ProcessDriver"]

BOOT_S = 20.0
FILES_MAX = 1024
_STAGE = "mesh_sdk.guest"
_NO_LIMITS = "none(a plain process: development only)"


class ProcessDriver(WithoutExtras):
    """Machines that are plain processes.

    Args:
        children: the reaper.
        root: state directory of the spawner.
        allow_unsafe: the host's file says so.
    """

    name = "process"

    def __init__(self, children: Children, root: Path, *, allow_unsafe: bool) -> None:
        self._machines = ChildMachines(children, root, self.name)
        self._allowed = allow_unsafe
        self._launches: dict[str, Launch] = {}

    async def probe(self) -> Report:
        """Always possible, and refused unless the host's file allows it."""
        return Report(
            driver=self.name,
            available=self._allowed,
            reason="plain processes, no isolation: development only"
            if self._allowed
            else "isolates nothing; needs [process] allow_unsafe = true",
            isolation="none",
            limits=_NO_LIMITS,
            boot_s=BOOT_S,
        )

    async def create(self, spec: MachineSpec, link: Link) -> Handle:
        """Nothing but the launch."""
        if not self._allowed or not spec.program:
            raise MeshError(
                ErrorKind.PARAMS,
                "driver process needs allow_unsafe and a program",
                data={"phase": "boot"},
            )
        environment = child_environment(
            os.environ,
            {
                **spec.environment,
                **marks(spec, link),
            },
        )
        argv = placed(spec.program, control=f"unix:{link.control}", link=f"unix:{link.socket}")
        if _STAGE in argv:
            # It has root's rights here, and the kernel is the host's.
            argv.append("--shared")
        self._launches[spec.vm_id] = Launch(
            argv=argv, environment=environment, limits=ChildLimits(files=FILES_MAX)
        )
        return self._machines.made(spec, link, _NO_LIMITS)

    async def start(self, handle: Handle) -> Handle:
        """Start the program."""
        return await self._machines.start(handle, self._launches[handle.vm_id])

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """SIGTERM, then SIGKILL."""
        await self._machines.stop(handle, grace_s)

    async def kill(self, handle: Handle) -> None:
        """SIGKILL to everything it started."""
        await self._machines.kill(handle)

    async def stat(self, handle: Handle) -> Usage:
        """Summed over its processes."""
        return await self._machines.stat(handle)

    async def scan(self) -> list[Orphan]:
        """By the marks in the environment."""
        return await self._machines.scan()

    async def destroy(self, handle: Handle) -> None:
        """End it."""
        self._launches.pop(handle.vm_id, None)
        await self._machines.destroy(handle)
