"""Who lives below a process, from ``/proc``: what a mesh started must be gone when it is."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

__all__ = ["Process", "alive", "below", "gone", "of_pid", "state_of"]

_POLL_S = 0.02


class Process(msgspec.Struct, frozen=True):
    """A process that cannot be taken for a later one with the same number."""

    pid: int
    started: int
    """Clock ticks after boot."""
    command: str = ""


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def state_of(pid: int) -> str:
    """The kernel's letter for it (``R S D T Z``); "" = no such process."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def of_pid(pid: int) -> Process | None:
    """The process with that number now; None when there is none or only its corpse."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return None
    return Process(pid, int(fields[19]), command)


def below(pid: int) -> set[Process]:
    """Every descendant of a process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[Process] = set()
    todo = list(children.get(pid, ()))
    while todo:
        one = todo.pop()
        todo += children.get(one, ())
        process = of_pid(one)
        if process is not None:
            found.add(process)
    return found


def alive(processes: Iterable[Process]) -> list[Process]:
    """Those that still run."""
    left: list[Process] = []
    for process in processes:
        now = of_pid(process.pid)
        if now is not None and now.started == process.started:
            left.append(process)
    return left


def gone(processes: Iterable[Process], within_s: float) -> list[Process]:
    """Wait until all have ended; returns those that have not in time."""
    until = time.monotonic() + within_s
    left = alive(processes)
    while left and time.monotonic() < until:
        time.sleep(_POLL_S)
        left = alive(left)
    return left


def marked(text: str) -> list[Process]:
    """Processes of this user whose command line or environment names ``text``."""
    found: list[Process] = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        try:
            said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        process = of_pid(pid)
        if process is not None and text.encode() in said:
            found.append(process)
    return found
