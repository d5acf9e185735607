"""What the processor of this host offers to virtual machines."""

import os
import re
from pathlib import Path

__all__ = ["no_hardware", "tsc_khz"]

_CPUINFO = Path("/proc/cpuinfo")
_KVM = "/dev/kvm"
_RATE = re.compile(r"^cpu MHz\s*:\s*([0-9.]+)", re.MULTILINE)
_VIRTUAL = re.compile(r"^flags\s*:.*\b(vmx|svm)\b", re.MULTILINE)


def tsc_khz() -> int:
    """Rate of the time stamp counter as far as the host says it; 0 = it does not."""
    found = _RATE.search(_CPUINFO.read_text())
    return int(float(found[1]) * 1000) if found else 0


def no_hardware() -> str:
    """Why there is no point in trying KVM; "" = it may work."""
    if not Path(_KVM).exists():
        return f"this host has no {_KVM}"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM} is not this user's to open"
    if not _VIRTUAL.search(_CPUINFO.read_text()):
        return f"there is a {_KVM}, but the processor shows neither vmx nor svm"
    return ""
