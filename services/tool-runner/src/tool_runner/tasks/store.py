"""Records of ``mesh_tasks``: written by compare-and-set, watched, large results in parts.

Every runner watches all heads (not the parts), which tells it what to cancel, whose owner is gone
and how many tasks a tenant has; it keeps a few fields of each.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.tasks import TaskEvent, TaskRecord, event_subject, owner_token, record_key
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError, api
from mesh_chassis.stored_bodies import drop_parts, read_parts, write_parts
from mesh_chassis.watch import Watch
from tool_runner.tasks.census import Census

__all__ = ["INLINE_BYTES", "OPEN_S", "Conflict", "Seen", "Stored", "TaskStore"]

INLINE_BYTES = 32 * 1024
"""A result up to this size stands in the record itself: one read for a poll."""
KEPT_S = 60.0
"""A task that ends at the end of its time to live can still be read for so long."""
FILLED_SHARE = 0.8
"""Of the bucket; what is above is kept for the ends of tasks that are there."""
FILLED_LOOK_S = 1.0
OPEN_S = 1.0
"""How long one try waits for the registry; the runner serves meanwhile, and tries again."""
HEADS = "*.*.*"

_RECORD = msgspec.json.Decoder(TaskRecord)
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class Stored(msgspec.Struct, frozen=True):
    """A record and the revision it was read at."""

    record: TaskRecord
    revision: int


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a record."""

    tenant: str
    status: str
    owner: str
    boot: str
    revision: int


class _State(msgspec.Struct, frozen=True):
    bytes: int


class _Config(msgspec.Struct, frozen=True):
    max_bytes: int = -1


class _Info(msgspec.Struct, frozen=True):
    state: _State
    config: _Config


