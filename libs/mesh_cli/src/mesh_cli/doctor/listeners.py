"""Which process listens on a port, as far as ``/proc`` tells this user."""

import contextlib
from pathlib import Path

__all__ = ["who_listens"]

_LISTEN = "0A"


def who_listens(port: int) -> str:
    """``name (pid N)`` of the process listening on ``port``; "" when it cannot be told."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()) in wanted:
                        name = (folder / "comm").read_text().strip()
                        return f"{name} (pid {folder.name})"
    return ""


def _listening_inodes(port: int) -> set[str]:
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                parts = row.split()
                if parts[3] == _LISTEN and int(parts[1].rpartition(":")[2], 16) == port:
                    found.add(parts[9])
    return found
