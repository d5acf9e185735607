"""Operations on machines: any spawner receives them, the one that has the machine is asked.

Nothing here goes past tenant and machine: a machine is looked up under the tenant of the request,
so another tenant's and an unknown one are the same miss.
"""

import asyncio
import logging
import os
from collections.abc import Callable

import msgspec

from mcp_proto.contracts.vm_spawner import (
    DRIVERS,
    AuctionRequest,
    Bid,
    Deploy,
    Desired,
    Drivers,
    ListDrivers,
    ListMachines,
    LogLines,
    Logs,
    MachineRecord,
    MachineRef,
    Machines,
    MachineView,
    Spawn,
    Spawned,
    Stop,
    Wanted,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_server_name, is_tenant_id
from vm_spawner.core.machine import RANDOM_BYTES, is_live, is_over, is_vm_id, vm_id
from vm_spawner.core.placement import best, refusal
from vm_spawner.core.refusals import bad
from vm_spawner.core.shape import shape_of
from vm_spawner.handlers.directed import directed
from vm_spawner.spawn.auction import Auction
from vm_spawner.spawn.host import MachineHost
from vm_spawner.spawn.ports import Parts
from vm_spawner.store.peers import Peers

__all__ = ["LOGS_VERB", "USAGE_VERB", "Operations"]

CONFIG_BYTES_MAX = 16 * 1024
LIST_MAX = 1_000
LINES_MAX = 1_000
TTL_MAX_S = 30 * 86_400
DEPLOY_S = 5.0
DIRECTED_S = 2.0
STOP_MARGIN_S = 10.0
LOGS_VERB = "vm-logs"
USAGE_VERB = "vm-usage"
_log = logging.getLogger(__name__)


class Operations:
    """The operations of one spawner.

    Args:
        parts: what machines stand on.
        host: machines of this host.
        peers: who lives.
    """

    def __init__(self, parts: Parts, host: MachineHost, peers: Peers) -> None:
        self._parts = parts
        self._host = host
        self._peers = peers
        self._waiting: dict[str, list[Callable[[MachineRecord], None]]] = {}

    # Make

    async def spawn(self, ask: Spawn) -> Spawned:
        """Place a machine; answers once its record is stored.

        Raises:
            MeshError: ``params`` with the field named; refusals (``core.refusals``).
        """
        desired = self._desired(ask)
        machine = ask.vm_id or vm_id(
            self._parts.config.firecracker.vm_id_prefix, os.urandom(RANDOM_BYTES)
        )
        if not is_vm_id(machine):
            raise bad("/vmId", "letters, digits and hyphens, at most 64")
        if ask.vm_id:
            known = await self._parts.store.find(ask.tenant, machine)
            if known is not None:
                return self._spawned(self._host.view(known))
        request = AuctionRequest(
            vm_id=machine,
            tenant=ask.tenant,
            image=desired.image,
            program=desired.program,
            isolation=Wanted(
                min=desired.isolation_min,
                driver=desired.driver,
                own_kernel=desired.own_kernel,
            ),
            shape=desired.shape,
        )
        bids = await Auction.hold(self._parts.bus, request, self._peers.bidders())
        offers = best(bids)
        if not offers:
            raise refusal(bids, request, self._host.terms)
        return self._spawned(await self._deploy(offers, machine, ask.tenant, desired))

    async def _deploy(
        self, offers: list[Bid], machine: str, tenant: str, desired: Desired
    ) -> MachineView:
        """To the best offer; one that is taken back or silent makes way for the next."""
        problem: MeshError | None = None
        for offer in offers:
            deploy = Deploy(bid=offer.bid, vm_id=machine, tenant=tenant, desired=desired)
            try:
                if offer.spawner == self._parts.bus.instance:
                    return await self._host.deploy(deploy)
                wish = directed(offer.spawner, "deploy", Deploy, MachineView)
                return await self._parts.bus.operation(wish, deploy, timeout_s=DEPLOY_S)
            except MeshError as error:
                problem = error
                # A limit of the tenant is the same everywhere; what may have begun is looked up.
                if error.data.get("reason") == "limit":
                    raise
                known = await self._parts.store.find(tenant, machine)
                if known is not None:
                    return self._host.view(known)
                _log.info("%s did not take %s: %s", offer.spawner, machine, error.message)
        assert problem is not None
        raise problem

    def _spawned(self, view: MachineView) -> Spawned:
        driver = view.record.observed.driver
        return Spawned(machine=view, estimate_ms=self._host.estimate_ms(driver))

    def _desired(self, ask: Spawn) -> Desired:
        vm, wanted = self._parts.config.vm, ask.isolation
        if not is_tenant_id(ask.tenant):
            raise bad("/tenant", "not a tenant")
        if ask.agent and not is_server_name(ask.agent):
            raise bad("/agent", "not a server name")
        if wanted.driver not in ("auto", *DRIVERS):
            raise bad("/isolation/driver", f"one of auto, {', '.join(DRIVERS)}")
        if not 0 <= ask.ttl_s <= TTL_MAX_S:
            raise bad("/ttlS", f"0 to {TTL_MAX_S} seconds")
        config = bytes(ask.config)
        if len(config) > CONFIG_BYTES_MAX or (config and not config.startswith(b"{")):
            raise bad("/config", f"an object of at most {CONFIG_BYTES_MAX} bytes")
        program = ask.program or ("" if ask.image or vm.image else vm.program)
        image = ask.image or ("" if program else vm.image)
        found = self._parts.images.find(image) if image else None
        minimum = wanted.min or vm.min_isolation
        limit = self._parts.config.quota.of(ask.tenant).ttl_max_s
        ttl_s = ask.ttl_s or vm.ttl_s
        if limit and not 0 < ttl_s <= limit:
            if ask.ttl_s:
                raise bad("/ttlS", f"the tenant's limit is {limit} seconds")
            ttl_s = limit
        return Desired(
            image=image if found is None else found.digest,
            program=program,
            agent=ask.agent,
            driver=wanted.driver,
            isolation_min=minimum,
            own_kernel=wanted.own_kernel,
            shape=shape_of(
                ask.resources,
                vm.shape(),
                memory_min_mib=0 if found is None else found.memory_min_mib,
            ),
            ttl_s=ttl_s,
            owner=ask.owner,
            config=ask.config,
        )

    # End

    async def stop(self, ask: Stop) -> MachineView:
        """End a machine in order; answers when it has ended, or its time is over.

        Raises:
            MeshError: ``not_found``.
        """
        vm = self._parts.config.vm
        grace_s = vm.grace_s if ask.grace_s < 0 else min(ask.grace_s, 300.0)

        def end(record: MachineRecord) -> MachineRecord | None:
            if is_over(record):
                return None
            desired = msgspec.structs.replace(record.desired, state="stopped", grace_s=grace_s)
            return msgspec.structs.replace(record, desired=desired)

        await self._found(ask.tenant, ask.vm_id)
        record = await self._parts.store.change(ask.tenant, ask.vm_id, end)
        if record is None:
            raise _unknown()
        if is_live(record):
            self._host.nudge(record)
            record = await self._ended(record, grace_s + STOP_MARGIN_S)
        return self._host.view(record)

    async def kill(self, ask: MachineRef) -> MachineView:
        """End a machine at once.

        Raises:
            MeshError: ``not_found``.
        """
        return await self.stop(Stop(tenant=ask.tenant, vm_id=ask.vm_id, grace_s=0.0))

    async def _ended(self, record: MachineRecord, timeout_s: float) -> MachineRecord:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look(changed: MachineRecord) -> None:
            if is_over(changed) and not over.done():
                over.set_result(None)

        waiting = self._waiting.setdefault(record.vm_id, [])
        waiting.append(look)
        try:
            now = self._parts.store.known(record.tenant, record.vm_id)
            if now is not None and is_live(now):
                await asyncio.wait({over}, timeout=timeout_s)
        finally:
            waiting.remove(look)
            if not waiting:
                self._waiting.pop(record.vm_id, None)
        return self._parts.store.known(record.tenant, record.vm_id) or record

    def on_change(self, record: MachineRecord) -> None:
        """A record was written, here or elsewhere."""
        for look in self._waiting.get(record.vm_id, ()):
            look(record)

    # Look

    async def list(self, ask: ListMachines) -> Machines:
        """Machines of a tenant, or of all."""
        found = [
            record
            for record in self._parts.store.all()
            if (not ask.tenant or record.tenant == ask.tenant) and (ask.ended or is_live(record))
        ]
        found.sort(key=lambda one: (one.observed.created_ms, one.vm_id), reverse=True)
        limit = max(1, min(ask.limit, LIST_MAX))
        return Machines(
            machines=tuple(self._host.view(one) for one in found[:limit]),
            more=len(found) > limit,
        )

    async def status(self, ask: MachineRef) -> MachineView:
        """One machine, with what it takes now where its host says so.

        Raises:
            MeshError: ``not_found``.
        """
        record = await self._found(ask.tenant, ask.vm_id)
        if not is_live(record):
            return self._host.view(record)
        if record.observed.host == self._parts.bus.instance:
            return await self.usage(ask)
        try:
            wish = directed(record.observed.host, USAGE_VERB, MachineRef, MachineView)
            return await self._parts.bus.operation(wish, ask, timeout_s=DIRECTED_S)
        except MeshError as error:
            _log.info("no usage of %s: %s", ask.vm_id, error.message)
            return self._host.view(record)

    async def usage(self, ask: MachineRef) -> MachineView:
        """One machine of this host.

        Raises:
            MeshError: ``not_found``.
        """
        record = await self._found(ask.tenant, ask.vm_id)
        view, machine = self._host.view(record), self._host.get(ask.vm_id)
        if machine is None:
            return view
        now = await machine.usage()
        return msgspec.structs.replace(
            view, cpu_s=now.cpu_s, memory_bytes=now.memory_bytes, pids=now.pids
        )

    async def logs(self, ask: Logs) -> LogLines:
        """The last lines of a console; of a machine that ended, those in its record.

        Raises:
            MeshError: ``not_found``; or its host does not answer.
        """
        record = await self._found(ask.tenant, ask.vm_id)
        if not is_live(record):
            return LogLines(lines=_last(record.observed.console, ask.lines), live=False)
        if record.observed.host == self._parts.bus.instance:
            return await self.console(ask)
        wish = directed(record.observed.host, LOGS_VERB, Logs, LogLines)
        return await self._parts.bus.operation(wish, ask, timeout_s=DIRECTED_S)

    async def console(self, ask: Logs) -> LogLines:
        """The console of a machine of this host.

        Raises:
            MeshError: ``not_found``.
        """
        record, machine = await self._found(ask.tenant, ask.vm_id), self._host.get(ask.vm_id)
        if machine is None or machine.tenant != ask.tenant:
            return LogLines(lines=_last(record.observed.console, ask.lines), live=is_live(record))
        text = machine.console.tail.decode("utf-8", "replace")
        return LogLines(lines=_last(text, ask.lines), dropped=machine.console.dropped)

    async def drivers(self, _ask: ListDrivers) -> Drivers:
        """What this host can do, and why not more."""
        return Drivers(spawner=self._parts.bus.instance, drivers=self._host.drivers())

    async def _found(self, tenant: str, machine: str) -> MachineRecord:
        if not is_vm_id(machine) or not tenant:
            raise _unknown()
        record = self._parts.store.known(tenant, machine)
        record = record or await self._parts.store.find(tenant, machine)
        if record is None:
            raise _unknown()
        return record


def _unknown() -> MeshError:
    return MeshError(ErrorKind.NOT_FOUND, "unknown machine")


def _last(text: str, lines: int) -> tuple[str, ...]:
    return tuple(text.splitlines()[-max(1, min(lines, LINES_MAX)) :])
