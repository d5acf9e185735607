"""Shares of tenants in ``mesh_vm_quota``: read from the leader, written by compare-and-set."""

from collections.abc import Callable, Mapping

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.vm_spawner import QuotaRecord, Shape
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from vm_spawner.core import quota
from vm_spawner.core.quota import QuotaLimits

__all__ = ["QuotaStore"]

TRIES_MAX = 32
"""Several spawners admit machines of one tenant at once; each round one of them wins."""
_decoder = msgspec.json.Decoder(QuotaRecord)
_encode = msgspec.json.Encoder().encode


class QuotaStore:
    """The bucket. Make it with ``open``.

    Args:
        kv: bucket ``mesh_vm_quota``.
        bus: its connection.
    """

    def __init__(self, kv: KV, bus: Bus) -> None:
        self._kv = kv
        self._bus = bus

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 30.0) -> "QuotaStore":
        """Find the bucket.

        Raises:
            MeshError: ``bus``: the registry has not made it in time.
        """
        return cls(await KV.open(bus, buckets.VM_QUOTA, timeout_s=timeout_s), bus)

    async def admit(self, tenant: str, vm_id: str, shape: Shape, limits: QuotaLimits) -> None:
        """Take a share.

        Raises:
            MeshError: a refusal that names the limit; or the bucket cannot be written.
        """
        now = self._bus.server_now_ms()
        await self._change(tenant, lambda held: quota.admit(held, vm_id, shape, limits, now))

    async def release(self, tenant: str, vm_id: str) -> None:
        """Give a share back, once however often.

        Raises:
            MeshError: the bucket cannot be written.
        """
        await self._change(tenant, lambda held: quota.release(held, vm_id))

    async def recount(self, tenant: str, living: Mapping[str, Shape]) -> bool:
        """Mend what crashes left; True = there was something.

        Raises:
            MeshError: the bucket cannot be written.
        """
        now = self._bus.server_now_ms()
        return await self._change(tenant, lambda held: quota.recount(held, living, now))

    async def held(self, tenant: str) -> QuotaRecord:
        """The shares of a tenant.

        Raises:
            MeshError: no answer from the broker.
        """
        return (await self._read(tenant))[0]

    async def tenants(self) -> list[str]:
        """Tenants that have, or had, a share.

        Raises:
            MeshError: the keys did not arrive.
        """
        return await self._kv.keys()

    async def _read(self, tenant: str) -> tuple[QuotaRecord, int]:
        entry = await self._kv.latest(buckets.key(tenant))
        if entry is None:
            return QuotaRecord(), 0
        try:
            return _decoder.decode(entry.value), entry.revision
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Recounted from the records within a minute; refusing everybody would be worse.
            return QuotaRecord(), entry.revision

    async def _change(self, tenant: str, make: Callable[[QuotaRecord], QuotaRecord]) -> bool:
        key = buckets.key(tenant)
        for _ in range(TRIES_MAX):
            held, revision = await self._read(tenant)
            changed = make(held)
            if changed == held:
                return False
            try:
                if revision:
                    await self._kv.update(key, _encode(changed), revision)
                else:
                    await self._kv.create(key, _encode(changed))
            except Conflict:
                continue
            return True
        raise MeshError(
            ErrorKind.OVERLOADED,
            "too many machines of this tenant begin at once",
            retry_after_s=0.5,
        )
