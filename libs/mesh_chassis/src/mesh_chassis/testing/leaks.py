"""Does a test leave anything behind: asyncio tasks, child processes."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from mesh_chassis.testing.broker_engine import live_pids

__all__ = ["children", "leaked_tasks"]

_GRACE_S = 1.0


def children() -> frozenset[int]:
    """Process ids of this process' children, except brokers that fixtures still hold.

    Empty where the kernel has no ``/proc``.
    """
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in task.read_text().split())
        except OSError:
            continue  # that thread has just ended
    return frozenset(found - live_pids())


def describe(pids: Iterable[int]) -> str:
    """Command lines of processes, for the failure message."""
    lines: list[str] = []
    for pid in sorted(pids):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            line = ""
        lines.append(f"{pid} {line.strip() or '(ended, not reaped)'}")
    return "; ".join(lines)


async def leaked_tasks(before: frozenset[asyncio.Task[object]]) -> list[str]:
    """Names of tasks that were not there before and do not end within a second."""

    def foreign() -> set[asyncio.Task[object]]:
        return set(asyncio.all_tasks()) - before - {asyncio.current_task()}  # type: ignore[arg-type]

    if left := foreign():
        await asyncio.wait(left, timeout=_GRACE_S)
    return sorted(f"{task.get_name()}: {task.get_coro()}" for task in foreign())


async def leaked_children(before: frozenset[int]) -> str:
    """Description of children that were not there before and do not end within a second."""
    until = asyncio.get_running_loop().time() + _GRACE_S
    while left := children() - before:
        if asyncio.get_running_loop().time() > until:
            return describe(left)
        await asyncio.sleep(0.01)
    return ""
