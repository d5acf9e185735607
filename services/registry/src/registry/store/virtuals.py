"""``mesh_virtuals``: virtual servers, those added at run time and those of the registry's file.

Gateways watch this bucket and show them; the registry only writes it, by compare-and-set.
"""

from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.virtuals import VirtualRecord
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bucket_change import change_entry
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus

__all__ = ["VIRTUALS_MAX", "VirtualStore"]

VIRTUALS_MAX = 1_000
"""Virtual servers of all tenants together: every gateway holds all of them."""

_RECORD = msgspec.json.Decoder(VirtualRecord)

Change = Callable[[VirtualRecord | None], VirtualRecord | None]
"""What is stored → what shall be; raises ``MeshError`` to refuse; the same object = no write."""


class VirtualStore:
    """Virtual servers. Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._view: BucketView[VirtualRecord] = BucketView(kv, lambda _, raw: _RECORD.decode(raw))

    @classmethod
    async def open(cls, bus: Bus) -> "VirtualStore":
        """Load the bucket.

        Raises:
            MeshError: the bucket is not there, or cannot be read.
        """
        store = cls(await KV.open(bus, buckets.VIRTUALS))
        await store._view.start()
        return store

    async def close(self) -> None:
        """Stop watching."""
        await self._view.stop()

    @property
    def fresh(self) -> bool:
        """Whether the copy is proven to be current."""
        return self._view.fresh

    def all(self) -> list[VirtualRecord]:
        """Every record, by tenant and name."""
        return sorted(
            self._view.values(), key=lambda one: (one.definition.tenant, one.definition.name)
        )

    async def change(self, tenant: str, name: str, change: Change) -> None:
        """Write what ``change`` makes of the stored record; None = remove it.

        Raises:
            MeshError: of ``change``; ``overloaded`` when others change it all the time or there
                are too many.
        """

        def make(stored: bytes | None) -> bytes | None:
            old = _read(stored) if stored is not None else None
            new = change(old)
            if new is old:
                return stored
            if old is None and len(self._view.values()) >= VIRTUALS_MAX:
                raise MeshError(
                    ErrorKind.OVERLOADED, f"at most {VIRTUALS_MAX} virtual servers can be defined"
                )
            return None if new is None else msgspec.json.encode(new)

        key = buckets.key(tenant, name)
        revision = await change_entry(self._kv, key, make, what=f"virtual server {name}")
        if revision:
            # Who lists right after a change sees it.
            await self._view.seen(revision)


def _read(value: bytes) -> VirtualRecord | None:
    """A record; one that cannot be read may be replaced like none."""
    try:
        return _RECORD.decode(value)
    except msgspec.DecodeError:
        return None
