"""Tasks whose runner died: marked failed, outcome unknown, by whichever runner sees it first.

Idempotent and without input: every runner does the same, the compare-and-set lets one win.
"""

import asyncio
import logging
import random

from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from tool_runner.core import tasks as life
from tool_runner.tasks.owners import Owners
from tool_runner.tasks.store import Conflict, TaskStore

__all__ = ["Reconciler"]

_log = logging.getLogger(__name__)


class Reconciler:
    """Looks after foreign tasks.

    Args:
        bus: connection.
        store: the records.
        owners: tells who is dead.
        every_s: interval between looks; jittered, so that runners do not look at once.
    """

    def __init__(self, bus: Bus, store: TaskStore, owners: Owners, *, every_s: float) -> None:
        self._bus = bus
        self._store = store
        self._owners = owners
        self._every_s = every_s

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            try:
                await self.look()
            except MeshError as error:
                _log.info("tasks were not looked after: %s", error.message)
            await asyncio.sleep(self._every_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def look(self) -> int:
        """One look; how many tasks were marked as lost.

        Raises:
            MeshError: no answer from the broker.
        """
        by_owner: dict[tuple[str, str], list[str]] = {}
        own = (self._bus.instance, self._bus.boot)
        for key, seen in self._store.seen.items():
            owner = (seen.owner, seen.boot)
            if seen.status == "working" and seen.owner and owner != own:
                by_owner.setdefault(owner, []).append(key)
        marked = 0
        for owner, keys in by_owner.items():
            if await self._owners.dead(*owner):
                for key in keys:
                    marked += await self._mark(key, owner)
        return marked

    async def _mark(self, key: str, owner: tuple[str, str]) -> bool:
        stored = await self._store.at(key)
        if stored is None or stored.record.status != "working":
            return False
        record = stored.record
        if (record.owner, record.boot) != owner:
            return False
        now = self._bus.server_now_ms()
        failed = life.lost(record, f"the runner {owner[0]} was lost in mid-call", now)
        try:
            await self._store.update(failed, stored.revision, now)
        except Conflict:
            return False
        _log.warning("a task lost its runner", extra={"task": record.id, "runner": owner[0]})
        return True
