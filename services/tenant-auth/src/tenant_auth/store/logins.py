"""``mesh_logins``: sessions of principals; checked in memory, kept where all replicas see them."""

import asyncio
from collections import Counter

import msgspec

from mcp_proto import buckets
from mesh_chassis.bucket import KV, START_S, Conflict
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus
from tenant_auth.core.sessions import LoginRecord, needs_touch, touched, ttl_s

__all__ = ["LoginStore"]

_LOOKUPS_MAX = 16
_RECORD = msgspec.json.Decoder(LoginRecord)


class LoginStore:
    """Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._view: BucketView[LoginRecord] = BucketView(kv, _read, on_change=self._changed)
        self._owners: dict[str, tuple[str, str]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._touching: set[str] = set()
        self._lookups = asyncio.Semaphore(_LOOKUPS_MAX)

    @classmethod
    async def open(cls, bus: Bus) -> "LoginStore":
        """Load the bucket, once the registry has made it.

        Raises:
            MeshError: it is not there after 30 s, or cannot be read.
        """
        store = cls(await KV.open(bus, buckets.LOGINS, timeout_s=START_S))
        await store._view.start()
        return store

    async def close(self) -> None:
        """Stop watching."""
        await self._view.stop()

    @property
    def fresh(self) -> bool:
        """Whether the copy is proven current."""
        return self._view.fresh

    @property
    def age_s(self) -> float:
        """Seconds since the last proof."""
        return self._view.age_s

    def __len__(self) -> int:
        return len(self._view)

    def count(self, tenant: str, principal: str) -> int:
        """Open logins of a principal."""
        return self._counts[tenant, principal]

    def of_key(self, key_id: str) -> list[LoginRecord]:
        """Logins that were opened with an API key."""
        return [one for one in self._view.values() if one.key_id == key_id]

    async def find(self, login_id: str) -> LoginRecord | None:
        """A login, asking the broker when the copy does not have it, as ``find_key`` does."""
        known = self._view.get(_key(login_id))
        if known is not None or self._lookups.locked():
            return known
        async with self._lookups:
            entry = await self._kv.get(_key(login_id))
        return _RECORD.decode(entry.value) if entry is not None else None

    async def create(self, record: LoginRecord) -> bool:
        """Write a new login; False when the id is taken."""
        try:
            revision = await self._kv.create(
                _key(record.id), msgspec.json.encode(record), ttl_s=ttl_s(record)
            )
        except Conflict:
            return False
        await self._view.seen(revision)
        return True

    async def touch(self, login_id: str, now_ms: int) -> None:
        """Write the last use, if it is time; never brings a login back that has ended."""
        if login_id in self._touching:
            return
        self._touching.add(login_id)
        try:
            entry = await self._kv.get(_key(login_id))
            if entry is None:
                return
            record = _RECORD.decode(entry.value)
            if needs_touch(record, now_ms):
                used = touched(record, now_ms)
                value = msgspec.json.encode(used)
                await self._kv.update(entry.key, value, entry.revision, ttl_s=ttl_s(used))
        except Conflict:
            return  # another replica wrote it, or it has just ended
        finally:
            self._touching.discard(login_id)

    async def delete(self, login_id: str) -> None:
        """End a login."""
        await self._kv.delete(_key(login_id))

    def _changed(self, key: str, record: LoginRecord | None) -> None:
        owner = self._owners.pop(key, None)
        if owner is not None:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]
        if record is not None:
            owner = (record.tenant, record.principal)
            self._owners[key] = owner
            self._counts[owner] += 1


def _key(login_id: str) -> str:
    return buckets.key("login", login_id)


def _read(key: str, value: bytes) -> LoginRecord:
    record = _RECORD.decode(value)
    if _key(record.id) != key:
        raise ValueError("the record names another key")
    return record
