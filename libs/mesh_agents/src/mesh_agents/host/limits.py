"""Limits of one agent: memory by rlimit everywhere, memory and cores by cgroup where we may.

A cgroup of version 2 is ours to divide when nothing but this host lives in it (a systemd unit with
``Delegate=yes``, a container of its own); anything else is left alone, and the reason is told.
"""

import logging
import os
from pathlib import Path

import msgspec

__all__ = ["Cgroups", "Limited"]

PERIOD_US = 100_000
_MOUNT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "memory")
_log = logging.getLogger(__name__)


class Limited(msgspec.Struct, frozen=True):
    """Whether the limits asked for hold, and why not."""

    holds: bool
    reason: str = ""


class Cgroups:
    """The cgroup of the host, divided among its agents.

    Args:
        root: directory that belongs to this host; None = limits are rlimits only.
        reason: why there is none.
    """

    def __init__(self, root: Path | None, reason: str = "") -> None:
        self._root = root
        self.reason = reason

    @classmethod
    def find(cls, mount: Path = _MOUNT, self_cgroup: Path = Path("/proc/self/cgroup")) -> "Cgroups":
        """Make ours what is ours; never raises."""
        try:
            lines = self_cgroup.read_text().splitlines()
            path = next((line[3:] for line in lines if line.startswith("0::")), None)
            if path is None or not (mount / "cgroup.controllers").is_file():
                return cls(None, "this machine has no cgroup of version 2")
            own = mount / path.lstrip("/")
            missing = set(_CONTROLLERS) - set((own / "cgroup.controllers").read_text().split())
            if missing:
                return cls(None, f"no cgroup controller for {', '.join(sorted(missing))} here")
            if (own / "cgroup.procs").read_text().split() != [str(os.getpid())]:
                return cls(None, "the host shares its cgroup with other processes")
            _divide(own)
        except OSError as error:
            return cls(None, f"the host's cgroup cannot be divided: {error.strerror}")
        return cls(own / "agents")

    def confine(self, agent: str, pid: int, *, memory_bytes: int, cpu: float) -> Limited:
        """Put a process that just started under limits.

        Args:
            agent: its id.
            pid: its process.
            memory_bytes: 0 = no limit; its rlimit holds already.
            cpu: cores; 0 = no limit.
        """
        if not memory_bytes and not cpu:
            return Limited(holds=False, reason="no limits were asked for")
        if self._root is None:
            if not cpu:
                return Limited(holds=True)
            return Limited(holds=False, reason=f"cores are not limited: {self.reason}")
        group = self._root / agent
        try:
            group.mkdir(exist_ok=True)
            if memory_bytes:
                (group / "memory.max").write_text(str(memory_bytes))
            if cpu:
                (group / "cpu.max").write_text(f"{int(cpu * PERIOD_US)} {PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            return Limited(holds=False, reason=f"the cgroup refuses: {error.strerror}")
        return Limited(holds=True)

    def release(self, agent: str) -> None:
        """Take an ended agent's cgroup away."""
        if self._root is not None:
            try:
                (self._root / agent).rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                _log.info("the cgroup of %s stays: %s", agent, error.strerror)


def _divide(own: Path) -> None:
    """Processes may live in leaves only: the host in one, each agent in another."""
    (own / "host").mkdir(exist_ok=True)
    (own / "agents").mkdir(exist_ok=True)
    (own / "host" / "cgroup.procs").write_text(str(os.getpid()))
    enabled = " ".join(f"+{name}" for name in _CONTROLLERS)
    (own / "cgroup.subtree_control").write_text(enabled)
    (own / "agents" / "cgroup.subtree_control").write_text(enabled)
