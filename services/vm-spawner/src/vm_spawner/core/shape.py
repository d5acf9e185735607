"""From what callers write (``"2000m"``, ``"4Gi"``) to limits that a driver can set."""

import math
import re

from mcp_proto.contracts.vm_spawner import Resources, Shape
from vm_spawner.core.refusals import bad, no_gpu

__all__ = ["CPU_MAX", "MEM_MIB_MAX", "cores", "mebibytes", "shape_of"]

CPU_MAX = 256.0
MEM_MIB_MAX = 4 * 1024 * 1024
CPU_MIN = 0.05
"""Less than 5 % of a core does not boot within any deadline."""
_CPU = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(m?)")
_MEMORY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(Ki|Mi|Gi|Ti|K|k|M|G|T)?")
_UNITS = {
    "": 1,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
}


def cores(text: str) -> float:
    """``"2000m"`` or ``"2"`` or ``"1.5"`` → cores.

    Raises:
        MeshError: ``params``.
    """
    found = _CPU.fullmatch(text.strip())
    value = 0.0 if found is None else float(found[1]) / (1000 if found[2] else 1)
    if not CPU_MIN <= value <= CPU_MAX:
        raise bad(
            "/resources/cpuLimit",
            f'expected cores like "2" or "2000m", {CPU_MIN:g} to {CPU_MAX:g}',
        )
    return value


def mebibytes(text: str) -> int:
    """``"4Gi"`` or ``"512M"`` → MiB, rounded down.

    Raises:
        MeshError: ``params``.
    """
    found = _MEMORY.fullmatch(text.strip())
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2] or ""]) // 2**20
    if not 1 <= size <= MEM_MIB_MAX:
        raise bad("/resources/memoryLimit", 'expected bytes like "512Mi" or "4Gi"')
    return size


def shape_of(asked: Resources, default: Shape, *, memory_min_mib: int = 0) -> Shape:
    """Limits of a machine.

    Args:
        asked: as the caller wrote them.
        default: where the caller wrote nothing.
        memory_min_mib: least memory of the image; less cannot boot.

    Raises:
        MeshError: ``params`` with the field named; a refusal for a GPU.
    """
    if asked.gpu_access:
        raise no_gpu("auto")
    cpu = cores(asked.cpu_limit) if asked.cpu_limit else default.cpu
    memory = mebibytes(asked.memory_limit) if asked.memory_limit else default.mem_mib
    if memory < memory_min_mib:
        if asked.memory_limit:
            raise bad("/resources/memoryLimit", f"the image needs at least {memory_min_mib} MiB")
        memory = memory_min_mib
    return Shape(cpu=cpu, vcpu=max(1, math.ceil(cpu)), mem_mib=memory)
