"""Driver ``qemu``: a machine with a kernel of its own, in a jail that holds even without hardware.

With KVM the class is ``vm``. Without it the processor is emulated, which is no wall anybody
vouches for: then the wall is the sandbox that QEMU itself runs in, the class is ``vm-emulated``,
and every answer says so. Whether a host can is found out by booting the image once, because a
``/dev/kvm`` that exists may still hang every kernel.
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mcp_proto.contracts.vm_spawner import Shape
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.children import Children
from mesh_chassis.sandbox.launch import Sandboxed, Sandboxes
from vm_spawner.drivers.children import ChildMachines, WithoutExtras
from vm_spawner.drivers.host_cpu import no_hardware
from vm_spawner.drivers.image_files import ImageCheck
from vm_spawner.drivers.machine import Handle, Image, Link, MachineSpec, Orphan, Report, Usage
from vm_spawner.drivers.microvm import BOOT_S, OVERHEAD_MIB, Accel, arguments
from vm_spawner.drivers.qemu_machine import (
    MEMORY,
    MONITOR,
    QemuMachine,
    described,
    give,
    key_of,
    with_memory,
)
from vm_spawner.drivers.qmp import Monitor
from vm_spawner.drivers.templates import Template, Templates, make_memory, wake
from vm_spawner.drivers.trial import trial

__all__ = ["QemuDriver"]

BINARY = "qemu-system-x86_64"
TRIES = 2
"""Boots of the self-test: every boot has a deadline and one retry."""
TEST_MIB = 256
VERSION_S = 5.0
QUIT_S = 1.0
"""What QEMU gets to end once its monitor told it."""
_NOT_JAILED = "the jail of QEMU does not hold /dev/kvm in this version"
_log = logging.getLogger(__name__)


class QemuDriver(WithoutExtras):
    """Machines of QEMU's microvm type.

    Args:
        children: the reaper.
        sandboxes: the jail of each QEMU.
        root: state directory of the spawner.
        accel: ``auto`` emulates and says why; ``kvm`` insists on hardware.
        binary: "" = on the path.
        images: of this host; the first is what the self-test boots.
        templates: keep what the self-test booted, so that like machines begin as its clones.
    """

    name = "qemu"

    def __init__(
        self,
        children: Children,
        sandboxes: Sandboxes,
        root: Path,
        *,
        accel: Literal["auto", "kvm", "tcg"] = "auto",
        binary: str = "",
        images: Iterable[Image] = (),
        templates: bool = True,
    ) -> None:
        self._machines = ChildMachines(children, root, self.name)
        self._sandboxes = sandboxes
        self._root = root
        self._wanted = accel
        self._binary = binary
        self._images = tuple(images)
        self._accel: Accel = "tcg"
        self._made: dict[str, QemuMachine] = {}
        self._started: dict[str, Sandboxed] = {}
        self._monitors: dict[str, Monitor] = {}
        self._limits = "full"
        self._keeps = templates
        self._templates = Templates()
        self._check = ImageCheck()
        self._turn = asyncio.Lock()

    # Whether it works here

    async def probe(self) -> Report:
        """Look for what is needed, then boot the image."""
        missing, versions = await self._missing()
        if missing:
            return self._report(missing, available=False, versions=versions)
        accel, why = self._choice()
        reason = await self._boots(accel)
        if reason:
            return self._report(f"{reason} ({why})", available=False, versions=versions)
        return self._report(why, available=True, versions=versions)

    async def _missing(self) -> tuple[str, dict[str, str]]:
        if not self._images:
            return "there is no image: make vm-image, and [[images]] in the file", {}
        binary = shutil.which(self._binary or BINARY)
        if binary is None:
            return (
                f"QEMU is not installed (package qemu-system-x86, program {BINARY})",
                {},
            )
        self._binary = await asyncio.to_thread(os.path.realpath, binary)
        versions = {"qemu": await self._version()}
        jail = await self._sandboxes.probe()
        if not jail.available:
            return f"QEMU runs in a sandbox only, and {jail.reason}", versions
        versions["bubblewrap"] = jail.version
        self._limits = jail.limits
        try:
            await self.prepare(self._images[0])
        except MeshError as error:
            return error.message, versions
        return "", versions

    async def _version(self) -> str:
        process = await asyncio.create_subprocess_exec(
            self._binary, "--version", stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(VERSION_S):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return "unknown"
        words = said.decode("ascii", "replace").split()
        return words[3] if len(words) > 3 else "unknown"

    def _choice(self) -> tuple[Accel, str]:
        """What to try first, and why."""
        if self._wanted == "tcg":
            return "tcg", 'emulated: [qemu] accel = "tcg"'
        if self._wanted == "auto":
            return "tcg", f"emulated: {no_hardware() or _NOT_JAILED}"
        return "kvm", "hardware virtualisation"

    async def _boots(self, accel: Accel) -> str:
        """Why the image does not boot; "" = it does."""
        self._accel = accel
        reason = ""
        for _ in range(TRIES):
            reason = await self._boots_once(BOOT_S[accel])
            if not reason:
                return ""
        return reason

    async def _boots_once(self, within_s: float) -> str:
        image = self._images[0]
        shape = Shape(cpu=1.0, vcpu=1, mem_mib=max(TEST_MIB, image.memory_min_mib))
        handles: list[Handle] = []

        async def boot(link: Link) -> None:
            name = Path(link.directory).name
            spec = MachineSpec(vm_id=name, tenant="-", shape=shape, image=image)
            handles.append(await self.create(spec, link))
            await self._start_cold(handles[0], await self._shared(name))

        async def keep() -> None:
            if self._keeps:
                await self._keep(handles[0])

        try:
            return await trial(boot, self._root, within_s, then=keep)
        except MeshError as error:
            return error.message
        finally:
            for handle in handles:
                await self.destroy(handle)

    async def _shared(self, name: str) -> QemuMachine:
        """The machine of a self-test, with a memory that can be kept."""
        machine = self._made[name]
        if not self._keeps:
            return machine
        path = f"{machine.link.directory}/{MEMORY}"
        jail = await self._sandboxes.probe()
        await asyncio.to_thread(make_memory, path, machine.command.memory_mib, jail.uid)
        return with_memory(machine, shared=True)

    async def _keep(self, handle: Handle) -> None:
        """Make a template of a machine that booted; without one machines only begin slower."""
        machine = self._made[handle.vm_id]
        try:
            await self._templates.keep(
                key_of(machine), self._monitor(handle), f"{machine.link.directory}/{MEMORY}"
            )
        except (MeshError, OSError) as error:
            _log.warning("no template of %s: %s", machine.command.image, error)

    def _report(self, reason: str, *, available: bool, versions: dict[str, str]) -> Report:
        accel = self._accel
        return Report(
            driver=self.name,
            available=available,
            reason=reason,
            isolation="vm" if accel == "kvm" else "vm-emulated",
            features=("pause",),
            versions=versions,
            limits=self._limits,
            overhead_mib=OVERHEAD_MIB[accel],
            boot_s=BOOT_S[accel],
            mux=True,
        )

    # Machines

    async def prepare(self, image: Image) -> None:
        """Check the digests of kernel and initramfs, once per change of a file."""
        async with self._turn:
            await asyncio.to_thread(self._check.check, image)

    async def create(self, spec: MachineSpec, link: Link) -> Handle:
        """The jail's policy and the socket of the monitor; the sockets become the jail's."""
        if spec.image is None or spec.program:
            raise MeshError(
                ErrorKind.PARAMS,
                "driver qemu boots an image, which starts its own program",
                data={"phase": "boot"},
            )
        jail = await self._sandboxes.probe()
        machine = described(
            spec, spec.image, link, binary=self._binary or BINARY, accel=self._accel
        )
        monitor = Monitor()
        try:
            await monitor.listen(f"{link.directory}/{MONITOR}")
            await asyncio.to_thread(give, link.directory, jail.uid)
        except OSError as error:
            await monitor.close()
            raise MeshError(
                ErrorKind.UPSTREAM,
                f"the machine's sockets cannot be made: {os.strerror(error.errno or 0)}",
                data={"phase": "boot"},
            ) from error
        self._monitors[spec.vm_id] = monitor
        self._made[spec.vm_id] = machine
        return self._machines.made(spec, link, jail.limits)

    async def start(self, handle: Handle) -> Handle:
        """Start QEMU in its jail: a clone where there is a template, else it boots."""
        machine = self._made[handle.vm_id]
        key = key_of(machine)
        template = self._templates.find(key)
        if template is not None:
            try:
                return await self._start_clone(handle, machine, template)
            except (MeshError, OSError) as error:
                _log.warning("no clone of %s: %s; it boots", machine.command.image, error)
                self._templates.drop(key)
                await self._end(handle)
                self._machines.made(machine.spec, machine.link, handle.limits)
        return await self._start_cold(handle, machine)

    async def _start_clone(
        self, handle: Handle, machine: QemuMachine, template: Template
    ) -> Handle:
        jail = await self._sandboxes.probe()
        memory = f"{machine.link.directory}/{MEMORY}"
        await asyncio.to_thread(template.copy_memory, memory, jail.uid)
        started = await self._start_cold(handle, with_memory(machine, shared=False))
        await wake(template, self._monitor(handle), memory)
        return started

    async def _start_cold(self, handle: Handle, machine: QemuMachine) -> Handle:
        made: list[Sandboxed] = []

        async def spawn() -> Sandboxed:
            made.append(await self._sandboxes.spawn(machine.policy, arguments(machine.command)))
            return made[0]

        started = await self._machines.adopt(handle, spawn)
        self._started[handle.vm_id] = made[0]
        return started

    async def pause(self, handle: Handle) -> None:
        """No instruction of the machine runs until ``resume``."""
        await self._monitor(handle).command("stop")

    async def resume(self, handle: Handle) -> None:
        """Go on."""
        await self._monitor(handle).command("cont")

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """The guest was asked already and powers off by itself; then QEMU is told, then killed."""
        monitor = self._monitors.get(handle.vm_id)
        if not await self._machines.ended(handle, grace_s) and monitor is not None:
            with contextlib.suppress(MeshError):
                await monitor.command("quit")
        await self._machines.stop(handle, QUIT_S)

    async def kill(self, handle: Handle) -> None:
        """SIGKILL to jail and QEMU."""
        await self._machines.kill(handle)

    async def stat(self, handle: Handle) -> Usage:
        """Of QEMU and its jail, as the host sees it."""
        return await self._machines.stat(handle)

    async def scan(self) -> list[Orphan]:
        """By the marks in the environment."""
        return await self._machines.scan()

    async def destroy(self, handle: Handle) -> None:
        """End it; the directory is the spawner's."""
        await self._end(handle)
        self._made.pop(handle.vm_id, None)
        monitor = self._monitors.pop(handle.vm_id, None)
        if monitor is not None:
            await monitor.close()
        for name in (MONITOR, MEMORY):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(Path(handle.directory, name).unlink)

    async def _end(self, handle: Handle) -> None:
        await self._machines.destroy(handle)
        started = self._started.pop(handle.vm_id, None)
        if started is not None:
            started.group.remove()

    def _monitor(self, handle: Handle) -> Monitor:
        monitor = self._monitors.get(handle.vm_id)
        if monitor is None:
            raise MeshError(ErrorKind.UPSTREAM, "the machine is not this spawner's to steer")
        return monitor
