"""``mesh_catalog``: a watched copy for reading, compare-and-set for writing.

Several registries may run. None asks another: the broker's order of writes is the arbiter, and
whoever loses a race reads again. A catalogue in parts is written parts first, head last, and the
parts of the version it replaced go afterwards, each only at the revision seen before, so that a
part which somebody wrote again meanwhile stays.
"""

import asyncio

import msgspec

from mcp_proto import buckets
from mcp_proto.catalogs import (
    Assembler,
    Head,
    Stored,
    catalog_key,
    decode_head,
    encode_catalog,
    parse_key,
    part_keys,
)
from mcp_proto.contracts.registry import Catalog
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, Conflict, Entry
from mesh_chassis.bus.connection import Bus
from mesh_chassis.watch import Watch

__all__ = ["CatalogStore", "Known", "Written"]

Pair = tuple[str, str]

_CAS_ATTEMPTS = 8
"""Lost races in a row; each means that another registry wrote the same key just then."""

_SEEN_S = 2.0
"""How long the own watch may need to show an own write before the check after it is skipped."""


class Known(msgspec.Struct, frozen=True):
    """A catalogue as the watch shows it, with the revision of its head."""

    catalog: Catalog
    revision: int


class Written(msgspec.Struct, frozen=True):
    """Outcome of a write: the head's revision; ``changed`` False = it was there already."""

    revision: int
    changed: bool


