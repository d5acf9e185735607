"""``mesh_grants``: delegated grants. Read where they are asked for, no copy is kept."""

import math

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import GrantRecord
from mesh_chassis.bucket import KV, START_S, Conflict
from mesh_chassis.bus.connection import Bus

__all__ = ["GrantStore"]

_RECORD = msgspec.json.Decoder(GrantRecord)


class GrantStore:
    """Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    @classmethod
    async def open(cls, bus: Bus) -> "GrantStore":
        """Wait until the registry has made the bucket.

        Raises:
            MeshError: it is not there after 30 s.
        """
        return cls(await KV.open(bus, buckets.GRANTS, timeout_s=START_S))

    async def create(self, record: GrantRecord, now_ms: int) -> bool:
        """Write a new grant, which the broker forgets at its end; False when the id is taken.

        Raises:
            MeshError: ``overloaded`` when there are too many, or no receipt.
        """
        ttl_s = max(1, math.ceil((record.expires_ms - now_ms) / 1000))
        try:
            await self._kv.create(_key(record.id), msgspec.json.encode(record), ttl_s=ttl_s)
        except Conflict:
            return False
        return True

    async def find(self, grant_id: str) -> GrantRecord | None:
        """A grant; None when it has ended or never was.

        Raises:
            MeshError: ``bus``, ``deadline``.
        """
        key = _key(grant_id)
        # A replica of the broker that has not heard of a new grant yet must not end it.
        entry = await self._kv.get(key) or await self._kv.latest(key)
        if entry is None:
            return None
        record = _RECORD.decode(entry.value)
        return record if record.id == grant_id else None

    async def delete(self, grant_id: str) -> None:
        """End a grant; one that has ended stays as it is."""
        await self._kv.delete(_key(grant_id))


def _key(grant_id: str) -> str:
    return buckets.key(grant_id)
