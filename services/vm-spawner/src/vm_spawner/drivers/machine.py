"""What every way to run a machine can do: one Protocol, so one saga and one contract test.

A driver knows how to make a machine and how to find and remove one; it knows nothing of tenants,
records, quotas or the bus. What it hands out (``Handle``) can be written to disk, so that a
spawner that starts later can destroy what an earlier one made.

Sockets belong to the spawner: it listens on the three of ``Link`` before ``create``, and the
driver leads the machine's byte streams to them. The path is the machine's identity.
"""

from typing import Literal, Protocol

import msgspec

from mcp_proto.contracts.vm_spawner import Isolation, Shape

__all__ = [
    "Feature",
    "Handle",
    "Image",
    "Link",
    "MachineDriver",
    "MachineSpec",
    "Orphan",
    "Report",
    "SnapRef",
    "Usage",
]

Feature = Literal["pause", "snapshot"]
"""What not every driver can; the method of a missing one raises ``MeshError`` ``capability``."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image as it lies on this host (``make vm-image``).

    Attributes:
        digest: ``sha256:`` and 64 hex digits: the identity.
        directory: folder with ``image.json``, kernel, initrd and the plain root directory.
        memory_min_mib: least memory of a machine made of it.
    """

    digest: str
    directory: str
    memory_min_mib: int = 0


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that shall be.

    Attributes:
        vm_id: letters, digits and hyphens, at most 64; unique for ever.
        tenant: whose, for labels; it decides nothing here.
        shape: limits; the driver adds its own overhead to the memory of the cgroup.
        image: what to boot; None = the host's own programs (``sandbox`` and ``process`` only).
        program: argument vector inside; () = what the image starts.
        environment: for the program; never a secret, for every process inside can read it.
        read_only: host paths that the program needs, seen read-only (``sandbox`` only).
        parked: it says hello and waits for ``go`` as a member of a pool.
    """

    vm_id: str
    tenant: str
    shape: Shape
    image: Image | None = None
    program: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    read_only: tuple[str, ...] = ()
    parked: bool = False


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The sockets of one machine: Unix stream sockets on which the spawner listens.

    Attributes:
        directory: 0700, of this machine alone; holds the sockets and whatever the driver adds.
        socket: the byte stream to the broker, by way of the link proxy.
        control: the ``go`` handshake, one JSON object per line.
        console: whatever the machine prints; the spawner reads it, limits its rate and keeps the
            last of it. Nobody reads an answer there.
    """

    directory: str
    socket: str
    control: str
    console: str


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was made; enough to find and remove it from another process.

    Attributes:
        driver: its name.
        vm_id: of the spec.
        directory: everything the driver wrote is below it, or named here.
        pid: of the process that is the machine; 0 = not started, or it has none on this host.
        started: start time of that process (field 22 of /proc/PID/stat, clock ticks since boot),
            because process ids are used again; 0 with ``pid`` 0.
        cgroups: absolute paths.
        container: engine id; "" = none.
        limits: ``full``, ``partial(what, why)`` or ``none(why)``: what is enforced, as measured.
        extra: what only this driver needs.
    """

    driver: str
    vm_id: str
    directory: str
    pid: int = 0
    started: int = 0
    cgroups: tuple[str, ...] = ()
    container: str = ""
    limits: str = "full"
    extra: dict[str, str] = {}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine takes now, as the host measures it; None = this driver cannot tell.

    Attributes:
        running: its process exists.
        exit_status: how it ended, where that is known; negative = by that signal.
        cpu_s: CPU seconds so far.
        memory_bytes: now.
        pids: processes and threads inside.
        read_bytes: read from disks so far. ``written_bytes``: written to them.
    """

    running: bool
    exit_status: int | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a driver works on this host.

    Attributes:
        driver: its name.
        available: machines can be made.
        reason: one sentence for ``mesh doctor``: why not, or what was tried.
        isolation: class of what it makes here; never rounded up.
        features: beyond the ordinary.
        versions: of what it stands on, e.g. ``{"bubblewrap": "0.8.0"}``.
        limits: as in ``Handle.limits``: what it can enforce on this host.
        overhead_mib: what the monitor itself takes, added to the cgroup's memory.
        boot_s: deadline of a boot, from start to ready.
        mux: the streams on ``Link.socket`` come as frames over one port (``mesh_chassis.link``);
            else every connection to it is a stream.
    """

    driver: str
    available: bool
    reason: str
    isolation: Isolation
    features: tuple[Feature, ...] = ()
    versions: dict[str, str] = {}
    limits: str = "full"
    overhead_mib: int = 0
    boot_s: float = 20.0
    mux: bool = False


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """Something of this driver that is on the host: known to the spawner or not.

    Attributes:
        vm_id: whose it was.
        handle: for ``destroy``; what could be found out.
        running: a process of it exists.
    """

    vm_id: str
    handle: Handle
    running: bool


class SnapRef(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a parked machine, from which clones are made.

    Attributes:
        driver: its name.
        key: everything that must be the same on restore (image, shape, versions, CPU).
        directory: its files, 0400.
        digests: file name -> ``sha256:…``, checked at every restore.
    """

    driver: str
    key: str
    directory: str
    digests: dict[str, str]