class TaskStore:
    """The bucket. Make it with ``open``.

    Args:
        kv: the bucket.
        bus: tells of changes.
        per_tenant: tasks of one tenant at once.
    """

    def __init__(self, kv: KV, bus: Bus, *, per_tenant: int) -> None:
        self._kv = kv
        self._bus = bus
        self._most = per_tenant
        self._looked_at = -FILLED_LOOK_S
        self._filled = False
        self._census = Census()
        self._watch: Watch | None = None
        self.seen: dict[str, Seen] = {}
        """Every task by key."""
        self.on_change: Callable[[str, Seen | None], None] = lambda _key, _seen: None

    @classmethod
    async def open(cls, bus: Bus, *, per_tenant: int) -> "TaskStore":
        """Watch the bucket; returns once its content is known.

        Raises:
            MeshError: the registry has not made it yet, or the broker cannot be asked.
        """
        kv = await KV.open(bus, buckets.TASKS, timeout_s=OPEN_S)
        store = cls(kv, bus, per_tenant=per_tenant)
        store._watch = await store._kv.watch(HEADS, on_entry=store._on_entry)
        await store._watch.ready
        return store

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._kv.bucket.name

    @property
    def watch(self) -> Watch:
        """The watch of the heads."""
        assert self._watch is not None
        return self._watch

    async def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            await self._watch.stop()

    async def check_room(self, tenant: str) -> None:
        """Before a task is made.

        Raises:
            MeshError: ``overloaded``: the tenant has as many as it may, or the bucket is full.
        """
        if self._census.count(tenant) >= self._most:
            raise self._full()
        if await self._is_filled():
            raise _no_space()

    async def _is_filled(self) -> bool:
        """Whether so little is left that it is kept for ends; asked once a second at most."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= FILLED_LOOK_S:
            self._looked_at = now
            try:
                info = await api(self._bus, f"STREAM.INFO.{self._kv.bucket.stream}", b"", _Info)
            except ApiError as error:
                _log.info("the size of the store of tasks is not known: %s", error)
            else:
                most = info.config.max_bytes
                self._filled = 0 < most * FILLED_SHARE <= info.state.bytes
        return self._filled

    def _full(self) -> MeshError:
        return MeshError(
            ErrorKind.OVERLOADED,
            f"the tenant has {self._most} tasks, as many as it may",
            data={"limit": self._most},
            retry_after_s=5.0,
        )

    async def read(self, tenant: str, principal: str, task_id: str) -> Stored | None:
        """The record; None when there is none for this principal.

        Raises:
            MeshError: no answer from the broker.
        """
        return await self.at(record_key(tenant, principal, task_id))

    async def find(self, tenant: str, task_id: str) -> Stored | None:
        """The record by its id alone, among those seen here; for callers nobody has signed for."""
        tail = f".{task_id}"
        for key, seen in self.seen.items():
            if seen.tenant == tenant and key.endswith(tail):
                return await self.at(key)
        return None

    async def at(self, key: str) -> Stored | None:
        """The record under a key."""
        entry = await self._kv.get(key) or await self._kv.latest(key)
        if entry is None:
            return None
        try:
            return Stored(_RECORD.decode(entry.value), entry.revision)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.error("record %s of mesh_tasks is unusable", key)
            return None

    async def create(self, record: TaskRecord, now_ms: int) -> int:
        """Write a new record.

        Returns:
            Its revision.

        Raises:
            MeshError: it could not be written; ``overloaded`` when the tenant has too many or
                the bucket is full.
        """
        key = _key(record)
        near = self._census.near(record.tenant, self._most)
        waiting = self._census.expect(key) if near else None
        try:
            revision = await self._kv.create(key, _encode(record), ttl_s=_left_s(record, now_ms))
        except MeshError as error:
            if waiting is not None:
                self._census.forget(key, waiting)
            if error.kind is ErrorKind.OVERLOADED:
                raise _no_space() from error
            raise
        self._note(key, record, revision)
        if waiting is not None and await self._census.place(key, waiting) > self._most:
            await self._kv.purge(key)
            raise self._full()
        return revision

    async def update(self, record: TaskRecord, revision: int, now_ms: int) -> int:
        """Write over ``revision`` and tell those who listen.

        Raises:
            Conflict: somebody else wrote meanwhile.
            MeshError: it could not be written.
        """
        key = _key(record)
        new = await self._kv.update(key, _encode(record), revision, ttl_s=_left_s(record, now_ms))
        self._note(key, record, new)
        await self._tell(record)
        return new

    async def keep_result(self, record: TaskRecord, result: bytes, now_ms: int) -> int:
        """Store a result that is too large for the record; the number of its parts.

        Raises:
            MeshError: it could not be written.
        """
        if len(result) <= INLINE_BYTES:
            return 0
        return await write_parts(
            self._kv, _key(record), result, ttl_s=_left_s(record, now_ms) + KEPT_S
        )

    async def drop_result(self, record: TaskRecord, parts: int) -> None:
        """Forget parts whose record was not written."""
        await drop_parts(self._kv, _key(record), parts)

    async def result(self, record: TaskRecord) -> bytes:
        """The result of a completed task.

        Raises:
            MeshError: a part is missing, or no answer.
        """
        if record.parts:
            return await read_parts(self._kv, _key(record), record.parts)
        return bytes(record.result)

    async def _tell(self, record: TaskRecord) -> None:
        event = TaskEvent(principal=owner_token(record.principal), status=record.status)
        try:
            await self._bus.publish(event_subject(record.tenant, record.id), _encode(event))
        except MeshError as error:
            # Those who wait look at the record from time to time anyway.
            _log.info("a task's change was not told: %s", error.message)

    def _note(self, key: str, record: TaskRecord, revision: int) -> None:
        before = self.seen.get(key)
        if before is not None and before.revision >= revision:
            return
        seen = Seen(record.tenant, record.status, record.owner, record.boot, revision)
        self.seen[key] = seen
        self.on_change(key, seen)

    def _on_entry(self, key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            self._census.left(key)
            if self.seen.pop(key, None) is not None:
                self.on_change(key, None)
            return
        self._census.entered(key)
        try:
            self._note(key, _RECORD.decode(value), revision)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.error("record %s of mesh_tasks is unusable", key)


def _key(record: TaskRecord) -> str:
    return record_key(record.tenant, record.principal, record.id)


def _left_s(record: TaskRecord, now_ms: int) -> float:
    least = KEPT_S if record.terminal else 1.0
    return float(round(max(least, (record.expires_ms - now_ms) / 1000)))


def _no_space() -> MeshError:
    return MeshError(
        ErrorKind.OVERLOADED,
        "the store of tasks is full",
        data={"bucket": buckets.TASKS.name},
        retry_after_s=5.0,
    )