class CatalogStore:
    """The catalogue. Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._view: dict[Pair, Known] = {}
        self._head_revisions: dict[Pair, int] = {}
        self._assembler = Assembler()
        self._seen_revision = 0
        self._seen = asyncio.Event()
        self._watch: Watch | None = None
        self._now = asyncio.get_running_loop().time
        self._gap_at = 0.0

    @classmethod
    async def open(cls, bus: Bus) -> "CatalogStore":
        """Load the bucket.

        Raises:
            MeshError: the bucket is not there, or cannot be read.
        """
        store = cls(await KV.open(bus, buckets.CATALOG))
        watch = await store._kv.watch(on_entry=store._on_entry, on_reset=store._on_reset)
        store._watch = watch
        await watch.ready
        bus.on_disconnect(store._disconnected)
        return store

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    @property
    def fresh(self) -> bool:
        """Whether the copy is proven to be current (a few seconds at most)."""
        return self._watch is not None and self._watch.fresh

    def get(self, tenant: str, server: str) -> Known | None:
        """What the watch shows of one server."""
        return self._view.get((tenant, server))

    async def confirmed(self, tenant: str, server: str) -> Known | None:
        """What is stored, asking the broker while the copy is unproven since a lost connection.

        The broker may have lost its disk meanwhile: to say "known" then would leave the server
        out of the catalogue until it registers again.

        Raises:
            MeshError: the broker does not answer.
        """
        known = self.get(tenant, server)
        proven = self._watch is not None and self._now() - self._watch.age_s > self._gap_at
        if known is None or proven:
            return known
        entry = await self._kv.get(catalog_key(tenant, server))
        return known if entry is not None and entry.revision == known.revision else None

    def pairs(self) -> set[Pair]:
        """Every ``(tenant, server)`` that has a head, readable or not."""
        return set(self._head_revisions)

    def all(self) -> list[Catalog]:
        """Every catalogue."""
        return [known.catalog for known in self._view.values()]

    def revision_of(self, pair: Pair) -> int:
        """Revision of a head; 0 when there is none."""
        return self._head_revisions.get(pair, 0)

    async def write(self, catalog: Catalog) -> Written:
        """Write a catalogue, unless the same is there.

        Raises:
            MeshError: ``too_large``, ``overloaded`` after too many lost races, or no receipt.
        """
        stored = encode_catalog(catalog)
        for _ in range(_CAS_ATTEMPTS):
            entry = await self._kv.get(stored.key)
            if entry is not None and entry.value == stored.head:
                return Written(entry.revision, changed=False)
            old_parts = await self._parts_of(entry)
            for key, value in stored.parts:
                await self._kv.put(key, value)
            try:
                revision = await self._swap(stored, entry)
            except Conflict:
                continue
            await self._drop(old_parts, keep=stored)
            return Written(revision, changed=True)
        await self._drop_orphans(stored)
        raise MeshError(
            ErrorKind.OVERLOADED,
            f"the catalogue of server {catalog.server} is being written by others",
            retry_after_s=0.5,
        )

    async def remove(self, pair: Pair, *, revision: int | None = None) -> bool:
        """Remove a catalogue.

        Args:
            pair: tenant and server.
            revision: remove only this revision; None = whatever is there.

        Returns:
            True when this call removed it.
        """
        key = catalog_key(*pair)
        for _ in range(_CAS_ATTEMPTS):
            entry = await self._kv.get(key)
            if entry is None or (revision is not None and entry.revision != revision):
                return False
            old_parts = await self._parts_of(entry)
            try:
                await self._kv.delete(key, revision=entry.revision)
            except Conflict:
                continue
            await self._drop(old_parts, keep=None)
            return True
        return False

    async def seen(self, revision: int) -> bool:
        """Wait until the watch shows everything up to ``revision``; False when it takes too long.

        After that the view holds every write that came before the one with that revision.
        """
        try:
            async with asyncio.timeout(_SEEN_S):
                while self._seen_revision < revision:
                    self._seen.clear()
                    await self._seen.wait()
        except TimeoutError:
            return False
        return True

    async def _swap(self, stored: Stored, entry: Entry | None) -> int:
        if entry is None:
            return await self._kv.create(stored.key, stored.head)
        return await self._kv.update(stored.key, stored.head, entry.revision)

    async def _parts_of(self, entry: Entry | None) -> list[Entry]:
        """The parts a head names, with their revisions now; a damaged head names none."""
        if entry is None:
            return []
        try:
            head = decode_head(entry.value)
        except ValueError:
            return []
        if not isinstance(head, Head):
            return []
        found = [await self._kv.get(key) for key in part_keys(entry.key, head)]
        return [part for part in found if part is not None]

    async def _drop(self, parts: list[Entry], *, keep: Stored | None) -> None:
        kept = {key for key, _ in keep.parts} if keep is not None else set[str]()
        for part in parts:
            if part.key not in kept:
                await _delete_at(self._kv, part.key, part.revision)

    async def _drop_orphans(self, stored: Stored) -> None:
        """Take back parts whose head never came to be, unless another writer's head names them."""
        entry = await self._kv.get(stored.key)
        named = {part.key for part in await self._parts_of(entry)}
        for key, _ in stored.parts:
            part = await self._kv.get(key)
            if part is not None and key not in named:
                await _delete_at(self._kv, key, part.revision)

    def _on_entry(self, key: str, value: bytes | None, revision: int) -> None:
        parsed = parse_key(key)
        change = self._assembler.feed(key, value)
        if parsed is not None and not parsed.part:
            pair = (parsed.tenant, parsed.server)
            if value is None:
                self._head_revisions.pop(pair, None)
            else:
                self._head_revisions[pair] = revision
        if change is not None:
            pair = (change.tenant, change.server)
            if change.catalog is None:
                self._view.pop(pair, None)
            else:
                self._view[pair] = Known(change.catalog, self._head_revisions[pair])
        self._seen_revision = max(self._seen_revision, revision)
        self._seen.set()

    def _disconnected(self) -> None:
        self._gap_at = self._now()

    def _on_reset(self) -> None:
        # The old view stays in force; the watch reports what the new snapshot no longer holds.
        self._seen_revision = 0


async def _delete_at(kv: KV, key: str, revision: int) -> None:
    try:
        await kv.delete(key, revision=revision)
    except Conflict:
        return  # somebody wrote it again: it is theirs now
