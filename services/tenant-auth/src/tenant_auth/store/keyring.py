"""``mesh_keys``: the signing keys of ``Mesh-Ctx``, private halves sealed."""

import asyncio
import os

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import SealedKey
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import open_key, seal_key

__all__ = ["KeyRingStore"]

_SIGN = "sign"
_SEED_BYTES = 32
_RECORD = msgspec.json.Decoder(SealedKey)


class KeyRingStore:
    """Make it with ``open``."""

    def __init__(self, kv: KV, kek: bytes) -> None:
        self._kv = kv
        self._kek = kek
        self._view: BucketView[SealedKey] = BucketView(kv, _read, on_change=self._changed)
        self.lost = asyncio.Event()
        """Set when a key vanished, dropped by a plan or lost with the broker's disk."""

    @classmethod
    async def open(cls, bus: Bus, kek: bytes) -> "KeyRingStore":
        """Ensure the bucket and load it.

        Raises:
            MeshError: the broker refuses or does not answer.
        """
        store = cls(await KV.ensure(bus, buckets.KEYS), kek)
        await store._view.start()
        return store

    async def close(self) -> None:
        """Stop watching."""
        await self._view.stop()

    @property
    def fresh(self) -> bool:
        """Whether the copy is proven current."""
        return self._view.fresh

    def ring(self) -> list[SealedKey]:
        """All keys."""
        return self._view.values()

    def unusable(self) -> set[str]:
        """Kids of keys that our KEK does not open."""
        return {key.kid for key in self.ring() if not self._opens(key)}

    async def make(self, kid: str, *, now_ms: int, use_from_ms: int) -> bool:
        """Make a key; False when another replica has made it."""
        seed = os.urandom(_SEED_BYTES)
        record = SealedKey(
            kid=kid,
            public=Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw(),
            sealed=seal_key(self._kek, kid, seed),
            created_ms=now_ms,
            use_from_ms=use_from_ms,
        )
        try:
            revision = await self._kv.create(_key(kid), msgspec.json.encode(record))
        except Conflict as conflict:
            await self._view.seen(conflict.revision)
            return False
        await self._view.seen(revision)
        return True

    async def drop(self, kid: str) -> None:
        """Remove a key and its history."""
        await self._kv.purge(_key(kid))

    def _changed(self, _key: str, record: SealedKey | None) -> None:
        if record is None:
            self.lost.set()

    def _opens(self, key: SealedKey) -> bool:
        try:
            open_key(self._kek, key)
        except MeshError:
            return False
        return True


def _key(kid: str) -> str:
    return buckets.key(_SIGN, kid)


def _read(key: str, value: bytes) -> SealedKey | None:
    if not key.startswith(f"{_SIGN}."):
        return None
    record = _RECORD.decode(value)
    if _key(record.kid) != key:
        raise ValueError("the record names another key")
    return record