class MachineDriver(Protocol):
    """One way to run machines.

    Every method has a deadline of its own and may be cancelled at any await; what it did until
    then is found by ``scan`` or named by a handle that was returned before. A failure is a
    ``MeshError`` with the step in ``data["phase"]`` (``image``, ``network``, ``boot``, ``hello``).
    """

    @property
    def name(self) -> str:
        """``firecracker``, ``qemu``, ``container``, ``sandbox`` or ``process``."""
        ...

    async def probe(self) -> Report:
        """Whether it works here, tried and not assumed. Never raises."""
        ...

    async def prepare(self, image: Image) -> None:
        """Check digests, unpack or link what machines of this image need. Idempotent.

        Raises:
            MeshError: ``params``: no such image, or a digest does not fit.
        """
        ...

    async def create(self, spec: MachineSpec, link: Link) -> Handle:
        """Files, sockets, cgroup; nothing runs yet. What fails half way is removed again.

        Raises:
            MeshError: ``upstream`` with phase ``boot``; ``params`` where the spec cannot be met.
        """
        ...

    async def start(self, handle: Handle) -> Handle:
        """Run it; returns once the process exists, with ``pid`` and ``started`` filled in.

        Raises:
            MeshError: ``upstream`` with phase ``boot``. The process is gone then.
        """
        ...

    async def pause(self, handle: Handle) -> None:
        """Nothing inside runs until ``resume``. Feature ``pause``."""
        ...

    async def resume(self, handle: Handle) -> None:
        """Undo ``pause``."""
        ...

    async def stop(self, handle: Handle, grace_s: float) -> None:
        """Ask it to end, wait ``grace_s`` at most, then ``kill``. Returns when it is gone."""
        ...

    async def kill(self, handle: Handle) -> None:
        """End it and everything it started, at once. Idempotent; returns when it is gone."""
        ...

    async def stat(self, handle: Handle) -> Usage:
        """What it takes now; ``running`` False for one that is gone, or was never there."""
        ...

    async def snapshot(self, handle: Handle) -> SnapRef:
        """Keep a parked machine for ``restore``; the machine is used up. Feature ``snapshot``."""
        ...

    async def restore(self, ref: SnapRef, spec: MachineSpec, link: Link) -> Handle:
        """A running clone, before its ``go``. Feature ``snapshot``.

        Raises:
            MeshError: ``params``: a digest does not fit; ``upstream`` with phase ``boot``.
        """
        ...

    async def scan(self) -> list[Orphan]:
        """Everything of this driver on this host below the spawner's state directory."""
        ...

    async def destroy(self, handle: Handle) -> None:
        """Kill it and remove every file, socket, cgroup and container of it. Idempotent.

        Raises:
            MeshError: ``upstream``: something could not be removed; ``data["left"]`` names it.
        """
        ...
