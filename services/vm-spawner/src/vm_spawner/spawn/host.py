"""The machines of this host: what it offers, what it takes, what it runs."""

import asyncio
import os
import secrets
from collections.abc import Iterable

import msgspec

from mcp_proto.contracts.vm_spawner import (
    BID_S,
    AuctionRequest,
    Bid,
    Deploy,
    DriverView,
    MachineRecord,
    MachineView,
    Wanted,
)
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from vm_spawner.core.machine import is_live, is_over, is_vm_id, moved, requested, wanted_gone
from vm_spawner.core.placement import Capacity, Terms, driver_for, offer
from vm_spawner.core.refusals import refused
from vm_spawner.spawn.machine import Machine
from vm_spawner.spawn.ports import Parts

__all__ = ["MachineHost", "memory_of_host", "view"]

BIDS_MAX = 1_000
"""Offers that stand at once; the oldest falls first."""
DRAIN_GRACE_S = 2.0
"""What machines get to finish when their spawner is stopped; the chassis gives hooks 3 s."""
SMOOTHING = 0.3
"""Weight of the newest spawn in the moving average."""
_HOST_SHARE = 0.75


class _Offer(msgspec.Struct, frozen=True):
    vm_id: str
    driver: str
    isolation: str
    until: float


class MachineHost:
    """This spawner's machines.

    Args:
        parts: what they stand on.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._machines: dict[str, Machine] = {}
        self._offers: dict[str, _Offer] = {}
        self._estimates: dict[str, float] = {}
        self._reserving: set[str] = set()
        self.draining = False
        vm = parts.config.vm
        self._cpu = (vm.host_cpu or float(os.cpu_count() or 1)) * vm.oversubscribe.cpu
        memory = vm.host_memory_mib or int(memory_of_host() * _HOST_SHARE)
        self._mem_mib = int(memory * vm.oversubscribe.memory)
        self._boots = vm.boots or os.cpu_count() or 1
        self.terms = Terms(
            least=vm.min_isolation, allow_emulated=vm.allow_emulated, driver=vm.driver
        )

    def __contains__(self, vm_id: str) -> bool:
        """Whether this host has it, or is about to."""
        return vm_id in self._machines or vm_id in self._reserving

    def __len__(self) -> int:
        """Machines of this host."""
        return len(self._machines)

    def get(self, vm_id: str) -> Machine | None:
        """A machine of this host."""
        return self._machines.get(vm_id)

    def estimate_ms(self, driver: str) -> float | None:
        """Until ready, by what was measured; None = no samples."""
        return self._estimates.get(driver)

    def drivers(self) -> tuple[DriverView, ...]:
        """What each driver said when it was tried; those that are off too."""
        return tuple(
            DriverView(
                driver=name,
                available=report.available,
                reason=report.reason,
                isolation=report.isolation,
                enabled=name in self._parts.drivers,
                limits=report.limits,
                features=report.features,
                versions=report.versions,
            )
            for name, report in self._parts.reports.items()
        )

    def capacity(self) -> Capacity:
        """What is left."""
        running = self._machines.values()
        return Capacity(
            vcpu=round(self._cpu - sum(one.shape.cpu for one in running), 3),
            mem_mib=self._mem_mib
            - sum(one.shape.mem_mib + self._overhead(one.driver) for one in running),
            boots=self._boots - sum(one.booting for one in running) - len(self._reserving),
        )

    # Auction and deploy

    def bid(self, request: AuctionRequest) -> Bid:
        """Answer an auction; an offer stands for ``BID_S``."""
        spawner = self._parts.bus.instance
        if self.draining:
            return Bid(spawner=spawner, declined="draining", message="this host drains")
        missing = self._missing(request.image, request.program)
        if missing:
            what, message = missing
            return Bid(spawner=spawner, declined=what, message=message)
        bid = offer(
            request,
            spawner=spawner,
            bid=secrets.token_hex(8),
            drivers=self.drivers(),
            capacity=self.capacity(),
            terms=self.terms,
            estimates=self._estimates,
        )
        if bid.bid:
            self._keep(bid, request.vm_id)
        return bid

    async def deploy(self, ask: Deploy) -> MachineView:
        """Make a machine that was bid for; the same ``vmId`` again is the same machine.

        Returns:
            The machine as admitted; it comes up meanwhile.

        Raises:
            MeshError: ``request``: no such offer stands; refusals of quota and capacity.
        """
        if not is_vm_id(ask.vm_id):
            raise MeshError(ErrorKind.PARAMS, "/vmId: letters, digits and hyphens, at most 64")
        stands = self._offers.pop(ask.bid, None)
        if stands is None or stands.vm_id != ask.vm_id or stands.until < self._parts.clock():
            known = await self._parts.store.find(ask.tenant, ask.vm_id)
            if known is not None:
                return self.view(known)
            raise MeshError(ErrorKind.REQUEST, "no such bid stands", outcome=Outcome.NOT_EXECUTED)
        if ask.vm_id in self:
            raise MeshError(ErrorKind.OVERLOADED, "that machine begins", retry_after_s=0.2)
        self._fits(ask, stands)
        self._reserving.add(ask.vm_id)
        try:
            record = await self._reserve(ask, stands)
        finally:
            self._reserving.discard(ask.vm_id)
        if record.observed.state == "admitted" and self._mine(record):
            self._run(record)
        return self.view(record)

    async def _reserve(self, ask: Deploy, stands: _Offer) -> MachineRecord:
        """Record and share; what is refused leaves nothing."""
        parts, bus = self._parts, self._parts.bus
        parts.point("reserve.begin")
        record = requested(
            ask.vm_id,
            ask.tenant,
            ask.desired,
            host=bus.instance,
            boot=bus.boot,
            now_ms=parts.now_ms(),
        )
        if not await parts.store.create(record):
            known = parts.store.known(ask.tenant, ask.vm_id)
            if known is None:
                raise MeshError(
                    ErrorKind.OVERLOADED, "that machine begins or ends", retry_after_s=0.5
                )
            return known
        parts.point("reserve.recorded")
        limits = parts.config.quota.of(ask.tenant)
        try:
            await parts.quotas.admit(ask.tenant, ask.vm_id, ask.desired.shape, limits)
        except MeshError:
            await parts.store.remove(ask.tenant, ask.vm_id)
            raise
        parts.point("reserve.shared")
        admitted = await parts.store.change(
            ask.tenant,
            ask.vm_id,
            lambda found: moved(
                found,
                "admitted",
                driver=stands.driver,
                isolation=stands.isolation,
                limits=parts.reports[stands.driver].limits,
            ),
        )
        assert admitted is not None
        parts.point("reserve.admitted")
        return admitted

    def _run(self, record: MachineRecord) -> None:
        machine = Machine(self._parts, record)
        machine.work.mark("admitted")
        self._machines[record.vm_id] = machine
        if self.draining:
            machine.end("drained")

        async def live() -> None:
            try:
                await machine.run()
            finally:
                self._machines.pop(record.vm_id, None)
                self._learn(machine)

        self._parts.tasks.spawn(live(), name="machine")
        self.nudge(record)

    def _learn(self, machine: Machine) -> None:
        took = machine.work.timings.ready
        if took is not None:
            before = self._estimates.get(machine.driver, took)
            self._estimates[machine.driver] = before + SMOOTHING * (took - before)

    # Nudges

    def nudge(self, record: MachineRecord) -> None:
        """A record has changed: whether its machine shall end."""
        machine = self._machines.get(record.vm_id)
        if machine is None or machine.tenant != record.tenant or is_over(record):
            return
        if wanted_gone(record, self._parts.now_ms()) == "asked":
            machine.end("asked", record.desired.grace_s)

    def silent(self, vm_id: str) -> None:
        """The agent inside gave no sign of life, and does not answer."""
        machine = self._machines.get(vm_id)
        if machine is not None and machine.ready:
            machine.end("beats", 0.0)

    async def drain(self) -> None:
        """End every machine in order; they end with their spawner."""
        self.draining = True
        running = list(self._machines.values())
        for machine in running:
            machine.end("drained", min(DRAIN_GRACE_S, self._parts.config.vm.grace_s))
        await asyncio.gather(*(machine.over.wait() for machine in running))

    # Looking

    def view(self, record: MachineRecord) -> MachineView:
        """A machine as callers see it."""
        return view(record, draining=self.draining and self._mine(record) and is_live(record))

    def ids(self) -> Iterable[str]:
        """Machines of this host, and those about to be."""
        return (*self._machines, *self._reserving)

    def _mine(self, record: MachineRecord) -> bool:
        bus = self._parts.bus
        return (record.observed.host, record.observed.boot) == (bus.instance, bus.boot)

    def _keep(self, bid: Bid, vm_id: str) -> None:
        until = self._parts.clock() + BID_S
        self._offers[bid.bid] = _Offer(vm_id, bid.driver, bid.isolation, until)
        while len(self._offers) > BIDS_MAX:
            self._offers.pop(next(iter(self._offers)))

    def _fits(self, ask: Deploy, stands: _Offer) -> None:
        """Whether there is still room: an offer promises nothing that a second one did not."""
        if self.draining:
            raise refused("capacity", "this host drains", retry_after_s=1.0)
        left, shape = self.capacity(), ask.desired.shape
        if shape.cpu > left.vcpu or shape.mem_mib + self._overhead(stands.driver) > left.mem_mib:
            raise refused("capacity", "the room was taken meanwhile", retry_after_s=1.0)
        if left.boots < 1:
            raise MeshError(
                ErrorKind.OVERLOADED, "as many machines boot as this host can", retry_after_s=1.0
            )
        allowed = self._parts.config.quota.of(ask.tenant).drivers
        if allowed and stands.driver not in allowed:
            raise refused("isolation", f"the tenant may not use driver {stands.driver}", min="")
        # What was asked is checked again: the asker chose among offers, not among classes.
        wanted = Wanted(
            min=ask.desired.isolation_min,
            driver=ask.desired.driver,
            own_kernel=ask.desired.own_kernel,
        )
        request = AuctionRequest(
            vm_id=ask.vm_id, tenant=ask.tenant, image=ask.desired.image, isolation=wanted
        )
        chosen = driver_for(
            request, (one for one in self.drivers() if one.driver == stands.driver), self.terms
        )
        if chosen is None or self._missing(ask.desired.image, ask.desired.program):
            raise refused("isolation", "the offer was for another machine", min=wanted.min)

    def _missing(self, image: str, program: str) -> tuple[str, str] | None:
        if image and self._parts.images.find(image) is None:
            return "image", f"no host has an image {image}"
        if program and all(one.name != program for one in self._parts.config.programs):
            return "program", f"no host has a program {program}"
        if not image and not program:
            return "program", "without an image a machine needs a program"
        return None

    def _overhead(self, driver: str) -> int:
        report = self._parts.reports.get(driver)
        return 0 if report is None else report.overhead_mib


def view(record: MachineRecord, *, draining: bool = False) -> MachineView:
    """A record as callers see it; what the program was told stays with it."""
    return MachineView(record=record, draining=draining)


def memory_of_host() -> int:
    """MiB of memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
