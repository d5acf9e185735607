"""Configuration of the spawner: one strict Struct, every field with a usable default."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mcp_proto.contracts.vm_spawner import Isolation, Shape
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig
from vm_spawner.core.quota import QuotaLimits

__all__ = [
    "FirecrackerSection",
    "ImageEntry",
    "ProcessSection",
    "Program",
    "QemuSection",
    "QuotaSection",
    "SandboxSection",
    "VmSection",
    "VmSpawnerConfig",
]

DriverName = Literal["auto", "firecracker", "qemu", "container", "sandbox", "process"]


class Oversubscribe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much more is promised than there is."""

    cpu: Annotated[float, Meta(ge=0.1, le=64.0)] = 2.0
    memory: Annotated[float, Meta(ge=0.1, le=4.0)] = 1.0


class VmSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[vm]``.

    Attributes:
        driver: the only driver to be used; ``auto`` = the cheapest that is good enough.
        min_isolation: class where a request names none.
        allow_emulated: an emulated machine passes for hardware. Development and CI only.
        allow_unsigned: accept tool calls without a signed caller context. Development only.
        image: name of the image (``[[images]]``) where a request names none; "" = none.
        program: name of the program (``[[programs]]``) likewise.
        state_dir: where machines have their directories; relative to the working directory.
        cpu: cores of a machine that names none. ``memory_mib`` likewise.
        host_cpu: cores for machines; 0 = those of the host. ``host_memory_mib`` likewise, of
            which a quarter is left to the host.
        oversubscribe: how much more is promised.
        ttl_s: longest life of a machine that names none; 0 = until it is stopped.
        grace_s: what a machine gets to finish when it is stopped.
        boot_timeout_s: longest boot; 0 = what the driver says.
        boots: boots at once; 0 = one per core.
        reconcile_s: interval at which what exists is compared with what should.
        log_bytes_per_s: of a machine's console that are passed on; the rest is dropped.
        beat_timeout_s: without a heartbeat of the agent inside for so long, the machine is
            ended; 0 = never.
    """

    driver: DriverName = "auto"
    min_isolation: Isolation = "sandbox"
    allow_emulated: bool = False
    allow_unsigned: bool = False
    image: str = ""
    program: str = ""
    state_dir: str = "vm"
    cpu: Annotated[float, Meta(ge=0.05, le=256.0)] = 1.0
    memory_mib: Annotated[int, Meta(ge=16, le=4 * 1024 * 1024)] = 256
    host_cpu: Annotated[float, Meta(ge=0.0)] = 0.0
    host_memory_mib: Annotated[int, Meta(ge=0)] = 0
    oversubscribe: Oversubscribe = Oversubscribe()
    ttl_s: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 0
    grace_s: Annotated[float, Meta(ge=0.0, le=300.0)] = 5.0
    boot_timeout_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 0.0
    boots: Annotated[int, Meta(ge=0, le=256)] = 0
    reconcile_s: Annotated[float, Meta(ge=0.2, le=3600.0)] = 60.0
    log_bytes_per_s: Annotated[int, Meta(ge=256, le=1024 * 1024)] = 16 * 1024
    beat_timeout_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 30.0

    def shape(self) -> Shape:
        """Of a machine that names nothing."""
        return Shape(cpu=self.cpu, vcpu=max(1, -int(-self.cpu // 1)), mem_mib=self.memory_mib)


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[[programs]]``: what may be run without an image; callers name it, never write it.

    Attributes:
        name: as callers say it.
        argv: program and arguments, seen from inside; ``{control}`` and ``{link}`` stand for the
            addresses of the control channel and of the link.
        read_only: host paths that it needs, seen read-only at the same place.
        environment: for it; never a secret.
    """

    name: str
    argv: Annotated[tuple[str, ...], Meta(min_length=1)]
    read_only: tuple[str, ...] = ()
    environment: dict[str, str] = {}


class ImageEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[[images]]``: a folder that ``make vm-image`` filled."""

    name: str
    directory: str


class FirecrackerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[firecracker]``; the names of earlier systems.

    Attributes:
        enabled: use it; a host that cannot then refuses to start unless ``[vm] driver = "auto"``.
        socket_path: of the API; ``{id}`` in it is the machine, else one is derived per machine.
        vm_id_prefix: beginning of every ``vmId``, for all drivers.
    """

    enabled: bool = False
    socket_path: str = "/var/run/firecracker.sock"
    vm_id_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,31}$")] = "mcp-agent"


class QemuSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[qemu]``. ``accel``: ``auto``, ``kvm`` or ``tcg``; ``binary`` "" = on the path."""

    enabled: bool = True
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    binary: str = ""


class SandboxSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[sandbox]``."""

    enabled: bool = True


class ProcessSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[process]``: no isolation at all; ``allow_unsafe`` must say so too."""

    enabled: bool = False
    allow_unsafe: bool = False


class QuotaSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[quota]``: what a tenant may have; ``tenants`` are exceptions by name."""

    default: QuotaLimits = QuotaLimits()
    tenants: dict[str, QuotaLimits] = {}

    def of(self, tenant: str) -> QuotaLimits:
        """The limits of one tenant."""
        return self.tenants.get(tenant, self.default)


class VmSpawnerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    vm: VmSection = VmSection()
    quota: QuotaSection = QuotaSection()
    firecracker: FirecrackerSection = FirecrackerSection()
    qemu: QemuSection = QemuSection()
    sandbox: SandboxSection = SandboxSection()
    process: ProcessSection = ProcessSection()
    programs: tuple[Program, ...] = ()
    images: tuple[ImageEntry, ...] = ()
