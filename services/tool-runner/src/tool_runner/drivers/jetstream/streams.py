"""The streams of tenants: had made on first use, remembered, made again when a broker lost them.

The one place in this service that asks the registry for them.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from mcp_proto.contracts.provision import Kind
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis import provision
from mesh_chassis.bus.connection import Bus

__all__ = ["StreamSettings", "TenantStreams"]

T = TypeVar("T")

TENANTS_MAX = 10_000
"""Tenants whose streams are remembered as made; forgetting one costs a look on its next use."""


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides about them.

    Attributes:
        replicas: copies on a cluster; ``kv_replicas`` those of the values.
        kv_bytes: bound of each bucket of values, enforced by the broker; -1 = the quota alone.
        events_bytes: bound of each stream of events; the oldest go.
        events_age_s: how long events are kept.
    """

    replicas: int = 1
    kv_replicas: int = 1
    kv_bytes: int = -1
    events_bytes: int = 16 * 1024 * 1024
    events_age_s: float = 7 * 86_400.0


class TenantStreams:
    """Streams of all tenants over one connection."""

    def __init__(self, bus: Bus, settings: StreamSettings) -> None:
        self._bus = bus
        self._settings = settings
        self._made: OrderedDict[tuple[Kind, str], None] = OrderedDict()

    def known(self, kind: Kind) -> list[str]:
        """Tenants whose stream of this kind was used here."""
        return [tenant for one, tenant in self._made if one == kind]

    async def ready(self, kind: Kind, tenant: str) -> None:
        """Make it unless it was made.

        Raises:
            MeshError: ``params`` for a tenant that has none; the broker does not answer.
        """
        if (kind, tenant) not in self._made:
            await self._make(kind, tenant)

    async def within(self, kind: Kind, tenant: str, use: Callable[[], Awaitable[T]]) -> T:
        """Do something with a stream that has to be there.

        Raises:
            MeshError: ``params`` for a tenant that has none; what ``use`` says.
        """
        pair = (kind, tenant)
        if pair in self._made:
            try:
                return await use()
            except MeshError as error:
                if error.kind is not ErrorKind.NO_RUNNER:
                    raise
                # No responders: the stream is gone (a new broker), so make it and try again.
                self._made.pop(pair, None)
        await self._make(kind, tenant)
        return await use()

    async def _make(self, kind: Kind, tenant: str) -> None:
        settings = self._settings
        # Without a size for objects: the quota is kept here, and a size would set disk aside.
        size, replicas, age_s = -1, settings.replicas, 0.0
        if kind == "kv":
            size, replicas = settings.kv_bytes, settings.kv_replicas
        elif kind == "events":
            size, age_s = settings.events_bytes, settings.events_age_s
        await provision.ensure(
            self._bus, kind, tenant, bytes_max=size, replicas=replicas, age_s=age_s
        )
        self._made[kind, tenant] = None
        if len(self._made) > TENANTS_MAX:
            self._made.popitem(last=False)
