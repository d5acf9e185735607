"""Who drives which swarm, for liveness only: the fence of the log decides who may write.

So a lease may be taken away early from an owner that the broker knows no more: should it be alive
after all, its next append is refused.
"""

from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.buckets import swarm_lease_key
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from mesh_chassis.lease import Lease, LeaseRecord
from mesh_chassis.watch import Watch

__all__ = ["Leases"]

_FILTER = "swarm.>"
_record = msgspec.json.Decoder(LeaseRecord)


class Leases:
    """Leases of swarms, watched. Make it with ``open``.

    Args:
        kv: bucket ``mesh_lease``.
        instance: name of this replica, as holder.
        ttl_s: life of a lease without renewal.
    """

    def __init__(self, kv: KV, instance: str, ttl_s: float) -> None:
        self._kv = kv
        self._instance = instance
        self.ttl_s = ttl_s
        self._holders: dict[str, str] = {}
        self._watch: Watch | None = None
        self.on_free: Callable[[str], None] = lambda _key: None
        """Called with the key of a lease that was given back or is over."""
        self.on_moved: Callable[[str], None] = lambda _key: None
        """Called with the key of a lease that has another holder than was known."""

    @classmethod
    async def open(cls, bus: Bus, *, ttl_s: float, timeout_s: float = 30.0) -> "Leases":
        """Watch the leases; returns once those that exist are known.

        Raises:
            MeshError: ``bus``: the registry has not made the bucket in time.
        """
        kv = await KV.open(bus, buckets.LEASE, timeout_s=timeout_s)
        leases = cls(kv, bus.instance, ttl_s)
        leases._watch = await kv.watch(_FILTER, on_entry=leases._on_entry)
        try:
            await leases._watch.ready
        except BaseException:
            await leases.close()
            raise
        return leases

    @property
    def watch(self) -> Watch:
        """The watch, for health."""
        assert self._watch is not None
        return self._watch

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    def holder(self, tenant: str, swarm: str) -> str:
        """Instance that holds a lease as far as is known here; "" = nobody."""
        return self._holders.get(swarm_lease_key(tenant, swarm), "")

    def held_by(self, instance: str) -> list[str]:
        """Keys of the leases of one instance."""
        return [key for key, holder in self._holders.items() if holder == instance]

    def holders(self) -> set[str]:
        """All instances that hold a lease."""
        return set(self._holders.values())

    def contender(self, tenant: str, swarm: str) -> Lease:
        """A new contender for the lease of a swarm."""
        return Lease(self._kv, swarm_lease_key(tenant, swarm), self._instance, self.ttl_s)

    async def claim(self, lease: Lease, tenant: str, swarm: str, holder: str) -> bool:
        """Take a lease, also from a holder that was found gone; True when it is ours.

        Args:
            lease: contender.
            tenant: of the swarm.
            swarm: its id.
            holder: instance from which it may be taken; "" = from nobody.

        Raises:
            MeshError: the bucket does not answer.
        """
        if await lease.acquire():
            return True
        key = swarm_lease_key(tenant, swarm)
        entry = await self._kv.latest(key) if holder else None
        if entry is None:
            return False
        # What the watch told may be old: this process may have been frozen meanwhile.
        if _record.decode(entry.value).holder != holder:
            return False
        try:
            await self._kv.delete(key, revision=entry.revision)
        except Conflict:
            return False  # renewed, or claimed by another replica, this moment
        return await lease.acquire()

    def _on_entry(self, key: str, value: bytes | None, _revision: int) -> None:
        if value is None:
            if self._holders.pop(key, None) is not None:
                self.on_free(key)
            return
        try:
            holder = _record.decode(value).holder
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._holders.pop(key, None)
            return
        before = self._holders.get(key)
        self._holders[key] = holder
        if holder != before:
            self.on_moved(key)
