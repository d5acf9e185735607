"""Records of swarm tasks in ``mesh_tasks``: what MCP clients see of a task, under the same id.

Written by the owner of the swarm behind its log, by compare-and-set: an owner that was frozen and
has been replaced meanwhile finds another revision and writes nothing.
"""

import logging

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.tasks import (
    TaskEvent,
    TaskRecord,
    event_subject,
    owner_token,
    record_key,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from mesh_chassis.stored_bodies import drop_parts, read_parts, write_parts

__all__ = ["INLINE_BYTES", "TaskRecords"]

INLINE_BYTES = 32 * 1024
"""A result up to this size stands in the record itself: one read for a poll."""
KEPT_S = 60.0
"""Parts outlive the record that counts them."""
_record = msgspec.json.Decoder(TaskRecord)
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class TaskRecords:
    """Records of the tasks of one owner.

    Args:
        kv: bucket ``mesh_tasks``.
        bus: tells of changes.
    """

    def __init__(self, kv: KV, bus: Bus) -> None:
        self._kv = kv
        self._bus = bus
        self._revisions: dict[str, int] = {}

    @classmethod
    def of(cls, bus: Bus) -> "TaskRecords":
        """On a connection; writes wait for the bucket."""
        return cls(KV.bind(bus, buckets.TASKS), bus)

    async def read(self, tenant: str, principal: str, task: str) -> TaskRecord | None:
        """The record of a task of this principal.

        Raises:
            MeshError: no answer from the broker.
        """
        key = record_key(tenant, principal, task)
        entry = await self._kv.get(key) or await self._kv.latest(key)
        if entry is None:
            return None
        try:
            return _record.decode(entry.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.error("record %s of mesh_tasks is unusable", key)
            return None

    async def read_whole(self, tenant: str, principal: str, task: str) -> TaskRecord | None:
        """The record with its result, also where that lies in parts.

        Raises:
            MeshError: no answer from the broker; ``lost`` when a part is gone.
        """
        record = await self.read(tenant, principal, task)
        if record is None or not record.parts:
            return record
        body = await read_parts(self._kv, record_key(tenant, principal, task), record.parts)
        return msgspec.structs.replace(record, result=msgspec.Raw(body), parts=0)

    async def open_of(self, tenant: str, principal: str, swarm: str) -> list[TaskRecord]:
        """Records of tasks of a swarm that have not ended.

        Raises:
            MeshError: no answer from the broker.
        """
        prefix = buckets.key(tenant, owner_token(principal)) + "."
        found: list[TaskRecord] = []
        for key in await self._kv.keys(prefix):
            entry = await self._kv.get(key) if key.count(".") == 2 else None
            if entry is None:
                continue
            try:
                record = _record.decode(entry.value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if record.upstream == swarm and not record.terminal:
                found.append(record)
        return found

    async def write(self, record: TaskRecord, result: bytes = b"") -> bool:
        """Write a record and tell those who listen; False when it was ended by another owner.

        Args:
            record: without its result.
            result: of a completed task; a large one is stored in parts beside the record.

        Raises:
            MeshError: it could not be written; ``too_large`` for a result over 10 MiB.
        """
        key = record_key(record.tenant, record.principal, record.id)
        if record.terminal and key not in self._revisions:
            known = await self.read(record.tenant, record.principal, record.id)
            if known is not None and known.terminal:
                return False  # the owner before has written it, with the same result
        ttl_s = float(max(1, -(-(record.expires_ms - record.updated_ms) // 1000)))
        parts = 0
        if len(result) > INLINE_BYTES:
            parts = await write_parts(self._kv, key, result, ttl_s=ttl_s + KEPT_S)
            record = msgspec.structs.replace(record, parts=parts)
        elif result:
            record = msgspec.structs.replace(record, result=msgspec.Raw(result))
        # Nobody can wait for a task whose id was not told yet; what has happened, swarms tell.
        silent = key not in self._revisions and record.status == "working"
        standing = await self._replace(key, record, ttl_s)
        if standing is not None:
            if not standing.parts:
                await drop_parts(self._kv, key, parts)
            return False
        if not silent:
            await self._tell(record)
        if record.terminal:
            self._revisions.pop(key, None)
        return True

    async def _replace(self, key: str, record: TaskRecord, ttl_s: float) -> TaskRecord | None:
        """Write a record; what stands there instead, where it may not be written over."""
        value = _encode(record)
        for _ in range(3):
            revision = self._revisions.get(key, 0)
            try:
                if revision:
                    revision = await self._kv.update(key, value, revision, ttl_s=ttl_s)
                else:
                    revision = await self._kv.create(key, value, ttl_s=ttl_s)
            except Conflict:
                entry = await self._kv.latest(key)
                if entry is None:
                    self._revisions.pop(key, None)
                    continue
                stored = _record.decode(entry.value)
                if stored.terminal or (revision and stored.updated_ms > record.updated_ms):
                    return stored
                self._revisions[key] = entry.revision
            else:
                self._revisions[key] = revision
                return None
        raise MeshError(ErrorKind.OVERLOADED, "the record changes too often", retry_after_s=0.5)

    async def _tell(self, record: TaskRecord) -> None:
        event = TaskEvent(principal=owner_token(record.principal), status=record.status)
        try:
            await self._bus.publish(event_subject(record.tenant, record.id), _encode(event))
        except MeshError as error:
            # Those who wait look at the record from time to time anyway.
            _log.info("a task's change was not told: %s", error.message)
