"""What exists is made to fit what should, from the records and the host alone; also after a crash.

It takes no input: nothing tells it what went wrong. It runs before this spawner takes work, when
something changed, and every minute. Each round is idempotent; one round is enough.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from mcp_proto.contracts.vm_spawner import MachineRecord, Shape
from mcp_proto.errors import MeshError
from mesh_chassis.bus.instance import answers
from vm_spawner.core.machine import ended, is_live
from vm_spawner.drivers.machine import Handle
from vm_spawner.spawn.directories import Trace
from vm_spawner.spawn.host import MachineHost
from vm_spawner.spawn.ports import Parts

__all__ = ["Reconciler"]

NUDGE_S = 0.2
"""Changes are gathered so long."""
_log = logging.getLogger(__name__)


class Reconciler:
    """Finds and removes what nobody owns.

    Args:
        parts: what machines stand on.
        host: machines that this process has.
        lives: whether another spawner lives.
    """

    def __init__(self, parts: Parts, host: MachineHost, lives: Callable[[str], bool]) -> None:
        self._parts = parts
        self._host = host
        self._lives = lives
        self._nudged = asyncio.Event()
        self._missing: dict[str, float] = {}
        self.leaks = 0
        """Remains that could not be removed in the last round."""

    def nudge(self) -> None:
        """Look soon."""
        self._nudged.set()

    async def run(self) -> None:
        """Look again and again."""
        while True:
            try:
                async with asyncio.timeout(self._parts.config.vm.reconcile_s):
                    await self._nudged.wait()
                    await asyncio.sleep(NUDGE_S)
            except TimeoutError:
                pass
            self._nudged.clear()
            try:
                await self.once()
            except MeshError as error:
                _log.warning("the round is not over: %s", error.message)

    async def once(self) -> None:
        """One round: remains on the host, records without a machine, shares without a record.

        Raises:
            MeshError: the broker does not answer; the host is clean then.
        """
        await self._remains()
        for record in self._parts.store.all():
            code = self._orphaned(record)
            if code and await self._gone(record.observed.host):
                await self._bury(record, code)
        await self._shares()

    # On this host

    async def _remains(self) -> None:
        """Everything local that no machine of this process owns."""
        self.leaks = 0
        traces = {trace.vm_id: trace for trace in self._parts.directories.all()}
        handles: dict[str, list[tuple[str, Handle]]] = defaultdict(list)
        for name, driver in self._parts.drivers.items():
            for orphan in await driver.scan():
                handles[orphan.vm_id].append((name, orphan.handle))
        for vm_id in sorted({*traces, *handles}):
            if vm_id in self._host:
                continue
            trace = traces.get(vm_id)
            if trace is not None and trace.handle is not None:
                handles[vm_id].insert(0, (trace.handle.driver, trace.handle))
            try:
                await self._remove(vm_id, handles[vm_id], trace)
            except (MeshError, OSError) as error:
                self.leaks += 1
                _log.error("remains of %s stay: %s", vm_id, error)

    async def _remove(
        self, vm_id: str, handles: list[tuple[str, Handle]], trace: Trace | None
    ) -> None:
        for name, handle in handles:
            driver = self._parts.drivers.get(name)
            if driver is None:
                _log.error("%s was made by driver %s, which is not enabled", vm_id, name)
                continue
            await driver.destroy(handle)
        if trace is not None:
            await self._parts.links.forget(vm_id)
            self._parts.directories.remove(vm_id)
        self._parts.count("mesh_vm_reaped", handles[0][0] if handles else "directory")
        _log.warning("remains of machine %s were removed", vm_id)

    # Records

    def _orphaned(self, record: MachineRecord) -> str:
        """Why a living record stands for nothing; "" = it stands for something."""
        observed, bus = record.observed, self._parts.bus
        if not is_live(record):
            return ""
        if observed.host == bus.instance:
            return "" if record.vm_id in self._host else "spawner_lost"
        return "" if self._lives(observed.host) else "spawner_lost"

    async def _gone(self, spawner: str) -> bool:
        """Whether a spawner without a heartbeat is really dead: heartbeats can be lost together.

        The broker that lost its memory bucket still knows who is connected.
        """
        bus = self._parts.bus
        return spawner == bus.instance or await answers(bus, spawner) is False

    async def _bury(self, record: MachineRecord, code: str) -> None:
        parts = self._parts

        def make(found: MachineRecord) -> MachineRecord | None:
            if found.observed != record.observed:
                return None
            return ended(
                found,
                "lost",
                code=code,
                reason=f"its spawner {found.observed.host} is gone",
                now_ms=parts.now_ms(),
                phase=_PHASES.get(found.observed.state, "run"),
            )

        await parts.quotas.release(record.tenant, record.vm_id)
        await parts.store.change(record.tenant, record.vm_id, make)

    # Shares

    async def _shares(self) -> None:
        living: dict[str, dict[str, Shape]] = defaultdict(dict)
        for record in self._parts.store.all():
            if is_live(record):
                living[record.tenant][record.vm_id] = record.desired.shape
        for tenant in {*living, *await self._parts.quotas.tenants()}:
            if await self._parts.quotas.recount(tenant, living[tenant]):
                _log.warning("the shares of tenant %s were mended", tenant)
                self._parts.count("mesh_vm_quota_drift")


_PHASES = {
    "requested": "reserve",
    "admitted": "image",
    "creating": "boot",
    "booting": "boot",
    "handshake": "hello",
}
