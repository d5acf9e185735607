"""Control groups of version 1, version 2 or both: made, filled with limits, read and removed.

A group is made beside or below that of the service, where the host lets it; what cannot be had is
left out and said (``Groups.missing``), never pretended. The child enters its groups before its
program runs, so nothing of it ever ran outside.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

__all__ = ["CONTROLLERS", "Group", "Groups", "Usage"]

CONTROLLERS = ("memory", "cpu", "pids")
"""Those that enforce a limit."""
COUNTER = "cpuacct"
"""Where version 1 counts processor time."""
ROOT = Path("/sys/fs/cgroup")
PREFIX = "mesh-"
_PERIOD_US = 100_000
_STALE_S = 60.0
_REMOVE_TRIES = 50
_REMOVE_PAUSE_S = 0.002


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a group uses, as measured; None where its controller is missing.

    Attributes:
        memory_bytes: now.
        cpu_s: processor time since the start.
        pids: processes and threads now.
    """

    memory_bytes: int | None = None
    cpu_s: float | None = None
    pids: int | None = None


class Group:
    """The groups of one sandbox: one per controller in version 1, one in version 2.

    Args:
        folders: by controller.
        unified: they are of version 2.
    """

    def __init__(self, folders: Mapping[str, Path], *, unified: bool) -> None:
        self.folders = dict(folders)
        self.unified = unified

    @property
    def paths(self) -> tuple[str, ...]:
        """Folders to be entered, each once."""
        return tuple(dict.fromkeys(str(folder) for folder in self.folders.values()))

    def usage(self) -> Usage:
        """Look at what is used now; of a group that is gone nothing is known."""
        memory = "memory.current" if self.unified else "memory.usage_in_bytes"
        return Usage(
            memory_bytes=self._number("memory", memory),
            cpu_s=self._cpu_s(),
            pids=self._number("pids", "pids.current"),
        )

    def remove(self) -> bool:
        """Remove it; False when something still runs in it. Waits up to 0.1 s for that to end."""
        for _ in range(_REMOVE_TRIES):
            if all(_removed(Path(path)) for path in self.paths):
                return True
            time.sleep(_REMOVE_PAUSE_S)
        return False

    def _number(self, controller: str, name: str) -> int | None:
        folder = self.folders.get(controller)
        if folder is None:
            return None
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):
            return None

    def _cpu_s(self) -> float | None:
        if not self.unified:
            spent = self._number(COUNTER, "cpuacct.usage")
            return None if spent is None else spent / 1e9
        folder = self.folders.get("cpu")
        if folder is None:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            first = (folder / "cpu.stat").read_text().split()
            return int(first[first.index("usage_usec") + 1]) / 1e6
        return None


