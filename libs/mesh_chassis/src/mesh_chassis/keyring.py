"""The keys of the mesh as this process knows them, kept fresh by a watch.

Tenant-auth writes ``sign.{kid}`` and ``seal.{kid}`` in ``mesh_keys``; everyone else only watches.
Whoever checks accepts any key that is listed, whoever makes something takes the newest whose time
has come: so a rotation publishes the next key early and removes the old one late, and nobody is
refused.
"""

import logging
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import SealedKey, SealingKey
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.watch import Watch

__all__ = ["KEYS_MAX", "PREFIX", "SEAL_PREFIX", "KeyRing", "Ring", "SealRing"]

PREFIX = "sign."
"""First part of the keys of signing keys in ``mesh_keys``."""

SEAL_PREFIX = "seal."
"""The same of sealing keys."""

KEYS_MAX = 64
"""Keys of one kind known at once; a rotation needs two or three."""

_log = logging.getLogger(__name__)


class KeyRecord(Protocol):
    """What both kinds of stored keys have."""

    @property
    def kid(self) -> str:
        """Name of the key."""
        ...

    @property
    def use_from_ms(self) -> int:
        """When it comes into use, Unix ms."""
        ...


R = TypeVar("R", bound=KeyRecord)


class Ring(Generic[R]):
    """Known keys of one kind. Make it with ``open``; ``put`` and ``remove`` are for the watch.

    Args:
        prefix: first part of their keys in the bucket.
        kind: type of the records.
    """

    def __init__(self, prefix: str, kind: type[R]) -> None:
        self._prefix = prefix
        self._decoder: msgspec.json.Decoder[R] = msgspec.json.Decoder(kind)
        self._records: dict[str, R] = {}
        self._removed: list[Callable[[], None]] = []
        self._watch: Watch | None = None

    async def follow(self, bus: Bus, *, timeout_s: float = 10.0) -> Self:
        """Watch the keys; returns once those that exist are known.

        Raises:
            MeshError: tenant-auth has not made the bucket in time.
        """
        bucket = await KV.open(bus, buckets.KEYS, timeout_s=timeout_s)
        self._watch = await bucket.watch(f"{self._prefix}>", on_entry=self._entry)
        try:
            await self._watch.ready
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    @property
    def watch(self) -> Watch | None:
        """The watch behind it, for freshness; None when it was filled by hand."""
        return self._watch

    def __len__(self) -> int:
        """Keys known."""
        return len(self._records)

    def __contains__(self, kid: str) -> bool:
        """Whether a key is known."""
        return kid in self._records

    def on_removed(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a key was removed or replaced."""
        self._removed.append(listener)

    def current(self, now_ms: int) -> R | None:
        """The newest key whose time has come; None when there is none."""
        usable = [record for record in self._records.values() if record.use_from_ms <= now_ms]
        return max(usable, key=lambda record: (record.use_from_ms, record.kid), default=None)

    def record(self, kid: str) -> R | None:
        """A key by its name; None when it is unknown."""
        return self._records.get(kid)

    def put(self, record: R) -> None:
        """Learn a key.

        Raises:
            ValueError: there are too many keys.
        """
        known = self._records.get(record.kid)
        if known is None and len(self._records) >= KEYS_MAX:
            raise ValueError(f"more than {KEYS_MAX} keys {self._prefix}*")
        self._records[record.kid] = record
        if known is not None and known != record:
            self._tell()

    def remove(self, kid: str) -> None:
        """Forget a key; what was made with it is refused from now on."""
        if self._records.pop(kid, None) is not None:
            self._tell()

    def _entry(self, key: str, value: bytes | None, _revision: int) -> None:
        kid = key.removeprefix(self._prefix)
        if value is None:
            self.remove(kid)
            return
        try:
            record = self._decoder.decode(value)
            if record.kid != kid:
                raise ValueError(f"names {record.kid}")
            self.put(record)
        except (msgspec.DecodeError, ValueError) as error:
            # One broken record must not keep the others from being learnt.
            _log.error("key %s is unusable: %s", key, error)

    def _tell(self) -> None:
        for listener in self._removed:
            listener()


class KeyRing(Ring[SealedKey]):
    """Known signing keys of ``Mesh-Ctx``."""

    def __init__(self) -> None:
        super().__init__(PREFIX, SealedKey)
        self._public: dict[str, Ed25519PublicKey] = {}

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 10.0) -> Self:
        """A ring that follows ``mesh_keys``; see ``follow``."""
        return await cls().follow(bus, timeout_s=timeout_s)

    def signing_key(self, now_ms: int) -> SealedKey | None:
        """The newest key that may sign now; None when there is none."""
        return self.current(now_ms)

    def public_key(self, kid: str) -> Ed25519PublicKey | None:
        """Verifying key of a key id; None when it is unknown."""
        return self._public.get(kid)

    def put(self, record: SealedKey) -> None:
        """Learn a key.

        Raises:
            ValueError: its public half is no Ed25519 key, or there are too many keys.
        """
        public = Ed25519PublicKey.from_public_bytes(record.public)
        super().put(record)
        self._public[record.kid] = public

    def remove(self, kid: str) -> None:
        """Forget a key; tokens that it signed are refused from now on."""
        self._public.pop(kid, None)
        super().remove(kid)


class SealRing(Ring[SealingKey]):
    """Known sealing keys; only gateways have what opens them."""

    def __init__(self) -> None:
        super().__init__(SEAL_PREFIX, SealingKey)

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 10.0) -> Self:
        """A ring that follows ``mesh_keys``; see ``follow``."""
        return await cls().follow(bus, timeout_s=timeout_s)
