"""What is wanted of a machine, what is stored of it, and what its isolation is worth.

The part of ``contracts.vm_spawner`` that is kept in buckets; import it from there.
"""

from typing import Literal

import msgspec

from mcp_proto import buckets
from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "DRIVERS",
    "ISOLATIONS",
    "LIVE",
    "STABLE",
    "Desired",
    "Isolation",
    "MachineRecord",
    "MachineState",
    "Observed",
    "Owner",
    "Phase",
    "QuotaRecord",
    "QuotaShare",
    "Resources",
    "Shape",
    "Timings",
    "Wanted",
    "meets",
    "rank",
    "record_key",
]

Isolation = Literal[
    "vm", "vm-emulated", "user-kernel", "container", "sandbox", "restricted", "none"
]
"""What a machine is held in by; the words promise what docs/machines.md says, never more."""

_RANKS: dict[str, int] = {
    "vm": 5,
    "user-kernel": 4,
    "container": 3,
    "sandbox": 2,
    # Its wall is the jail around the emulator, not the emulated CPU.
    "vm-emulated": 2,
    "restricted": 1,
    "none": 0,
}
ISOLATIONS = tuple(_RANKS)

DRIVERS = ("firecracker", "qemu", "container", "sandbox", "process")

Phase = Literal["reserve", "image", "network", "boot", "hello", "run"]
"""Steps of a spawn, as errors name them; ``run`` is afterwards."""

