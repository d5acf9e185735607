"""``[vm]`` and its companions in ``mesh.toml``: machines for agents that nobody should trust."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mcp_proto.contracts.vm_spawner import Isolation

__all__ = ["ImageTable", "Machines", "ProcessTable", "ProgramTable", "QemuTable", "VmTable"]

Driver = Literal["auto", "firecracker", "qemu", "container", "sandbox", "process"]
_PREFIX = "mcp-agent"


class VmTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[vm]``: machines and sandboxes for agents.

    Attributes:
        enabled: run a spawner of machines.
        driver: the only driver to be used; ``auto`` = the cheapest that is good enough.
        min_isolation: class where a request names none.
        allow_emulated: an emulated machine passes for hardware. Development and CI only.
        image: name of the image (``[[images]]``) where a request names none; "" = none.
        program: name of the program (``[[programs]]``) likewise; ``agent`` is always there.
        cpu: cores of a machine that names none.
        memory_mib: memory of a machine that names none.
        ttl_seconds: longest life of a machine that names none; 0 = until it is stopped.
        boot_timeout_seconds: longest boot; 0 = what the driver says.
    """

    enabled: bool = False
    driver: Driver = "auto"
    min_isolation: Isolation = "sandbox"
    allow_emulated: bool = False
    image: str = ""
    program: str = ""
    cpu: Annotated[float, Meta(ge=0.05, le=256.0)] = 1.0
    memory_mib: Annotated[int, Meta(ge=16, le=4 * 1024 * 1024)] = 256
    ttl_seconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 0
    boot_timeout_seconds: Annotated[float, Meta(ge=0.0, le=600.0)] = 0.0


class QemuTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[qemu]``: micro-VMs by QEMU.

    Attributes:
        enabled: use it where it works.
        accel: ``kvm``, ``tcg`` (emulation), or ``auto``: hardware where it was seen to work.
        binary: "" = on the path.
    """

    enabled: bool = True
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    binary: str = ""


class ProcessTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[process]``: plain processes without any isolation, for development.

    Attributes:
        enabled: use it.
        allow_unsafe: must be true as well.
    """

    enabled: bool = False
    allow_unsafe: bool = False


class ProgramTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[programs]]``: what may be run in a sandbox without an image.

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


class ImageTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[images]]``: a folder that ``make vm-image`` filled. ``name``: as callers say it."""

    name: str
    directory: str


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """The tables together."""

    vm: VmTable
    qemu: QemuTable
    process: ProcessTable
    programs: tuple[ProgramTable, ...]
    images: tuple[ImageTable, ...]
    vm_id_prefix: str = ""

    def for_spawner(self, *, state_dir: str, allow_unsigned: bool) -> dict[str, Any]:
        """Tables of a spawner's file."""
        vm = msgspec.structs.asdict(self.vm)
        del vm["enabled"]
        vm["ttl_s"] = vm.pop("ttl_seconds")
        vm["boot_timeout_s"] = vm.pop("boot_timeout_seconds")
        made: dict[str, Any] = {
            "vm": {**vm, "state_dir": state_dir, "allow_unsigned": allow_unsigned},
            "qemu": msgspec.structs.asdict(self.qemu),
            "process": msgspec.structs.asdict(self.process),
            "firecracker": {"vm_id_prefix": self.vm_id_prefix or _PREFIX},
            "programs": [msgspec.structs.asdict(one) for one in self.programs],
            "images": [msgspec.structs.asdict(one) for one in self.images],
        }
        # JSON rather than built-ins: it leaves no tuple behind, at any depth.
        return msgspec.json.decode(msgspec.json.encode(made))
