"""Records of swarms in ``mesh_swarms``: written by their owners, watched by every replica."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError, api
from mesh_chassis.watch import Watch
from swarm_coordinator.core.records import SwarmRecord, swarm_key

__all__ = ["DESTROYED_S", "SwarmStore"]

CATCH_UP_S = 0.5
"""Longest wait for what another replica has just written; usually it takes a millisecond."""
DESTROYED_S = 86_400
"""A destroyed swarm can be asked about for a day."""
_record = msgspec.json.Decoder(SwarmRecord)
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class _State(msgspec.Struct, frozen=True):
    last_seq: int


class _Info(msgspec.Struct, frozen=True):
    state: _State


class SwarmStore:
    """All records of all tenants, as this replica has heard of them. Make it with ``open``.

    Args:
        kv: bucket ``mesh_swarms``.
        bus: its connection.
    """

    def __init__(self, kv: KV, bus: Bus) -> None:
        self._kv = kv
        self._bus = bus
        self._seen = 0
        self._heard = asyncio.Event()
        self._records: dict[str, SwarmRecord] = {}
        self._revisions: dict[str, int] = {}
        self._watch: Watch | None = None
        self.on_forgotten: Callable[[SwarmRecord], None] = lambda _record: None
        """Called with the last record of a destroyed swarm once its day is over."""

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 30.0) -> "SwarmStore":
        """Watch the bucket; returns once its content is known.

        Raises:
            MeshError: ``bus``: the registry has not made it in time.
        """
        store = cls(await KV.open(bus, buckets.SWARMS, timeout_s=timeout_s), bus)
        store._watch = await store._kv.watch(on_entry=store._on_watched)
        try:
            await store._watch.ready
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def watch(self) -> Watch:
        """The watch, for health."""
        assert self._watch is not None
        return self._watch

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    def get(self, tenant: str, swarm: str) -> SwarmRecord | None:
        """One record as known here."""
        return self._records.get(swarm_key(tenant, swarm))

    async def find(self, tenant: str, swarm: str) -> SwarmRecord | None:
        """One record, asked of the broker's leader where it is not known here.

        Raises:
            MeshError: no answer from the broker.
        """
        known = self.get(tenant, swarm)
        if known is not None:
            return known
        entry = await self._kv.latest(swarm_key(tenant, swarm))
        if entry is None:
            return None
        self._on_entry(entry.key, entry.value, entry.revision)
        return self.get(tenant, swarm)

    def all(self) -> list[SwarmRecord]:
        """All records as known here."""
        return list(self._records.values())

    def of(self, tenant: str, principal: str) -> list[SwarmRecord]:
        """Records of one principal, newest first."""
        found = [
            record
            for record in self._records.values()
            if (record.tenant, record.principal) == (tenant, principal)
        ]
        # Ids begin with the time to the millisecond; they decide between equals.
        return sorted(found, key=lambda record: (record.created_ms, record.swarm), reverse=True)

    async def caught_up(self) -> None:
        """Wait until everything that was written before this call is known here, for a moment.

        A caller makes a swarm at one replica and asks the next one for "my swarm".

        Raises:
            MeshError: no answer from the broker.
        """
        try:
            info = await api(self._bus, f"STREAM.INFO.{self._kv.bucket.stream}", b"", _Info)
        except ApiError as error:
            _log.warning("the state of mesh_swarms is not known: %s", error)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while self._seen < info.state.last_seq:
                    self._heard.clear()
                    await self._heard.wait()

    async def put(self, record: SwarmRecord) -> None:
        """Write a record unless the stored one reflects more of the log.

        Raises:
            MeshError: it could not be written.
        """
        key = swarm_key(record.tenant, record.swarm)
        ttl_s = DESTROYED_S if record.status == "destroyed" else 0
        value = _encode(record)
        for _ in range(3):
            known = self._records.get(key)
            if known is not None and known.sequence > record.sequence:
                return  # an owner after us has written, and the watch has told already
            try:
                revision = self._revisions.get(key, 0)
                if revision:
                    revision = await self._kv.update(key, value, revision, ttl_s=ttl_s)
                else:
                    revision = await self._kv.create(key, value, ttl_s=ttl_s)
            except Conflict:
                entry = await self._kv.latest(key)
                if entry is None:
                    self._revisions.pop(key, None)
                    continue
                self._on_entry(key, entry.value, entry.revision)
                stored = self._records.get(key)
                if stored is not None and stored.sequence > record.sequence:
                    return  # an owner after us has written
            else:
                self._on_entry(key, value, revision)
                return
        _log.warning("the record of %s changes too often", record.swarm)

    def _on_watched(self, key: str, value: bytes | None, revision: int) -> None:
        self._seen = max(self._seen, revision)
        self._heard.set()
        self._on_entry(key, value, revision)

    def _on_entry(self, key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            known = self._records.pop(key, None)
            self._revisions.pop(key, None)
            # A swarm that lives is never forgotten: a bucket that was lost must not empty logs.
            if known is not None and known.status == "destroyed":
                self.on_forgotten(known)
            return
        if revision <= self._revisions.get(key, 0):
            return
        try:
            record = _record.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.error("record %s of mesh_swarms is unusable", key)
            return
        self._records[key] = record
        self._revisions[key] = revision
