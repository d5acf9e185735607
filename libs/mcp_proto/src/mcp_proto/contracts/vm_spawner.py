"""Contract of ``vm-spawner``: machines, what is wanted of one, what is stored of it, operations.

A machine is what an agent or a server runs in that nobody should trust: a sandbox, a container or
a micro-VM. Its record is written before anything of it exists, so nothing that exists is unknown.
A ``vmId`` is a name and never a right: every operation names the tenant too, and looks there only.
"""

from typing import Literal

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts import Operation
from mcp_proto.contracts.vm_records import (
    DRIVERS,
    ISOLATIONS,
    LIVE,
    STABLE,
    Desired,
    Isolation,
    MachineRecord,
    MachineState,
    Observed,
    Owner,
    Phase,
    QuotaRecord,
    QuotaShare,
    Resources,
    Shape,
    Timings,
    Wanted,
    meets,
    rank,
    record_key,
)
from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "DRIVERS",
    "ISOLATIONS",
    "LIVE",
    "STABLE",
    "AuctionRequest",
    "Bid",
    "Deploy",
    "Desired",
    "DriverView",
    "Drivers",
    "Isolation",
    "ListDrivers",
    "ListMachines",
    "LogLines",
    "Logs",
    "MachineRecord",
    "MachineRef",
    "MachineState",
    "MachineView",
    "Machines",
    "Observed",
    "Owner",
    "Phase",
    "QuotaRecord",
    "QuotaShare",
    "Resources",
    "Shape",
    "Spawn",
    "Spawned",
    "Stop",
    "Timings",
    "Wanted",
    "auction_subject",
    "deploy_subject",
    "drivers",
    "event_subject",
    "kill",
    "list_machines",
    "log_subject",
    "logs",
    "meets",
    "rank",
    "record_key",
    "spawn",
    "status",
    "stop",
]

SERVICE = "vm-spawner"

CONSOLE_BYTES_MAX = 16 * 1024
"""Of what a machine printed, so much is kept; reasons of failures and ``logs`` show it."""
LINE_BYTES_MAX = 4 * 1024
"""A longer line of a log is cut."""
BID_S = 5.0
"""A bid holds so long, and for one deploy."""
AUCTION_S = 0.15
"""Longest auction; it ends as soon as every known spawner has answered."""


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON, camelCase; unknown fields are ignored, so that versions can meet."""


# Operations


class Spawn(_Wire, frozen=True, kw_only=True):
    """Make a machine.

    Attributes:
        tenant: whose; the asking service has checked that the caller is of it.
        vm_id: "" = one is made up; else the same id twice is the same machine.
        agent: server name that the agent inside serves; "" = the vmId.
        image: name or digest of an image; "" = the host's default.
        program: name of a program that the host's file lists; "" = what the image starts.
        isolation: good enough.
        resources: limits.
        ttl_s: longest life; 0 = the host's default.
        owner: for whom.
        config: for the program inside (a JSON object).
    """

    tenant: str
    vm_id: str = ""
    agent: str = ""
    image: str = ""
    program: str = ""
    isolation: Wanted = Wanted()
    resources: Resources = Resources()
    ttl_s: int = 0
    owner: Owner = Owner()
    config: msgspec.Raw = ABSENT


class MachineView(_Wire, frozen=True, kw_only=True):
    """A machine as callers see it.

    Attributes:
        draining: the spawner that has it drains, so that it ends soon.
        cpu_s: CPU seconds; None = not measured. ``memory_bytes``, ``pids`` likewise.
    """

    record: MachineRecord
    draining: bool = False
    cpu_s: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None


class Spawned(_Wire, frozen=True, kw_only=True):
    """The record is stored; the machine comes up, or its record says why not.

    ``estimate_ms``: until ready, from what was measured here; None = no samples yet.
    """

    machine: MachineView
    estimate_ms: float | None = None


class MachineRef(_Wire, frozen=True, kw_only=True):
    """One machine of one tenant."""

    tenant: str
    vm_id: str


class Stop(_Wire, frozen=True, kw_only=True):
    """End a machine in order. ``grace_s``: what it gets to finish; -1 = the host's default."""

    tenant: str
    vm_id: str
    grace_s: float = -1.0


