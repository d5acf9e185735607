"""How much a tenant stores on AWS: one counter per tenant, corrected when it matters.

A runner keeps what it knows and adds what it wrote to the counter a moment later, so an ordinary
write pays nothing for it. Runners that write at the same moment may together exceed a quota by
what they write within ``FLUSH_S`` and ``FRESH_S``. The counter only ever strays upwards by itself
(values expire unseen), so before a write is refused everything is counted.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mcp_proto.errors import MeshError
from mesh_chassis.clock import monotonic
from mesh_chassis.tasks import Tasks
from tool_runner.drivers.aws.faults import Effect
from tool_runner.drivers.aws.session import Aws
from tool_runner.drivers.storage import full

__all__ = ["Usage"]

FLUSH_S = 0.5
FRESH_S = 5.0
"""What other runners stored is seen after at most this long."""
RECOUNT_S = 60.0
"""A full tenant is counted anew at most this often."""
TENANTS_MAX = 10_000

_log = logging.getLogger(__name__)

Count = Callable[[str], Awaitable[int]]
"""Counts the bytes of a tenant in one store."""


class _Known:
    """What this runner knows of a tenant."""

    __slots__ = ("pending", "read_at", "recounted_at", "used")

    def __init__(self) -> None:
        self.used = 0
        self.pending = 0
        self.read_at = float("-inf")
        self.recounted_at = float("-inf")


class Usage:
    """Counters of all tenants, in the table of the values. ``close`` writes what is pending.

    Args:
        aws: the connection.
        table: its name.
        quota: bytes of a tenant; -1 = no quota.
    """

    def __init__(self, aws: Aws, table: str, quota: Callable[[str], int]) -> None:
        self._aws = aws
        self._table = table
        self._quota = quota
        self._counts: list[Count] = []
        self._tenants: OrderedDict[str, _Known] = OrderedDict()
        self._pending: set[str] = set()
        self._tasks = Tasks("aws usage", tasks_max=2)
        self._counting = asyncio.Lock()
        self._flushing = False
        self._closed = False

    def counts(self, count: Count) -> None:
        """Add a store whose bytes belong to the quota."""
        self._counts.append(count)

    def limited(self, tenant: str) -> bool:
        """Whether there is a quota at all."""
        return self._quota(tenant) >= 0

    async def fits(self, tenant: str, needed: int) -> bool:
        """Whether there is room as far as the counter says."""
        quota = self._quota(tenant)
        return quota < 0 or (await self._read(tenant)).used + needed <= quota

    async def require(self, tenant: str, needed: int) -> None:
        """Refuse what there is no room for, after counting everything.

        Raises:
            MeshError: ``overloaded``, as ``storage.full``; whatever counting raises.
        """
        if await self.fits(tenant, needed):
            return
        known = self._of(tenant)
        async with self._counting:
            if monotonic() - known.recounted_at >= RECOUNT_S:
                await self._recount(tenant, known)
        quota = self._quota(tenant)
        if known.used + needed > quota:
            raise full(known.used, quota, needed)

    def note(self, tenant: str, change: int) -> None:
        """A write of this runner changed what is stored by so many bytes."""
        if not change or not self.limited(tenant):
            return
        known = self._of(tenant)
        known.used += change
        known.pending += change
        self._pending.add(tenant)
        if not self._flushing and not self._closed:
            self._flushing = True
            self._tasks.spawn(self._flush_later(), name="flush")

    async def close(self) -> None:
        """Write what is pending."""
        self._closed = True
        await self._tasks.close()
        await self._flush()

    async def _flush_later(self) -> None:
        try:
            while self._pending:
                await asyncio.sleep(FLUSH_S)
                await self._flush()
        finally:
            self._flushing = False

    async def _flush(self) -> None:
        for tenant in list(self._pending):
            self._pending.discard(tenant)
            known = self._tenants.get(tenant)
            if known is None:
                continue
            change, known.pending = known.pending, 0
            try:
                await self._write(tenant, "ADD #u :c", change)
            except MeshError as error:
                # Not repeated: what was perhaps added would be added twice. A recount settles it.
                _log.warning("the storage used by a tenant is not counted: %s", error.message)

    async def _read(self, tenant: str) -> _Known:
        known = self._of(tenant)
        if monotonic() - known.read_at >= FRESH_S:
            answer = await self._aws.call(
                "dynamodb",
                "get_item",
                {"TableName": self._table, "Key": self._place(tenant), "ConsistentRead": True},
                effect=Effect.READ,
            )
            item = answer.get("Item")
            known.used = (int(item["used"]["N"]) if item else 0) + known.pending
            known.read_at = monotonic()
        return known

    async def _recount(self, tenant: str, known: _Known) -> None:
        used = sum([await count(tenant) for count in self._counts])
        known.used, known.pending = used, 0
        known.read_at = known.recounted_at = monotonic()
        await self._write(tenant, "SET #u = :c", used)

    async def _write(self, tenant: str, update: str, number: int) -> None:
        await self._aws.call(
            "dynamodb",
            "update_item",
            {
                "TableName": self._table,
                "Key": self._place(tenant),
                "UpdateExpression": update,
                "ExpressionAttributeNames": {"#u": "used"},
                "ExpressionAttributeValues": {":c": {"N": str(number)}},
            },
            effect=Effect.ONCE,
        )

    def _of(self, tenant: str) -> _Known:
        known = self._tenants.get(tenant)
        if known is None:
            known = self._tenants[tenant] = _Known()
            if len(self._tenants) > TENANTS_MAX:
                self._tenants.popitem(last=False)
        self._tenants.move_to_end(tenant)
        return known

    def _place(self, tenant: str) -> dict[str, dict[str, str]]:
        # No tenant id has a slash, so this is no tenant's partition.
        return {"tenant": {"S": f"{tenant}/used"}, "key": {"S": "bytes"}}