class Groups:
    """Where this process can make groups.

    Args:
        places: folder to make them in, by controller.
        unified: they are of version 2.
        owner: the first part of their names; who starts with it sweeps them.
    """

    def __init__(self, places: Mapping[str, Path], *, unified: bool, owner: str) -> None:
        self.places = dict(places)
        self.unified = unified
        self._owner = owner
        self._numbers = itertools.count(1)

    @classmethod
    def find(cls, *, root: Path = ROOT, proc: Path = Path("/proc")) -> "Groups":
        """Look at the host; nothing is changed but for groups that the dead left behind.

        Args:
            root: where groups are mounted.
            proc: where processes are seen.
        """
        own = dict(_memberships(proc / "self" / "cgroup"))
        unified = (root / "cgroup.controllers").exists()
        places = _unified_places(root, own) if unified else _split_places(root, own)
        pid = os.getpid()
        for place in set(places.values()):
            _sweep(place, proc)
        return cls(places, unified=unified, owner=f"{PREFIX}{pid}-{_started(proc, pid)}")

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers that this process cannot use."""
        return tuple(one for one in CONTROLLERS if one not in self.places)

    def drop(self) -> None:
        """Make no more groups: the host let nobody enter one."""
        self.places.clear()

    def make(self, *, memory_bytes: int, cpus: float, pids: int) -> Group:
        """Make a group with limits.

        Returns:
            With the controllers whose limits the kernel took.
        """
        name = f"{self._owner}-{next(self._numbers)}"
        wanted = {
            "memory": tuple(_memory(self.unified, memory_bytes)),
            "cpu": tuple(_cpu(self.unified, cpus)),
            "pids": (("pids.max", str(pids)),),
        }
        made: dict[str, Path] = {}
        for controller, place in self.places.items():
            folder = place / name
            try:
                folder.mkdir(exist_ok=True)
                for file, value in wanted.get(controller, ()):
                    _write(folder / file, value)
            except OSError:
                if folder not in made.values():
                    _removed(folder)
                continue
            made[controller] = folder
        return Group(made, unified=self.unified)


def _memory(unified: bool, size: int) -> Iterator[tuple[str, str]]:
    if unified:
        yield "memory.max", str(size)
        yield "?memory.swap.max", "0"
        yield "?memory.oom.group", "1"
    else:
        yield "memory.limit_in_bytes", str(size)
        yield "?memory.memsw.limit_in_bytes", str(size)


def _cpu(unified: bool, cpus: float) -> Iterator[tuple[str, str]]:
    quota = max(1000, round(cpus * _PERIOD_US))  # the kernel takes no less than a millisecond
    if unified:
        yield "cpu.max", f"{quota} {_PERIOD_US}"
    else:
        yield "cpu.cfs_period_us", str(_PERIOD_US)
        yield "cpu.cfs_quota_us", str(quota)


def _write(path: Path, value: str) -> None:
    """Write a limit; a file named ``?…`` is one that not every kernel has."""
    if path.name.startswith("?"):
        with contextlib.suppress(OSError):
            _write(path.with_name(path.name[1:]), value)
        return
    # No file is made here: where the kernel offers none, the limit does not exist.
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _memberships(path: Path) -> Iterator[tuple[str, str]]:
    """Controller ("" = version 2) and own path in it."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, own = line.split(":", 2)
        for name in names.split(","):
            yield name, own


def _split_places(root: Path, own: Mapping[str, str]) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for controller in (*CONTROLLERS, COUNTER):
        mount = root / controller
        below = mount / own.get(controller, "/").lstrip("/")
        # In a container the path of the host may not be visible.
        place = below if below.is_dir() else mount
        if controller in own and place.is_dir() and os.access(place, os.W_OK):
            places[controller] = place
    return places


def _unified_places(root: Path, own: Mapping[str, str]) -> dict[str, Path]:
    """The nearest folder from our own upwards that hands the controllers on to its children."""
    at = root / own.get("", "/").lstrip("/")
    if not at.is_dir():
        at = root
    best: dict[str, Path] = {}
    for folder in (at, *at.parents):
        if not folder.is_relative_to(root):
            break
        if os.access(folder, os.W_OK):
            given = _handed_on(folder)
            if len(given) > len(best):
                best = dict.fromkeys(given, folder)
        if len(best) == len(CONTROLLERS):
            break
    return best


def _handed_on(folder: Path) -> list[str]:
    control = folder / "cgroup.subtree_control"
    try:
        there = (folder / "cgroup.controllers").read_text().split()
        for one in set(CONTROLLERS) & set(there) - set(control.read_text().split()):
            # Refused where processes live in it, or where it is not ours.
            with contextlib.suppress(OSError):
                control.write_text(f"+{one}")
        given = control.read_text().split()
    except OSError:
        return []
    return [one for one in CONTROLLERS if one in given]


def _sweep(place: Path, proc: Path) -> None:
    """Remove empty groups of processes that are gone: killed, and their reaper with them."""
    for folder in _folders(place):
        pid, _, started = folder.name.removeprefix(PREFIX).rpartition("-")[0].partition("-")
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > _STALE_S
            if pid.isdigit() and old and _started(proc, int(pid)) != started:
                folder.rmdir()


def _folders(place: Path) -> Iterable[Path]:
    try:
        return list(place.glob(f"{PREFIX}*-*-*"))
    except OSError:
        return ()


def _started(proc: Path, pid: int) -> str:
    """Start time of a process in ticks; "" = there is none."""
    try:
        return (proc / f"{pid}" / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
