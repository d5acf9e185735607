"""What a spawn needs of others, so that each part can be tried alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from mesh_chassis.bus.connection import Bus
from mesh_chassis.tasks import Tasks
from vm_spawner.config import VmSpawnerConfig
from vm_spawner.drivers.machine import Image, MachineDriver, Report
from vm_spawner.network.identity import Identity
from vm_spawner.spawn.directories import Directories
from vm_spawner.spawn.points import Point
from vm_spawner.store.machines import MachineStore
from vm_spawner.store.quotas import QuotaStore

__all__ = ["Images", "LinkOpener", "OpenLink", "Parts"]


class OpenLink(Protocol):
    """A socket on which a machine reaches the broker, as itself."""

    @property
    def connected_at(self) -> float | None:
        """When the machine was first let through to the broker, monotonic; None = not yet."""
        ...

    async def close(self) -> None:
        """Hang up, stop listening, and let the credential end."""
        ...


class LinkOpener(Protocol):
    """Makes links (``network``)."""

    async def open(self, path: str, identity: Identity, *, mux: bool) -> OpenLink:
        """Listen on a Unix socket for one machine.

        Args:
            path: of the socket.
            identity: who the machine is.
            mux: its streams come as frames over one port.

        Raises:
            OSError: the socket cannot be made.
            MeshError: tenant-auth gives no credential.
        """
        ...

    async def forget(self, vm_id: str) -> None:
        """End what a dead spawner may have been given for this machine. Idempotent.

        Raises:
            MeshError: tenant-auth does not answer.
        """
        ...


class Images(Protocol):
    """The images of this host (``images``)."""

    def find(self, name: str) -> Image | None:
        """By name or digest; None = there is no such image."""
        ...


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that machines of this host stand on.

    Attributes:
        bus: connected.
        tasks: parent of the machines' tasks.
        config: of the spawner.
        store: records.
        quotas: shares.
        directories: of this host.
        drivers: that are enabled, by name.
        reports: what each driver of this host said when it was tried.
        links: to the broker.
        images: of this host.
        point: where this process may die.
        now_ms: the broker's clock.
        clock: seconds, monotonic.
        count: adds one to a metric, by name and labels.
    """

    bus: Bus
    tasks: Tasks
    config: VmSpawnerConfig
    store: MachineStore
    quotas: QuotaStore
    directories: Directories
    drivers: Mapping[str, MachineDriver]
    reports: Mapping[str, Report]
    links: LinkOpener
    images: Images
    point: Point
    now_ms: Callable[[], int]
    clock: Callable[[], float]
    count: Callable[..., None]

    @property
    def root(self) -> Path:
        """Where machines have their directories."""
        return self.directories.root
