"""``mesh_keys``: signing keys of ``Mesh-Ctx`` and sealing keys of gateways, secrets sealed."""

import asyncio
import os
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import SealedKey, SealingKey
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV, START_S, Conflict
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import open_key, seal_key
from mesh_chassis.sealing import new_sealing_key, open_sealing_key

__all__ = ["SEALING", "SIGNING", "KeyKind", "KeyRingStore"]

_SEED_BYTES = 32

K = TypeVar("K", SealedKey, SealingKey)


class KeyKind(msgspec.Struct, Generic[K], frozen=True):
    """One kind of key.

    Attributes:
        prefix: first token of its keys in the bucket.
        record: type of the values.
        made: (KEK, kid, now, time of first use; Unix ms) → a new key.
        check: opens a key with the KEK; raises ``MeshError`` when it cannot.
    """

    prefix: str
    record: type[K]
    made: Callable[[bytes, str, int, int], K]
    check: Callable[[bytes, K], object]


class KeyRingStore(Generic[K]):
    """The keys of one kind. Make it with ``open``."""

    def __init__(self, kv: KV, kek: bytes, kind: KeyKind[K]) -> None:
        self._kv = kv
        self._kek = kek
        self._kind = kind
        self._decoder: msgspec.json.Decoder[K] = msgspec.json.Decoder(kind.record)
        self._view: BucketView[K] = BucketView(
            kv, self._read, on_change=self._changed, key_filter=f"{kind.prefix}.>"
        )
        self.lost = asyncio.Event()
        """Set when a key vanished, dropped by a plan or lost with the broker's disk."""

    @classmethod
    async def open(cls, bus: Bus, kek: bytes, kind: KeyKind[K]) -> "KeyRingStore[K]":
        """Load the bucket, once the registry has made it.

        Raises:
            MeshError: it is not there after 30 s, or cannot be read.
        """
        store = cls(await KV.open(bus, buckets.KEYS, timeout_s=START_S), kek, kind)
        await store._view.start()
        return store

    async def close(self) -> None:
        """Stop watching."""
        await self._view.stop()

    @property
    def prefix(self) -> str:
        """Kind of the keys, for people: ``sign`` or ``seal``."""
        return self._kind.prefix

    @property
    def fresh(self) -> bool:
        """Whether the copy is proven current."""
        return self._view.fresh

    def ring(self) -> list[K]:
        """All keys."""
        return self._view.values()

    def unusable(self) -> set[str]:
        """Kids of keys that our KEK does not open."""
        return {key.kid for key in self.ring() if not self._opens(key)}

    async def make(self, kid: str, *, now_ms: int, use_from_ms: int) -> bool:
        """Make a key; False when another replica has made it."""
        record = self._kind.made(self._kek, kid, now_ms, use_from_ms)
        try:
            revision = await self._kv.create(self._key(kid), msgspec.json.encode(record))
        except Conflict as conflict:
            await self._view.seen(conflict.revision)
            return False
        await self._view.seen(revision)
        return True

    async def drop(self, kid: str) -> None:
        """Remove a key and its history."""
        await self._kv.purge(self._key(kid))

    def _changed(self, _key: str, record: K | None) -> None:
        if record is None:
            self.lost.set()

    def _opens(self, key: K) -> bool:
        try:
            self._kind.check(self._kek, key)
        except MeshError:
            return False
        return True

    def _key(self, kid: str) -> str:
        return buckets.key(self._kind.prefix, kid)

    def _read(self, key: str, value: bytes) -> K | None:
        record = self._decoder.decode(value)
        if self._key(record.kid) != key:
            raise ValueError("the record names another key")
        return record


def _new_signing_key(kek: bytes, kid: str, now_ms: int, use_from_ms: int) -> SealedKey:
    seed = os.urandom(_SEED_BYTES)
    return SealedKey(
        kid=kid,
        public=Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw(),
        sealed=seal_key(kek, kid, seed),
        created_ms=now_ms,
        use_from_ms=use_from_ms,
    )


def _new_sealing_key(kek: bytes, kid: str, now_ms: int, use_from_ms: int) -> SealingKey:
    return new_sealing_key(kek, kid, created_ms=now_ms, use_from_ms=use_from_ms)


SIGNING = KeyKind("sign", SealedKey, _new_signing_key, open_key)
SEALING = KeyKind("seal", SealingKey, _new_sealing_key, open_sealing_key)
