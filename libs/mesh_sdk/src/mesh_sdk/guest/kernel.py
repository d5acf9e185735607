"""What only root can do in a machine, before it stops being root.

Each step gives "" or why it could not be done: in a sandbox this is nobody's root, its kernel is
the host's, and neither randomness nor clock of it need help.
"""

import ctypes
import fcntl
import os
import random
import resource
import signal
import struct
import time
from pathlib import Path

__all__ = ["become", "close_modules", "end_with_parent", "give", "reseed", "set_clock", "spare"]

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_CAPABILITIES = 64
_PIDS_MIN = 64
_PIDS_MAX = 512
_BYTES_PER_PROCESS = 2 * 1024 * 1024
_FILES_MAX = 1024


def reseed(entropy: bytes) -> str:
    """Give the kernel and this interpreter randomness that no other clone has."""
    problem = ""
    try:
        descriptor = os.open("/dev/random", os.O_WRONLY | os.O_CLOEXEC)
        try:
            pool = struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy
            fcntl.ioctl(descriptor, _RNDADDENTROPY, pool)
            fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
        finally:
            os.close(descriptor)
    except OSError as error:
        problem = f"randomness of the kernel: {error.strerror}"
    random.seed(os.urandom(32) + entropy)
    return problem


def set_clock(now: float) -> str:
    """Set the wall clock; a clone has that of its snapshot."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, now)
    except OSError as error:
        return f"clock: {error.strerror}"
    return ""


def close_modules() -> str:
    """No more kernel modules from here on."""
    try:
        Path("/proc/sys/kernel/modules_disabled").write_text("1")
    except OSError as error:
        return f"kernel modules: {error.strerror}"
    return ""


def spare(points: int) -> str:
    """How much rather this process is killed than others when memory is out: -1000 to 1000."""
    try:
        Path("/proc/self/oom_score_adj").write_text(f"{points}")
    except OSError as error:
        return f"memory: {error.strerror}"
    return ""


def give(path: str, user: int) -> str:
    """Let ``user`` have a file, such as the port of the link."""
    try:
        os.chown(Path(path).resolve(), user, user)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def become(user: int) -> str:
    """Be an ordinary user for good, without a way back.

    Raises:
        OSError: this is root and cannot stop being it.
    """
    if os.geteuid() != 0:
        _no_new_privileges()
        return "root: this is none"
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES_MAX, _FILES_MAX))
    processes = _processes()
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _no_new_privileges()
    return ""


def end_with_parent(parent: int) -> None:
    """Be told to end when the stage does, however it does. After ``become``, which undoes it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _processes() -> int:
    """As many as the memory has room for, with the tables that each of them needs."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_PIDS_MAX, max(_PIDS_MIN, pages // _BYTES_PER_PROCESS))


def _no_new_privileges() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
