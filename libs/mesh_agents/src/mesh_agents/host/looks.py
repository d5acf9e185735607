"""What the kernel says of processes and of this machine; None where it says nothing."""

from pathlib import Path

__all__ = ["free_memory", "has_gpu", "is_stopped"]


def is_stopped(pid: int) -> bool:
    """Whether a signal stopped it (SIGSTOP, a debugger)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] in {b"T", b"t"}


def free_memory() -> tuple[int, int]:
    """Memory available and in all, in bytes; (0, 0) = unknown."""
    found = {"MemAvailable": 0, "MemTotal": 0}
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found["MemAvailable"], found["MemTotal"]


def has_gpu() -> bool:
    """Whether a GPU can be used: a device of NVIDIA's or AMD's compute driver."""
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()