MachineState = Literal[
    "requested",
    "admitted",
    "creating",
    "booting",
    "handshake",
    "ready",
    "parked",
    "paused",
    "draining",
    "stopped",
    "failed",
    "lost",
]
STABLE = frozenset({"ready", "parked", "paused", "stopped", "failed", "lost"})
"""The others are passed through, and the reconciler ends those that stay."""
LIVE = frozenset(
    {
        "requested",
        "admitted",
        "creating",
        "booting",
        "handshake",
        "ready",
        "parked",
        "paused",
        "draining",
    }
)
"""States in which something may exist on a host, and which count against the quota."""


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON, camelCase; unknown fields are ignored, so that versions can meet."""


# What is wanted


class Shape(_Wire, frozen=True, kw_only=True):
    """Limits of a machine.

    Attributes:
        cpu: cores, exact: the quota of the cgroup.
        vcpu: processors that the machine sees: ``cpu`` rounded up.
        mem_mib: memory of the machine, without what its monitor takes.
    """

    cpu: float = 1.0
    vcpu: int = 1
    mem_mib: int = 256


class Resources(_Wire, frozen=True, kw_only=True):
    """Limits as callers write them: ``"2000m"`` or ``"2"`` cores, ``"4Gi"``; "" = the default."""

    cpu_limit: str = ""
    memory_limit: str = ""
    gpu_access: bool = False


class Wanted(_Wire, frozen=True, kw_only=True):
    """Which isolation is good enough.

    Attributes:
        min: class at least; "" = what the host's file says.
        driver: ``auto``, or the name of one driver.
        own_kernel: a kernel of its own, emulated or not (``runtime: "vm"`` of ``agent_spawn``).
    """

    min: Isolation | Literal[""] = ""
    driver: str = "auto"
    own_kernel: bool = False


class Owner(_Wire, frozen=True, kw_only=True):
    """For whom a machine runs; "" = nobody in particular."""

    principal: str = ""
    agent: str = ""
    swarm: str = ""


# What is stored


class Desired(_Wire, frozen=True, kw_only=True):
    """What shall be.

    Attributes:
        state: ``ready`` or ``stopped``.
        image: digest; "" = the host's own programs.
        program: name of a program that the host's file lists; "" = what the image starts.
        agent: server name that the agent inside may serve.
        driver: ``auto``, or one.
        isolation_min: class at least.
        own_kernel: as in ``Wanted``.
        shape: limits.
        ttl_s: longest life from ready on; 0 = until it is stopped.
        grace_s: what it gets to finish once it shall stop; -1 = the host's default.
        owner: for whom.
        config: handed to the program inside with ``go`` (a JSON object); never a secret.
    """

    state: Literal["ready", "stopped"] = "ready"
    image: str = ""
    program: str = ""
    agent: str = ""
    driver: str = "auto"
    isolation_min: Isolation = "sandbox"
    own_kernel: bool = False
    shape: Shape = Shape()
    ttl_s: int = 0
    grace_s: float = -1.0
    owner: Owner = Owner()
    config: msgspec.Raw = ABSENT


class Timings(_Wire, frozen=True, kw_only=True):
    """When each step of a spawn was done, in ms from the request, by one monotonic clock.

    None = not reached, or this driver cannot tell.
    """

    admitted: float | None = None
    image: float | None = None
    network: float | None = None
    created: float | None = None
    running: float | None = None
    hello: float | None = None
    connected: float | None = None
    ready: float | None = None


class Observed(_Wire, frozen=True, kw_only=True):
    """What is.

    Attributes:
        state: where it is in its life.
        reason: why it failed or ended, as public text; "" = as wanted.
        code: word for ``reason``: ``boot_timeout``, ``boot_failed``, ``exit``, ``ttl``, ``asked``,
            ``drained``, ``spawner_lost`` …
        phase: step that failed; "" = none.
        host: spawner that has it.
        boot: life of that spawner; another one means that the spawner was started again.
        epoch: counts the processes that were this machine.
        driver: that was taken. ``isolation``: class that was got. ``limits``: what is enforced.
        created_ms: Unix ms of the request.
        started_ms: Unix ms of ready; 0 = not yet.
        ended_ms: Unix ms; 0 = not yet.
        ready_ms: from request to ready.
        restarts: starts after an unwanted end.
        timings: of the last spawn.
        console: its last lines, once it has ended.
    """

    state: MachineState
    reason: str = ""
    code: str = ""
    phase: Phase | Literal[""] = ""
    host: str = ""
    boot: str = ""
    epoch: int = 0
    driver: str = ""
    isolation: Isolation | Literal[""] = ""
    limits: str = ""
    created_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    ready_ms: float | None = None
    restarts: int = 0
    timings: Timings = Timings()
    console: str = ""


class MachineRecord(_Wire, frozen=True, kw_only=True):
    """Value of ``{tenant}.{vmId}`` in ``mesh_vms``; written by compare-and-set only."""

    vm_id: str
    tenant: str
    desired: Desired
    observed: Observed


class QuotaShare(_Wire, frozen=True, kw_only=True):
    """What one machine takes of its tenant's quota. ``at_ms``: since when (Unix ms)."""

    vcpu: int
    mem_mib: int
    at_ms: int


class QuotaRecord(_Wire, frozen=True, kw_only=True):
    """Value of ``{tenant}`` in ``mesh_vm_quota``; written by compare-and-set only.

    It names the machines instead of counting them, so that giving a share back twice, or after a
    crash, is the same as once.

    Attributes:
        held: vmId → share.
        spawns_ms: when the latest machines were admitted (Unix ms), within the last minute.
    """

    held: dict[str, QuotaShare] = {}
    spawns_ms: tuple[int, ...] = ()


def meets(got: str, wanted: Wanted, *, least: Isolation, allow_emulated: bool = False) -> bool:
    """Whether a class is good enough.

    Args:
        got: class of a driver.
        wanted: of the request.
        least: the host's own minimum, where the request names none.
        allow_emulated: the host's file lets an emulated machine pass for hardware.
    """
    if wanted.own_kernel and got not in {"vm", "vm-emulated"}:
        return False
    minimum = wanted.min or least
    if got == "vm-emulated" and minimum == "vm":
        return allow_emulated
    return rank(got) >= rank(minimum)


def rank(isolation: str) -> int:
    """Strength of a class; higher is stronger.

    Raises:
        KeyError: no such class.
    """
    return _RANKS[isolation]


def record_key(tenant: str, vm_id: str) -> str:
    """Key in ``mesh_vms``."""
    return buckets.key(tenant, vm_id)