class ListMachines(_Wire, frozen=True, kw_only=True):
    """``tenant`` "" = of all, for operators. ``ended``: those that ended too."""

    tenant: str = ""
    ended: bool = False
    limit: int = 100


class Machines(_Wire, frozen=True, kw_only=True):
    """Newest first; ``more``: there are others."""

    machines: tuple[MachineView, ...]
    more: bool = False


class Logs(_Wire, frozen=True, kw_only=True):
    """The last lines of a machine's console."""

    tenant: str
    vm_id: str
    lines: int = 200


class LogLines(_Wire, frozen=True, kw_only=True):
    """``dropped``: bytes that the rate limit threw away. ``live``: the machine still runs."""

    lines: tuple[str, ...]
    dropped: int = 0
    live: bool = True


class ListDrivers(_Wire, frozen=True, kw_only=True):
    """No parameters."""


class DriverView(_Wire, frozen=True, kw_only=True):
    """A driver on one host, as ``mesh doctor`` shows it."""

    driver: str
    available: bool
    reason: str
    isolation: Isolation
    enabled: bool = True
    limits: str = ""
    features: tuple[str, ...] = ()
    versions: dict[str, str] = {}


class Drivers(_Wire, frozen=True, kw_only=True):
    """Of the spawner that answered."""

    spawner: str
    drivers: tuple[DriverView, ...]


spawn = Operation(SERVICE, "spawn", Spawn, Spawned)
stop = Operation(SERVICE, "stop", Stop, MachineView)
kill = Operation(SERVICE, "kill", MachineRef, MachineView)
list_machines = Operation(SERVICE, "list", ListMachines, Machines)
status = Operation(SERVICE, "status", MachineRef, MachineView)
logs = Operation(SERVICE, "logs", Logs, LogLines)
drivers = Operation(SERVICE, "drivers", ListDrivers, Drivers)

OPERATIONS = (spawn, stop, kill, list_machines, status, logs, drivers)
"""Served by every spawner in one queue group."""


# Between spawners


class AuctionRequest(_Wire, frozen=True, kw_only=True):
    """Who can run such a machine?"""

    vm_id: str
    tenant: str
    image: str = ""
    program: str = ""
    isolation: Wanted = Wanted()
    shape: Shape = Shape()


class Bid(_Wire, frozen=True, kw_only=True):
    """A spawner's offer, or why it makes none.

    Attributes:
        spawner: instance id.
        bid: one-use id, valid for ``BID_S``; "" = declined.
        declined: word: ``isolation``, ``capacity``, ``image``, ``program``, ``draining``.
        message: the reason for people.
        driver: that it would take. ``isolation``: class of that.
        warm: it has one parked.
        free_vcpu: what it has left. ``free_mib`` likewise.
        estimate_ms: until ready; None = no samples.
        cost: of the driver, cheapest first.
        available: its drivers, where none is good enough.
    """

    spawner: str
    bid: str = ""
    declined: str = ""
    message: str = ""
    driver: str = ""
    isolation: Isolation | Literal[""] = ""
    warm: bool = False
    free_vcpu: float = 0.0
    free_mib: int = 0
    estimate_ms: float | None = None
    cost: int = 0
    available: tuple[DriverView, ...] = ()


class Deploy(_Wire, frozen=True, kw_only=True):
    """To the winner: make the record, then the machine; idempotent on ``vm_id``."""

    bid: str
    vm_id: str
    tenant: str
    desired: Desired


# Names


def auction_subject() -> str:
    """``AuctionRequest`` to every spawner at once (no queue group); each answers with a ``Bid``."""
    return subjects.service(SERVICE, "auction")


def deploy_subject(spawner: str) -> str:
    """``Deploy`` → ``MachineView``, to the one that won."""
    return subjects.instance(subjects.PLATFORM, spawner, "deploy")


def event_subject(tenant: str, vm_id: str) -> str:
    """Every transition, with the record as body."""
    return subjects.event(tenant, "vm", vm_id)


def log_subject(tenant: str, vm_id: str) -> str:
    """Console lines, kept a day in ``MESH_LOGS``."""
    return subjects.event(tenant, "log", vm_id)
