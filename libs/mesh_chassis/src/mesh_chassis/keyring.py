"""The signing keys of the mesh as this process knows them, kept fresh by a watch.

Tenant-auth writes ``sign.{kid}`` in ``mesh_keys``; everyone else only watches. A verifier accepts
any key that is listed, a signer takes the newest whose time has come: so a rotation publishes
the next key early and removes the old one late, and nobody is refused.
"""

import logging
from collections.abc import Callable
from typing import Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_proto import buckets
from mcp_proto.contracts.tenant_auth import SealedKey
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.watch import Watch

__all__ = ["KEYS_MAX", "PREFIX", "KeyRing"]

PREFIX = "sign."
"""First part of the keys of signing keys in ``mesh_keys``."""

KEYS_MAX = 64
"""Signing keys known at once; a rotation needs two or three."""

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(SealedKey)


class _Key(msgspec.Struct, frozen=True):
    record: SealedKey
    public: Ed25519PublicKey


class KeyRing:
    """Known signing keys. Make it with ``open``; ``put`` and ``remove`` are what the watch does."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._removed: list[Callable[[], None]] = []
        self._watch: Watch | None = None

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 10.0) -> Self:
        """Watch the keys; returns once those that exist are known.

        Raises:
            MeshError: tenant-auth has not made the bucket in time.
        """
        ring = cls()
        bucket = await KV.open(bus, buckets.KEYS, timeout_s=timeout_s)
        ring._watch = await bucket.watch(f"{PREFIX}>", on_entry=ring._entry)
        try:
            await ring._watch.ready
        except BaseException:
            await ring.close()
            raise
        return ring

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
        return len(self._keys)

    def __contains__(self, kid: str) -> bool:
        """Whether a key is known."""
        return kid in self._keys

    def on_removed(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a key was removed."""
        self._removed.append(listener)

    def signing_key(self, now_ms: int) -> SealedKey | None:
        """The newest key that may sign now; None when there is none."""
        usable = [key.record for key in self._keys.values() if key.record.use_from_ms <= now_ms]
        return max(usable, key=lambda key: (key.use_from_ms, key.kid), default=None)

    def public_key(self, kid: str) -> Ed25519PublicKey | None:
        """Verifying key of a key id; None when it is unknown."""
        key = self._keys.get(kid)
        return key.public if key is not None else None

    def put(self, record: SealedKey) -> None:
        """Learn a key.

        Raises:
            ValueError: its public half is no Ed25519 key, or there are too many keys.
        """
        if record.kid not in self._keys and len(self._keys) >= KEYS_MAX:
            raise ValueError(f"more than {KEYS_MAX} signing keys")
        changed = record.kid in self._keys and self._keys[record.kid].record != record
        self._keys[record.kid] = _Key(record, Ed25519PublicKey.from_public_bytes(record.public))
        if changed:
            self._tell()

    def remove(self, kid: str) -> None:
        """Forget a key; tokens that it signed are refused from now on."""
        if self._keys.pop(kid, None) is not None:
            self._tell()

    def _entry(self, key: str, value: bytes | None, _revision: int) -> None:
        kid = key.removeprefix(PREFIX)
        if value is None:
            self.remove(kid)
            return
        try:
            record = _decoder.decode(value)
            if record.kid != kid:
                raise ValueError(f"names {record.kid}")
            self.put(record)
        except (msgspec.DecodeError, ValueError) as error:
            # One broken record must not keep the others from being learnt.
            _log.error("signing key %s is unusable: %s", kid, error)

    def _tell(self) -> None:
        for listener in self._removed:
            listener()
