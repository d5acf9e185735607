"""All swarms as one replica sees them: which it owns, which others own, which nobody does.

A replica takes over what is free (its lease was given back or is over), what belonged to a process
that the broker knows no more, and what a call needs whose owner does not answer. Taking over early
is safe: the first append fences whoever was the owner before.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from mcp_proto.buckets import swarm_lease_key
from mcp_proto.contracts.swarm import Bid
from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.instance import answers
from mesh_chassis.clock import monotonic
from mesh_chassis.lease import Lease
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core import turn
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.records import SwarmRecord, swarm_key
from swarm_coordinator.core.state import SwarmState
from swarm_coordinator.handlers.ports import Caller, SwarmLimits
from swarm_coordinator.orchestrator.alone import alone
from swarm_coordinator.orchestrator.forwards import Forwards
from swarm_coordinator.orchestrator.owner import SwarmOwner, new_handle
from swarm_coordinator.orchestrator.parts import Parts
from swarm_coordinator.orchestrator.spawning import offers
from swarm_coordinator.orchestrator.subscriptions import Serve
from swarm_coordinator.orchestrator.takeover import Takeover
from swarm_coordinator.store.objects import sweep

__all__ = ["SwarmDirectory"]

TAKEOVERS_AT_ONCE = 4
"""Swarms that are read at once: each fold keeps the loop for up to half a second."""
SPREAD_S = 0.05
"""Replicas that see a free swarm at the same moment do not all ask for it at once."""
REST_S = 30.0
"""A swarm without agents and open tasks is let go after this: nothing happens to it by itself."""
TAKING_S = 5.0
"""On a stop: for takeovers that have begun."""
AGAIN_S = 30.0
"""A swarm that could not be taken (no room for its log, a log nobody can read) is left so long."""
SHORT_S = 10.0
"""An owner that ends so soon would end again: each takeover writes into the log."""
LOOK_S = 5.0
FORGET_SPREAD_S = 5.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


class SwarmDirectory:
    """Implements ``handlers.ports.Swarms``.

    Args:
        parts: what all owners share.
        tasks: parent of what runs.
        answer: makes the handler of an ``OwnerCall`` for an owner.
    """

    def __init__(
        self, parts: Parts, tasks: Tasks, *, answer: Callable[[SwarmOwner], Serve]
    ) -> None:
        self._parts = parts
        self._tasks = tasks
        self._owners: dict[str, SwarmOwner] = {}
        self._taking: dict[str, asyncio.Task[SwarmOwner | MeshError | None]] = {}
        self._room = asyncio.Semaphore(TAKEOVERS_AT_ONCE)
        self._draining = False
        self._takeover = Takeover(parts, answer=answer)
        self._resting: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._forwards = Forwards()
        parts.leases.on_free = self._on_free
        parts.leases.on_moved = self._forwards.moved
        parts.swarms.on_forgotten = self._on_forgotten

    # handlers.ports.Swarms

    @property
    def instance(self) -> str:
        """Id of this replica."""
        return self._parts.bus.instance

    @property
    def node(self) -> str:
        """Machine of this replica."""
        return self._parts.node

    @property
    def limits(self) -> SwarmLimits:
        """Of swarms that are made from now on."""
        section = self._parts.config.swarm
        return SwarmLimits(max_agents=section.max_agents, agent_timeout_s=section.agent_timeout_s)

    def now_ms(self) -> int:
        """Unix time on the broker's clock."""
        return self._parts.bus.server_now_ms()

    def monotonic(self) -> float:
        """Seconds, for deadlines."""
        return monotonic()

    def new_id(self, prefix: str) -> str:
        """A handle."""
        return new_handle(prefix, self.now_ms())

    def alone(self, caller: Caller, key: str) -> AbstractAsyncContextManager[Lease]:
        """See ``ports.Swarms.alone``."""
        return alone(self._parts.leases, caller.tenant, caller.principal, key)

    async def create(self, caller: Caller, events: Sequence[Event]) -> SwarmOwner:
        """Begin a swarm; it exists for every replica when this returns.

        Raises:
            MeshError: ``overloaded`` while draining or at the limit of swarms; ``lost`` when
                nobody knows whether it was made, and what the stores say.
        """
        self._check_room()
        state = turn.begin(events)
        key = swarm_key(state.tenant, state.swarm)
        owner = await self._takeover.begin(state, events)
        self._add(key, owner)
        try:
            await owner.write_record()
        except MeshError:
            await self._drop(key, owner)
            raise
        return owner

    async def of(self, caller: Caller, swarm: str) -> SwarmOwner | None:
        """The owner if it is this replica, taking the swarm over where nobody has it.

        None also for a swarm that the caller has not.

        Raises:
            MeshError: nobody has it, and it cannot be read.
        """
        record = await self._parts.swarms.find(caller.tenant, swarm)
        if record is None or record.principal != caller.principal:
            return None
        return await self.owner_of(record)

    async def owner_of(self, record: SwarmRecord, *, gone: bool = False) -> SwarmOwner | None:
        """The owner of a swarm if it is, or becomes, this replica.

        Args:
            record: of the swarm.
            gone: whoever holds the lease does not answer.

        Raises:
            MeshError: as ``of``.
        """
        key = swarm_key(record.tenant, record.swarm)
        owner = self._owners.get(key)
        if owner is not None and not owner.over:
            return owner
        holder = self._parts.leases.holder(record.tenant, record.swarm)
        if self._draining or (holder not in ("", self.instance) and not gone):
            return None
        return await self._take(record, "gone" if gone else "own" if holder else "free")

    async def elsewhere(self, record: SwarmRecord, answer: Awaitable[T]) -> T:
        """Wait for an answer of an owner that is another process.

        Raises:
            OwnerGone: it is none any more.
        """
        return await self._forwards.during(swarm_lease_key(record.tenant, record.swarm), answer)

    async def default(self, caller: Caller) -> str:
        """Id of the caller's newest swarm that lives; "" = none.

        Raises:
            MeshError: no answer from the broker.
        """
        await self._parts.swarms.caught_up()
        for record in self._parts.swarms.of(caller.tenant, caller.principal):
            owner = self._owners.get(swarm_key(record.tenant, record.swarm))
            if record.status == "active" and (owner is None or owner.state.status == "active"):
                return record.swarm
        return ""

    async def records(self, caller: Caller) -> list[SwarmRecord]:
        """The caller's swarms, newest first.

        Raises:
            MeshError: no answer from the broker.
        """
        await self._parts.swarms.caught_up()
        return self._parts.swarms.of(caller.tenant, caller.principal)

    async def offers(self, caller: Caller) -> list[Bid]:
        """What every live host says of itself.

        Raises:
            MeshError: ``bus``.
        """
        return await offers(self._parts.bus, self._parts.hosts, caller.tenant)

    async def find(self, tenant: str, swarm: str) -> SwarmRecord | None:
        """The record of a swarm.

        Raises:
            MeshError: no answer from the broker.
        """
        return await self._parts.swarms.find(tenant, swarm)

    async def task_record(self, tenant: str, principal: str, task: str) -> TaskRecord | None:
        """The record of a task, which names its swarm (``upstream``).

        Raises:
            MeshError: no answer from the broker.
        """
        return await self._parts.records().read(tenant, principal, task)

    # Its life

    @property
    def owners(self) -> list[SwarmOwner]:
        """Of the swarms owned here."""
        return list(self._owners.values())

    @property
    def keeps_up(self) -> bool:
        """Whether no log of an owned swarm is so far behind that inputs are refused."""
        return not any(owner.actor.journal.full for owner in self._owners.values())

    async def run(self) -> None:
        """Take what is free, and probe those who own the rest; for ever."""
        for record in self._parts.swarms.all():
            self._consider(record)
        probe_s = self._parts.config.lease.probe_s
        looked = monotonic()
        while True:
            await asyncio.sleep(probe_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load
            await self._probe_holders()
            if monotonic() - looked >= LOOK_S:
                looked = monotonic()
                self._look_around()

    async def drain(self) -> None:
        """Give every swarm back, in order; another replica goes on at once."""
        self._draining = True
        owners, self._owners = list(self._owners.values()), {}
        await asyncio.gather(*(owner.hand_over() for owner in owners), return_exceptions=True)
        if self._taking:
            # What is being taken this moment is given back as soon as it is owned.
            await asyncio.wait(set(self._taking.values()), timeout=TAKING_S)
        await self._parts.grants.flush()

    async def close(self) -> None:
        """Stop without order what is still owned."""
        self._draining = True
        owners, self._owners = list(self._owners.values()), {}
        await asyncio.gather(*(owner.abandon() for owner in owners), return_exceptions=True)

    def _check_room(self) -> None:
        if self._draining:
            raise MeshError(ErrorKind.OVERLOADED, "the coordinator stops", retry_after_s=0.5)
        most = self._parts.config.limits.swarms
        if len(self._owners) >= most:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"this coordinator drives {most} swarms, as many as it may",
                data={"limit": most},
                retry_after_s=5.0,
            )

    def _add(self, key: str, owner: SwarmOwner) -> None:
        self._owners[key] = owner
        self._tasks.spawn(self._follow(key, owner), name="follow-owner")

    async def _follow(self, key: str, owner: SwarmOwner) -> None:
        began = monotonic()
        await owner.actor.over.wait()
        if self._owners.get(key) is not owner:
            return  # handed over, or dropped
        await self._drop(key, owner)
        if monotonic() - began < SHORT_S:
            self._not_before[key] = monotonic() + SHORT_S
        record = self._parts.swarms.get(owner.state.tenant, owner.state.swarm)
        if record is not None and not self._draining:
            await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - spreads load
            self._consider(record)

    async def _drop(self, key: str, owner: SwarmOwner) -> None:
        if self._owners.get(key) is owner:
            del self._owners[key]
        await owner.abandon()

    def _on_free(self, key: str) -> None:
        for record in self._parts.swarms.all():
            if key == f"swarm.{swarm_key(record.tenant, record.swarm)}":
                self._consider(record)
                return

    def _on_forgotten(self, record: SwarmRecord) -> None:
        if not self._draining:
            self._tasks.spawn(self._forget(record), name="forget-swarm")

    async def _forget(self, record: SwarmRecord) -> None:
        """Free what a destroyed swarm has stored; every replica does, and repeats do no harm."""
        await asyncio.sleep(random.uniform(0.0, FORGET_SPREAD_S))  # noqa: S311 - spreads load
        parts = self._parts
        try:
            await parts.memory(record.tenant).forget(record.swarm)
            log, _ = self._takeover.log_of(record.tenant, record.swarm)
            await log.remove()
            await sweep(parts.bus, record.tenant, record.swarm, "")
        except MeshError as error:
            _log.warning("swarm %s is not wholly forgotten: %s", record.swarm, error.message)

    def _consider(self, record: SwarmRecord) -> None:
        """Take a swarm in the background if nobody has it, and something can happen to it."""
        if self._draining or not (record.agents or record.tasks):
            return
        if len(self._owners) >= self._parts.config.limits.swarms:
            return
        key = swarm_key(record.tenant, record.swarm)
        if key in self._owners or monotonic() < self._not_before.get(key, 0.0):
            return
        holder = self._parts.leases.holder(record.tenant, record.swarm)
        if holder in ("", self.instance):
            cause = "own" if holder else "free"
            self._tasks.spawn(self._take_quietly(record, cause), name="take-swarm")

    async def _take_quietly(self, record: SwarmRecord, cause: str) -> None:
        await asyncio.sleep(random.uniform(0.0, SPREAD_S))  # noqa: S311 - spreads load
        try:
            await self._take(record, cause)
        except MeshError as error:
            key = swarm_key(record.tenant, record.swarm)
            self._not_before[key] = monotonic() + AGAIN_S
            _log.warning("swarm %s is not taken over: %s", record.swarm, error.message)

    async def _take(self, record: SwarmRecord, cause: str) -> SwarmOwner | None:
        """Take a swarm over; those who ask for the same meanwhile get the same answer."""
        key = swarm_key(record.tenant, record.swarm)
        taking = self._taking.get(key)
        if taking is None:
            self._check_room()
            taking = self._tasks.spawn(self._taken(key, record, cause), name="take-over")
            self._taking[key] = taking
            taking.add_done_callback(lambda _done: self._taking.pop(key, None))
        taken = await asyncio.shield(taking)
        if isinstance(taken, MeshError):
            raise taken
        return taken

    async def _taken(
        self, key: str, record: SwarmRecord, cause: str
    ) -> SwarmOwner | MeshError | None:
        async with self._room:
            known = self._owners.get(key)
            if known is not None and not known.over:
                return known
            holder = ""
            if cause != "free":
                holder = self._parts.leases.holder(record.tenant, record.swarm)
            try:
                owner = await self._takeover.take(record, holder=holder)
            except MeshError as error:
                return error  # to everybody who waits
            if owner is None:
                return None
            if self._draining:
                await owner.hand_over()
                return None
            self._add(key, owner)
            self._parts.metrics.add("mesh_swarm_takeovers", cause)
            return owner

    async def _probe_holders(self) -> None:
        """Swarms of a process that the broker does not know are taken before their leases end."""
        for holder in sorted(self._parts.leases.holders() - {self.instance}):
            if await answers(self._parts.bus, holder) is not False:
                continue
            await asyncio.sleep(random.uniform(0.1, 0.2))  # noqa: S311 - spreads load
            if await answers(self._parts.bus, holder) is not False:
                continue
            _log.info("replica %s is gone", holder)
            held = set(self._parts.leases.held_by(holder))
            for record in self._parts.swarms.all():
                key = f"swarm.{swarm_key(record.tenant, record.swarm)}"
                if key in held and (record.agents or record.tasks) and not self._draining:
                    self._tasks.spawn(self._take_quietly(record, "gone"), name="take-swarm")

    def _look_around(self) -> None:
        """Swarms that nobody took although they are free, and owned ones that can rest."""
        for record in self._parts.swarms.all():
            if self._parts.leases.holder(record.tenant, record.swarm) == "":
                self._consider(record)
        now = monotonic()
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        for key, owner in list(self._owners.items()):
            if not _at_rest(owner.state):
                self._resting.pop(key, None)
            elif now - self._resting.setdefault(key, now) >= REST_S:
                del self._resting[key]
                del self._owners[key]
                self._tasks.spawn(owner.hand_over(), name="let-go")


def _at_rest(state: SwarmState) -> bool:
    return all(agent.status == "terminated" for agent in state.agents.values()) and all(
        task.ended for task in state.tasks.values()
    )
