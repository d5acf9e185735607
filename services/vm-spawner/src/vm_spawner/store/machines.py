"""Records of machines in ``mesh_vms``: watched by every spawner, changed by compare-and-set."""

import logging
from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.vm_spawner import MachineRecord, event_subject, record_key
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, Conflict
from mesh_chassis.bus.connection import Bus
from mesh_chassis.watch import Watch
from vm_spawner.core.machine import is_over

__all__ = ["ENDED_S", "MachineStore"]

ENDED_S = 86_400
"""A machine that ended can be asked about for a day."""
TRIES_MAX = 8
"""Writers of one record are its spawner and whoever asks for its end; more means a defect."""
_record = msgspec.json.Decoder(MachineRecord)
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class MachineStore:
    """All records of all tenants, as this spawner has heard of them. Make it with ``open``.

    Args:
        kv: bucket ``mesh_vms``.
        bus: its connection.
    """

    def __init__(self, kv: KV, bus: Bus) -> None:
        self._kv = kv
        self._bus = bus
        self._records: dict[str, MachineRecord] = {}
        self._revisions: dict[str, int] = {}
        self._watch: Watch | None = None
        self.on_change: Callable[[MachineRecord], None] = lambda _record: None
        """Called with each record that this or another spawner has written."""

    @classmethod
    async def open(cls, bus: Bus, *, timeout_s: float = 30.0) -> "MachineStore":
        """Watch the bucket; returns once its content is known.

        Raises:
            MeshError: ``bus``: the registry has not made it in time.
        """
        store = cls(await KV.open(bus, buckets.VMS, timeout_s=timeout_s), bus)
        store._watch = await store._kv.watch(on_entry=store._on_entry, on_reset=store._on_reset)
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

    def all(self) -> list[MachineRecord]:
        """All records as known here."""
        return list(self._records.values())

    def known(self, tenant: str, vm_id: str) -> MachineRecord | None:
        """One record as known here."""
        return self._records.get(record_key(tenant, vm_id))

    async def find(self, tenant: str, vm_id: str) -> MachineRecord | None:
        """One record as the broker's leader has it; another spawner may just have written it.

        Raises:
            MeshError: no answer from the broker.
        """
        key = record_key(tenant, vm_id)
        entry = await self._kv.latest(key)
        if entry is None:
            return None
        self._on_entry(key, entry.value, entry.revision)
        return self._records.get(key)

    async def create(self, record: MachineRecord) -> bool:
        """Write the first record; False = somebody else has, and it is known here now.

        Raises:
            MeshError: it could not be written.
        """
        key = record_key(record.tenant, record.vm_id)
        value = _encode(record)
        try:
            revision = await self._kv.create(key, value)
        except Conflict:
            await self.find(record.tenant, record.vm_id)
            return False
        self._on_entry(key, value, revision)
        await self._tell(record)
        return True

    async def change(
        self,
        tenant: str,
        vm_id: str,
        make: Callable[[MachineRecord], MachineRecord | None],
    ) -> MachineRecord | None:
        """Change a record, on whatever others made of it meanwhile.

        Args:
            tenant: whose.
            vm_id: which.
            make: from the record as it is to the one to write; None = leave it. May raise.

        Returns:
            The record as it is then; None = there is none.

        Raises:
            MeshError: it could not be written, or changes too often.
        """
        key = record_key(tenant, vm_id)
        if key not in self._records:
            await self.find(tenant, vm_id)
        for _ in range(TRIES_MAX):
            record, revision = self._records.get(key), self._revisions.get(key, 0)
            if record is None:
                return None
            changed = make(record)
            if changed is None or changed == record:
                return record
            value = _encode(changed)
            ttl_s = ENDED_S if is_over(changed) else 0
            try:
                revision = await self._kv.update(key, value, revision, ttl_s=ttl_s)
            except Conflict:
                if await self.find(tenant, vm_id) is None:
                    self._forget(key)
                continue
            self._on_entry(key, value, revision)
            if changed.observed.state != record.observed.state:
                await self._tell(changed)
            return changed
        raise MeshError(
            ErrorKind.OVERLOADED, "the record of the machine changes too often", retry_after_s=1.0
        )

    async def remove(self, tenant: str, vm_id: str) -> None:
        """Forget a record of which nothing ever existed.

        Raises:
            MeshError: it could not be written.
        """
        await self._kv.delete(record_key(tenant, vm_id))
        self._forget(record_key(tenant, vm_id))

    async def _tell(self, record: MachineRecord) -> None:
        try:
            await self._bus.publish(event_subject(record.tenant, record.vm_id), _encode(record))
        except MeshError as error:
            _log.info("an event of %s was not sent: %s", record.vm_id, error.message)

    def _on_reset(self) -> None:
        self._records.clear()
        self._revisions.clear()

    def _forget(self, key: str) -> None:
        self._records.pop(key, None)
        self._revisions.pop(key, None)

    def _on_entry(self, key: str, value: bytes | None, revision: int) -> None:
        if value is None:
            if revision >= self._revisions.get(key, 0):
                self._forget(key)
            return
        if revision <= self._revisions.get(key, 0):
            return
        try:
            record = _record.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.error("record %s of mesh_vms is unusable", key)
            return
        self._records[key] = record
        self._revisions[key] = revision
        self.on_change(record)
