"""The runner's view of two buckets: who holds which server, and which servers are wanted."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.registry import RestartRecord, ServerDefinition
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from mesh_chassis.watch import Watch
from tool_runner.core.placement import Placement

__all__ = ["LEASE_TTL_S", "DefinitionWatch", "PlacementStore", "Seen"]

LEASE_TTL_S = 5
"""How long a record outlives a dead holder; the backstop behind the probe."""
OPEN_S = 5.0

_log = logging.getLogger(__name__)
_PLACEMENT = msgspec.json.Decoder(Placement)
_DEFINITION = msgspec.json.Decoder(ServerDefinition)
_RESTART = msgspec.json.Decoder(RestartRecord)
_RESTART_TOKEN = "restart"  # noqa: S105 - first token of a key


async def _open(bus: Bus, bucket: buckets.Bucket) -> KV:
    """Wait for as long as it takes: the runner serves native tools meanwhile."""
    while True:
        try:
            return await KV.open(bus, bucket, timeout_s=OPEN_S)
        except MeshError as error:
            _log.warning("bucket %s: %s", bucket.name, error.message)
            await asyncio.sleep(0.5)


class Seen(msgspec.Struct, frozen=True):
    """A record as last seen; ``record`` None = gone."""

    record: Placement | None
    revision: int


_NEVER = Seen(None, 0)


class PlacementStore:
    """Records of ``server.>`` in ``mesh_lease``: watched, and written by compare-and-set."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._seen: dict[str, Seen] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._watch: Watch | None = None

    @classmethod
    async def open(cls, bus: Bus) -> "PlacementStore":
        """Watch the bucket; waits until it exists and is known."""
        store = cls(await _open(bus, buckets.LEASE))
        store._watch = await store._kv.watch("server.>", on_entry=store._on_entry)
        await store._watch.ready
        return store

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    def seen(self, key: str) -> Seen:
        """The record as the watch shows it."""
        return self._seen.get(key, _NEVER)

    async def changed(self, key: str, timeout_s: float) -> None:
        """Wait until the record changes, or the time is over."""
        event = self._changed.setdefault(key, asyncio.Event())
        event.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass

    def poke(self, key: str) -> None:
        """Wake whoever waits for this record: something else has changed."""
        event = self._changed.get(key)
        if event is not None:
            event.set()

    def forget(self, key: str) -> None:
        """Nobody waits for this record any more."""
        self._changed.pop(key, None)

    async def read(self, key: str) -> Seen:
        """The record as the broker has it.

        Raises:
            MeshError: no answer.
        """
        entry = await self._kv.get(key)
        return _NEVER if entry is None else Seen(_decode(entry.value), entry.revision)

    async def create(self, key: str, record: Placement) -> int | None:
        """Write where there is nothing; None when somebody was first."""
        try:
            return await self._kv.create(key, msgspec.json.encode(record), ttl_s=LEASE_TTL_S)
        except Conflict:
            return None

    async def update(self, key: str, record: Placement, revision: int) -> int | None:
        """Write over ``revision``; None when it is no longer the newest."""
        try:
            return await self._kv.update(
                key, msgspec.json.encode(record), revision, ttl_s=LEASE_TTL_S
            )
        except Conflict:
            return None

    async def delete(self, key: str, revision: int) -> None:
        """Give a record up, if it is still at ``revision``."""
        try:
            await self._kv.delete(key, revision=revision)
        except Conflict:
            return

    def _on_entry(self, key: str, value: bytes | None, revision: int) -> None:
        self._seen[key] = Seen(_decode(value) if value is not None else None, revision)
        if value is None and key not in self._changed:
            del self._seen[key]
        event = self._changed.get(key)
        if event is not None:
            event.set()


def _decode(value: bytes) -> Placement | None:
    try:
        return _PLACEMENT.decode(value)
    except msgspec.DecodeError:
        # Not written by a runner; taking it for a holder would block the server for ever.
        return Placement(holder="", nonce="")


class DefinitionWatch:
    """Definitions and restart requests in ``mesh_servers``.

    Args:
        on_change: called after each change.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.definitions: dict[tuple[str, str], ServerDefinition] = {}
        self.restarts: dict[tuple[str, str], int] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._on_change = on_change
        self._watch: Watch | None = None

    async def start(self, bus: Bus) -> None:
        """Watch the bucket; waits until it exists and is known."""
        kv = await _open(bus, buckets.SERVERS)
        self._watch = await kv.watch(on_entry=self._on_entry)
        await self._watch.ready

    async def stop(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    def _on_entry(self, key: str, value: bytes | None, _revision: int) -> None:
        try:
            if key.startswith(f"{_RESTART_TOKEN}.") and key.count(".") == 2:
                self._on_restart(key, value)
            else:
                self._on_definition(key, value)
        except msgspec.DecodeError as error:
            _log.error("entry %s of mesh_servers is unusable: %s", key, error)
            return
        self._on_change()

    def _on_restart(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.restarts.pop(self._keys.pop(key, ("", "")), None)
            return
        record = _RESTART.decode(value)
        self._keys[key] = pair = (record.tenant, record.name)
        self.restarts[pair] = record.generation

    def _on_definition(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.definitions.pop(self._keys.pop(key, ("", "")), None)
            return
        definition = _DEFINITION.decode(value)
        self._keys[key] = pair = (definition.tenant, definition.name)
        self.definitions[pair] = definition
