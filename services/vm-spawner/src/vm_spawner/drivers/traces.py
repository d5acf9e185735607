"""Processes of machines, found by what stands in their environment, and their end.

A driver puts ``MESH_VM`` and ``MESH_LINK`` into the environment of what it starts. That finds
a process of a spawner that died before it could write the process id down, and it tells machines
of this state directory from those of another spawner on the same host.
"""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.drivers.machine import Link, MachineSpec

__all__ = ["LINK", "VM", "end_marked", "find_marked", "marks"]

VM = "MESH_VM"
"""Environment variable: id of the machine."""
LINK = "MESH_LINK"
"""Environment variable: directory of its sockets."""
ROUNDS_MAX = 400
"""A process that forks while it is killed needs more than one round."""
PAUSE_S = 0.005


def marks(spec: MachineSpec, link: Link) -> dict[str, str]:
    """What a process of a machine has in its environment."""
    return {VM: spec.vm_id, LINK: link.directory}


def find_marked(root: Path, vm_id: str = "") -> Mapping[str, list[int]]:
    """Living processes of machines below a state directory: vmId → process ids.

    Args:
        root: state directory of the spawner.
        vm_id: only of this machine; "" = of all.
    """
    found: dict[str, list[int]] = defaultdict(list)
    me = os.getpid()
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    for name in names:
        machine = "" if int(name) == me else _machine_of(int(name), root)
        if machine and vm_id in ("", machine):
            found[machine].append(int(name))
    return found


async def end_marked(root: Path, vm_id: str) -> None:
    """Kill every process of a machine; returns when none is left.

    Raises:
        MeshError: ``upstream``: one does not die.
    """
    for _ in range(ROUNDS_MAX):
        pids = find_marked(root, vm_id).get(vm_id, [])
        if not pids:
            return
        for pid in pids:
            _kill(pid, root, vm_id)
        await asyncio.sleep(PAUSE_S)
    raise MeshError(ErrorKind.UPSTREAM, f"processes of {vm_id} do not die", data={"phase": "boot"})


def _machine_of(pid: int, root: Path) -> str:
    """The machine below ``root`` that a process belongs to; "" = none."""
    try:
        block = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""  # gone, a zombie, or not ours to look at
    below = f"{LINK}={root}/".encode()
    if below not in block:
        return ""
    members = block.split(b"\0")
    if not any(one.startswith(below) for one in members):
        return ""
    name = next((one for one in members if one.startswith(f"{VM}=".encode())), b"")
    return name.partition(b"=")[2].decode("ascii", "replace")


def _kill(pid: int, root: Path, vm_id: str) -> None:
    """By descriptor, and looked at once more: a process id is used again."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _machine_of(pid, root) == vm_id:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return  # gone meanwhile
    finally:
        os.close(descriptor)
