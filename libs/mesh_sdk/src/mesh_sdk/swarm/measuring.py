"""What the kernel says of a process; None where it says nothing."""

import os
from pathlib import Path

from mesh_sdk.swarm.resident import Measured

__all__ = ["measured"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def measured(pid: int) -> Measured:
    """Resident memory of a process, and processor time of it and its ended children."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, IndexError, ValueError):
        return Measured()
    ticks = sum(int(field) for field in fields[11:15])
    return Measured(memory_bytes=resident, cpu_ms=ticks * _TICK_MS)
