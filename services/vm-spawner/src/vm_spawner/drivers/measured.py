"""What a process takes, as /proc says."""

import os
from collections.abc import Iterable
from pathlib import Path

from vm_spawner.drivers.machine import Usage

__all__ = ["process_start", "usage_of"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_START_FIELD = 19
"""Field 22 of stat, counted behind the name, which may hold anything."""


def usage_of(pids: Iterable[int], *, running: bool, exit_status: int | None = None) -> Usage:
    """Sum over the processes of a machine; those that are gone meanwhile count nothing."""
    cpu, memory, threads, read, written, seen = 0, 0, 0, 0, 0, False
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            moved = dict(
                line.split(b": ") for line in Path(f"/proc/{pid}/io").read_bytes().splitlines()
            )
        except OSError:
            continue
        seen = True
        cpu += int(fields[11]) + int(fields[12])
        threads += int(fields[17])
        memory += int(fields[21]) * _PAGE
        read += int(moved[b"read_bytes"])
        written += int(moved[b"write_bytes"])
    if not seen:
        return Usage(running=running, exit_status=exit_status)
    return Usage(
        running=running,
        exit_status=exit_status,
        cpu_s=cpu / _TICKS,
        memory_bytes=memory,
        pids=threads,
        read_bytes=read,
        written_bytes=written,
    )


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 = there is none, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = stat.rpartition(b")")[2].split()
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[_START_FIELD])
