"""``mesh_config``: tenants, principals, API keys and cuts.

Reads are plain memory, fed by a watch, so a check of a credential waits for nobody. Writes are
compare-and-set, and return only when the own copy shows them: who creates a key through this
process can use it here at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import Cut, KeyRecord, Principal, Tenant
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, START_S, Conflict
from mesh_chassis.bucket_change import change_entry
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus

__all__ = ["CUT_KEEP_S", "AccountStore"]

CUT_KEEP_S = 600
"""A cut stays this long: twenty lifetimes of a cached identity, and any outage a gateway may
bridge from its cache (30 s) is over by then."""

_LOOKUPS_MAX = 16

Record = Tenant | Principal | KeyRecord
T = TypeVar("T", Tenant, Principal, KeyRecord)

_TYPES: dict[str, type[Record]] = {"tenant": Tenant, "principal": Principal, "key": KeyRecord}


class AccountStore:
    """Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._view: BucketView[Record] = BucketView(kv, _read, on_change=self._changed)
        self.lost = asyncio.Event()
        """Set when a record vanished: none is ever deleted, so the broker lost its disk."""
        self._lookups = asyncio.Semaphore(_LOOKUPS_MAX)

    @classmethod
    async def open(cls, bus: Bus) -> "AccountStore":
        """Load the bucket, once the registry has made it.

        Raises:
            MeshError: it is not there after 30 s, or cannot be read.
        """
        store = cls(await KV.open(bus, buckets.CONFIG, timeout_s=START_S))
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

    def tenant(self, tenant: str) -> Tenant | None:
        """One tenant."""
        return self._one(Tenant, "tenant", tenant)

    def principal(self, tenant: str, principal: str) -> Principal | None:
        """One principal."""
        return self._one(Principal, "principal", tenant, principal)

    def key(self, key_id: str) -> KeyRecord | None:
        """One API key."""
        return self._one(KeyRecord, "key", key_id)

    def tenants(self) -> list[Tenant]:
        """All tenants."""
        return [one for one in self._view.values() if isinstance(one, Tenant)]

    def principals(self) -> list[Principal]:
        """All principals."""
        return [one for one in self._view.values() if isinstance(one, Principal)]

    def key_records(self) -> list[KeyRecord]:
        """All keys, revoked ones too."""
        return [one for one in self._view.values() if isinstance(one, KeyRecord)]

    async def find_key(self, key_id: str) -> KeyRecord | None:
        """A key, asking the broker when the copy does not have it.

        Another replica may have made it a moment ago. Under a flood of invented ids the copy
        alone decides.
        """
        known = self.key(key_id)
        if known is not None or self._lookups.locked():
            return known
        async with self._lookups:
            entry = await self._kv.get(buckets.key("key", key_id))
        return msgspec.json.decode(entry.value, type=KeyRecord) if entry is not None else None

    async def put_tenant(self, tenant: str, change: Callable[[Tenant | None], Tenant]) -> Tenant:
        """Change a tenant; ``change`` gets the newest record and may refuse by raising."""
        return await self._change(Tenant, ("tenant", tenant), change)

    async def put_principal(self, principal: Principal) -> None:
        """Write a principal."""
        names = ("principal", principal.tenant, principal.id)
        await self._change(Principal, names, lambda _: principal)

    async def ensure_principal(self, principal: Principal) -> None:
        """Write a principal unless there is one; a disabled one stays disabled."""
        names = ("principal", principal.tenant, principal.id)
        await self._change(Principal, names, lambda old: old or principal)

    async def create_key(self, record: KeyRecord) -> bool:
        """Write a new key; False when the id is taken."""
        try:
            revision = await self._kv.create(
                buckets.key("key", record.id), msgspec.json.encode(record)
            )
        except Conflict:
            return False
        await self._view.seen(revision)
        return True

    async def revoke_key(self, key_id: str, now_ms: int) -> KeyRecord:
        """Mark a key revoked; repeating it changes nothing.

        Raises:
            MeshError: ``not_found``.
        """

        def change(old: KeyRecord | None) -> KeyRecord:
            if old is None:
                raise MeshError(ErrorKind.NOT_FOUND, f"no key {key_id}")
            return old if old.revoked_ms else msgspec.structs.replace(old, revoked_ms=now_ms)

        return await self._change(KeyRecord, ("key", key_id), change)

    async def cut_login(self, login_id: str, now_ms: int) -> None:
        """Tell gateways that a login has ended."""
        cut = Cut(credential_id=f"login:{login_id}", at_ms=now_ms)
        await self._kv.put(
            buckets.key("cut", "login", login_id), msgspec.json.encode(cut), ttl_s=CUT_KEEP_S
        )

    async def cut_grants(self, grants: Sequence[str], now_ms: int) -> None:
        """Tell gateways that delegated grants have ended; the key names them all."""
        cut = Cut(credential_id=f"grant:{grants[0]}", at_ms=now_ms)
        await self._kv.put(
            buckets.key("cut", "grant", *grants), msgspec.json.encode(cut), ttl_s=CUT_KEEP_S
        )

    def _changed(self, _key: str, record: Record | None) -> None:
        if record is None:
            self.lost.set()

    def _one(self, kind: type[T], *names: str) -> T | None:
        record = self._view.get(buckets.key(*names))
        return record if isinstance(record, kind) else None

    async def _change(
        self, kind: type[T], names: tuple[str, ...], change: Callable[[T | None], T]
    ) -> T:
        made: list[T] = []

        def make(stored: bytes | None) -> bytes | None:
            old = msgspec.json.decode(stored, type=kind) if stored is not None else None
            new = change(old)
            made[:] = [new]
            return stored if new == old else msgspec.json.encode(new)

        revision = await change_entry(self._kv, buckets.key(*names), make, what="the record")
        if revision:
            await self._view.seen(revision)
        return made[0]


def _read(key: str, value: bytes) -> Record | None:
    kind = _TYPES.get(key.partition(".")[0])
    if kind is None:
        return None
    record = msgspec.json.decode(value, type=kind)
    # A record under a foreign key would give its rights to somebody else's name.
    if _key_of(record) != key:
        raise ValueError("the record names another key")
    return record


def _key_of(record: Record) -> str:
    match record:
        case Tenant():
            return buckets.key("tenant", record.id)
        case Principal():
            return buckets.key("principal", record.tenant, record.id)
        case KeyRecord():
            return buckets.key("key", record.id)
