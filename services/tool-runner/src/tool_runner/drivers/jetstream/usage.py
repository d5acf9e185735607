"""How much a tenant has stored, against its quota: values, artifacts and stored results together.

The broker is asked, and what this process has written since is added. The fuller a tenant is, the
sooner it is asked again, so that far below the quota a write costs no request and close to it the
figures are exact. With several runners a quota may be overshot by what the others write in that
time. Stream limits of the broker would be exact, but they set the disk aside for every tenant in
advance and know of one stream only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.buckets import tenant_kv, tenant_objects
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import STREAM_NOT_FOUND, ApiError, api
from tool_runner.drivers.storage import full

__all__ = ["OVERHEAD_BYTES", "Quota", "Usage"]

Quota = Callable[[str], int]
"""Tenant → bytes it may store; -1 = no quota."""

OVERHEAD_BYTES = 256
"""What the broker counts of a stored message beside its body: subject, headers, its own record."""
AGE_S = 5.0
"""For how long a figure of the broker is used while nothing is stored."""
TENANTS_MAX = 10_000


class _State(msgspec.Struct, frozen=True):
    bytes: int = 0


class _Info(msgspec.Struct, frozen=True):
    state: _State


class _Known:
    __slots__ = ("at", "pending", "used", "written")

    def __init__(self) -> None:
        self.used = 0
        self.at = -AGE_S * 2
        self.written = 0
        self.pending = 0


class Usage:
    """Figures of all tenants over one connection.

    Args:
        bus: connected.
        quota: of each tenant.
    """

    def __init__(self, bus: Bus, quota: Quota) -> None:
        self._bus = bus
        self._quota = quota
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self.relief: Callable[[str], Awaitable[bool]] | None = None
        """Frees what is only waiting to be freed; whether there was anything."""

    def quota(self, tenant: str) -> int:
        """Bytes the tenant may store; -1 = no quota."""
        return self._quota(tenant)

    async def admit(self, tenant: str, size: int) -> None:
        """Set room for a write aside; ``done`` or ``undo`` it afterwards.

        Args:
            tenant: whose.
            size: bytes to write, ``OVERHEAD_BYTES`` for each message included.

        Raises:
            MeshError: ``overloaded`` as ``full`` makes it; the broker does not answer.
        """
        quota = self._quota(tenant)
        if quota < 0:
            return
        known = self._known.get(tenant)
        if known is None:
            known = self._known[tenant] = _Known()
            if len(self._known) > TENANTS_MAX:
                self._known.popitem(last=False)
        wanted = known.used + known.written + known.pending + size
        fresh_s = AGE_S * (1 - wanted / quota) if quota else 0.0
        if self._loop.time() - known.at > fresh_s:
            await self._look(tenant, known)
            wanted = known.used + known.written + known.pending + size
            if wanted > quota and self.relief is not None and await self.relief(tenant):
                await self._look(tenant, known)
                wanted = known.used + known.written + known.pending + size
        if wanted > quota:
            raise full(min(wanted - size, quota), quota, size)
        known.pending += size

    def done(self, tenant: str, size: int) -> None:
        """What was admitted has been written, or may have been."""
        known = self._known.get(tenant)
        if known is not None:
            known.pending = max(0, known.pending - size)
            known.written += size

    def undo(self, tenant: str, size: int) -> None:
        """What was admitted was not written."""
        known = self._known.get(tenant)
        if known is not None:
            known.pending = max(0, known.pending - size)

    async def _look(self, tenant: str, known: _Known) -> None:
        at, written = self._loop.time(), known.written
        try:
            streams = (tenant_kv(tenant).stream, f"OBJ_{tenant_objects(tenant)}")
        except ValueError:
            raise MeshError(ErrorKind.PARAMS, "this tenant has no storage") from None
        sizes = await asyncio.gather(*(self._bytes_of(stream) for stream in streams))
        known.used, known.at = sum(sizes), at
        # What was written while the broker counted may be counted twice, until the next look.
        known.written = max(0, known.written - written)

    async def _bytes_of(self, stream: str) -> int:
        try:
            return (await api(self._bus, f"STREAM.INFO.{stream}", b"", _Info)).state.bytes
        except ApiError as error:
            if error.failure.err_code == STREAM_NOT_FOUND:
                return 0
            raise MeshError(
                ErrorKind.INTERNAL, "the store cannot be read", internal=str(error)
            ) from error
