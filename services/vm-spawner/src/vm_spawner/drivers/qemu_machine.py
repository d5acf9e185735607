"""One machine of driver ``qemu``: its command line, and what its jail lets QEMU see."""

import os
from pathlib import Path

import msgspec

from mesh_chassis.sandbox.policy import Bind, SandboxPolicy
from mesh_chassis.sandbox.system import SEARCH_PATH
from vm_spawner.drivers.host_cpu import tsc_khz
from vm_spawner.drivers.machine import Image, Link, MachineSpec
from vm_spawner.drivers.microvm import OVERHEAD_MIB, Accel, MicroVm
from vm_spawner.drivers.traces import marks

__all__ = ["MEMORY", "MONITOR", "QemuMachine", "described", "give", "key_of", "with_memory"]

MIB = 1024 * 1024
PIDS = 64
FILES = 256
FILE_BYTES = 16 * MIB
TMP_BYTES = 16 * MIB
MONITOR = "qmp.sock"
MEMORY = "memory"
_LINK = "/link"
_MEMORY = "/vm/memory"


class QemuMachine(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that starts one.

    Attributes:
        spec: what was asked for.
        link: its sockets.
        policy: of the jail.
        command: of QEMU, with paths as they are inside.
    """

    spec: MachineSpec
    link: Link
    policy: SandboxPolicy
    command: MicroVm


def described(
    spec: MachineSpec, image: Image, link: Link, *, binary: str, accel: Accel
) -> QemuMachine:
    """A machine that boots cold."""
    folder = Path(image.directory)
    binds = (
        Bind(source=str(folder / "kernel"), target="/vm/kernel"),
        Bind(source=str(folder / "initrd"), target="/vm/initrd"),
        # Read-only: sockets can be dialled there, and QEMU can put nothing in their place.
        Bind(source=link.directory, target=_LINK),
    )
    policy = SandboxPolicy(
        binds=binds,
        environment={"PATH": SEARCH_PATH, **marks(spec, link)},
        memory_bytes=(spec.shape.mem_mib + OVERHEAD_MIB[accel]) * MIB,
        cpus=spec.shape.cpu,
        pids=PIDS,
        files=FILES,
        file_bytes=FILE_BYTES,
        tmp_bytes=TMP_BYTES,
    )
    command = MicroVm(
        binary=binary,
        accel=accel,
        memory_mib=spec.shape.mem_mib,
        vcpu=spec.shape.vcpu,
        kernel="/vm/kernel",
        initrd="/vm/initrd",
        image=image.digest,
        tsc_khz=tsc_khz(),
        link=f"{_LINK}/{Path(link.socket).name}",
        control=f"{_LINK}/{Path(link.control).name}",
        monitor=f"{_LINK}/{MONITOR}",
    )
    return QemuMachine(spec=spec, link=link, policy=policy, command=command)


def key_of(machine: QemuMachine) -> str:
    """What a template and its clones have in common; the clock's rate is the template's."""
    same = msgspec.structs.replace(machine.command, tsc_khz=0, memory="", shared=False)
    return msgspec.json.encode(same).decode()


def with_memory(machine: QemuMachine, *, shared: bool) -> QemuMachine:
    """The same with a file beside its sockets as its memory.

    Args:
        machine: that boots cold.
        shared: it becomes a template; else it is a clone that waits for a state.
    """
    memory = Bind(source=f"{machine.link.directory}/{MEMORY}", target=_MEMORY, writable=True)
    policy = msgspec.structs.replace(machine.policy, binds=(*machine.policy.binds, memory))
    command = msgspec.structs.replace(
        machine.command, memory=_MEMORY, shared=shared, incoming=not shared
    )
    return msgspec.structs.replace(machine, policy=policy, command=command)


def give(directory: str, uid: int) -> None:
    """Let the jail's user dial the sockets; the folder stays closed to everybody else.

    Raises:
        OSError: something in it cannot be given.
    """
    if os.geteuid() != 0:
        return
    for path in (Path(directory), *Path(directory).iterdir()):
        os.chown(path, uid, uid)
