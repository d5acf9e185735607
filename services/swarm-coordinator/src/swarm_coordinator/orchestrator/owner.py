"""The owner of one swarm, as tools see it, with everything that runs for it."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence

import msgspec

from mcp_proto import ids
from mcp_proto.contracts.swarm import AgentCommand, Commanded, Mail, Spawned
from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.clock import monotonic
from mesh_chassis.lease import Lease
from mesh_chassis.tasks import Tasks
from swarm_coordinator.core.effects import Effect, GrantEnded, TaskChanged
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.state import SwarmState, TaskState
from swarm_coordinator.handlers.ports import Caller, Memory, Reported
from swarm_coordinator.handlers.task_log import History
from swarm_coordinator.orchestrator.actor import Actor
from swarm_coordinator.orchestrator.counts import count
from swarm_coordinator.orchestrator.history import history_in, log_of
from swarm_coordinator.orchestrator.hosting import Hosting
from swarm_coordinator.orchestrator.journal import taken_over
from swarm_coordinator.orchestrator.marks import had_effect
from swarm_coordinator.orchestrator.noting import NotingMemory
from swarm_coordinator.orchestrator.outward import Outward
from swarm_coordinator.orchestrator.parts import Parts
from swarm_coordinator.orchestrator.projection import Projection
from swarm_coordinator.orchestrator.spawning import Spawner, offers
from swarm_coordinator.orchestrator.subscriptions import OwnerEndpoints, Serve
from swarm_coordinator.store.log import SwarmLog
from swarm_coordinator.store.values import Values

__all__ = ["SwarmOwner", "new_handle"]

RENEW_SHARE = 0.3
"""Of the life of a lease; three attempts fit into one."""
REGAIN_S = 0.3
HANDOVER_S = 2.0
"""On a clean stop: for what is decided and told already."""
CLOSE_S = 2.0
_log = logging.getLogger(__name__)


class SwarmOwner:
    """Owner of a swarm; implements ``handlers.ports.Owner``.

    Args:
        parts: what all owners of this replica share.
        state: folded from ``log``.
        log: at its end.
        lease: held.
        values: of the swarm's tenant.
        answer: makes the handler of an ``OwnerCall``.
        fresh: events since the last snapshot of the log.
    """

    def __init__(
        self,
        parts: Parts,
        state: SwarmState,
        log: SwarmLog,
        lease: Lease,
        *,
        values: Values,
        answer: Callable[["SwarmOwner"], Serve],
        fresh: int = 0,
    ) -> None:
        self._parts = parts
        self._lease = lease
        self._values = values
        self._ending: dict[str, list[asyncio.Event]] = {}
        config = parts.config
        self._tasks = Tasks(f"owner of {state.swarm}", on_fatal=self._failed)
        self._outward = Outward(parts.bus, state.tenant, state.swarm)
        self._memory = NotingMemory(parts.memory(state.tenant), self._outward.memory_changed)
        self.actor = Actor(
            state,
            log,
            clock_ms=self.now_ms,
            snapshot_events=config.swarm.snapshot_events,
            message_bytes=config.limits.log_message_bytes,
            metrics=parts.metrics,
            tasks=self._tasks,
            fresh=fresh,
        )
        self.actor.on_stored = self._stored
        spawner = Spawner(
            parts.bus, parts.hosts, node=parts.node, epoch=lambda: self.state.owner_epoch
        )
        self.hosting = Hosting(parts.bus, self.actor, spawner, parts.grants, self._tasks)
        self._projection = Projection(
            state=lambda: self.actor.state,
            journal=self.actor.journal,
            swarms=parts.swarms,
            records=parts.records(),
            values=values,
            sequence=lambda: log.sequence,
            reports=self.reported,
        )
        self.hosting.on_reported = self._projection.reported
        self._endpoints = OwnerEndpoints(
            parts.bus,
            state.tenant,
            state.swarm,
            slots=config.limits.inputs,
            serve={**self.hosting.serve, "swarm": answer(self)},
        )

    # What tools see: handlers.ports.Owner

    @property
    def state(self) -> SwarmState:
        """The folded state; read only."""
        return self.actor.state

    @property
    def memory(self) -> Memory:
        """Memory of the swarm's tenant; who watches it is told of changes."""
        return self._memory

    def now_ms(self) -> int:
        """Unix time on the broker's clock, so that all replicas mean the same."""
        return self._parts.bus.server_now_ms()

    def monotonic(self) -> float:
        """Seconds, for deadlines."""
        return monotonic()

    def new_id(self, prefix: str) -> str:
        """A handle."""
        return new_handle(prefix, self.now_ms())

    async def commit(self, events: Sequence[Event]) -> None:
        """See ``ports.Owner.commit``."""
        await self.actor.commit(events)
        if events:
            had_effect()

    async def stored(self) -> None:
        """Wait until everything that the state says now is stored.

        Raises:
            MeshError: it is not: this is no owner any more, or nobody knows.
        """
        await self.actor.journal.stored()

    async def assure(self) -> None:
        """Before an answer: be sure that nobody else has the swarm since.

        A process that was frozen has its old state and does not know of its successor yet; its
        lease is over by then, and the log tells.

        Raises:
            MeshError: ``lost``, not executed: another replica owns the swarm.
        """
        if not self._lease.held:
            self.actor.verify()
            await self.stored()

    async def spawn(self, agent: str) -> Spawned:
        """See ``ports.Owner.spawn``."""
        return await asyncio.shield(self.begin_spawn(agent))

    def begin_spawn(self, agent: str) -> "asyncio.Future[Spawned]":
        """See ``ports.Owner.begin_spawn``."""
        return self.hosting.begin_spawn(agent)

    async def offers(self, *, local: bool) -> dict[str, tuple[str, ...]]:
        """See ``ports.Owner.offers``."""
        parts, tenant = self._parts, self.state.tenant
        node = parts.node if local else ""
        found: dict[str, tuple[str, ...]] = {}
        for bid in await offers(parts.bus, parts.hosts, tenant, node=node):
            if not bid.refused:
                found.update({name: bid.capabilities.get(name, ()) for name in bid.types})
        return found

    def last_beat_ms(self, agent: str) -> int | None:
        """See ``ports.Owner.last_beat_ms``."""
        heard = self.hosting.liveness.heard.get(agent)
        return None if heard is None else heard.at_ms

    def reported(self, item: str) -> Reported | None:
        """See ``ports.Owner.reported``."""
        return self.hosting.liveness.progress.get(item)

    async def history(self, task: str) -> History:
        """See ``ports.Owner.history``."""
        await self.stored()
        log, _ = log_of(self._parts, self.state.tenant, self.state.swarm)
        return await history_in(log, task)

    async def recorded(self, task: str) -> None:
        """See ``ports.Owner.recorded``."""
        if task:
            await self._projection.recorded(task)
        else:
            await self._projection.write_swarm()

    async def known(self, task: str) -> None:
        """See ``ports.Owner.known``."""
        await self._projection.known(task)

    async def task_record(self, principal: str, task: str) -> TaskRecord | None:
        """See ``ports.Owner.task_record``."""
        return await self._parts.records().read_whole(self.state.tenant, principal, task)

    async def command(self, agent: str, command: AgentCommand, timeout_s: float) -> Commanded:
        """See ``ports.Owner.command``."""
        known = self.state.agents.get(agent)
        if known is None or not known.host:
            raise MeshError(ErrorKind.NO_RUNNER, "the agent runs on no host")
        command = msgspec.structs.replace(command, agent=agent)
        had_effect()
        try:
            return await self.hosting.outbox.command(known.host, command, timeout_s)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                self.hosting.gone(known.host)
            raise

    async def deliver(self, agent: str, mail: Mail, timeout_s: float) -> Commanded:
        """See ``ports.Owner.deliver``."""
        command = AgentCommand(swarm=self.state.swarm, owner_epoch=0, mail=mail)
        return await self.command(agent, command, timeout_s)

    async def delegate(self, caller: Caller, task: str, deadline_ms: int) -> str:
        """See ``ports.Owner.delegate``."""
        if not caller.context:
            return ""
        return await self._parts.grants.delegate(caller.context, task, deadline_ms)

    async def ended(self, task: str, timeout_s: float) -> TaskState:
        """See ``ports.Owner.ended``.

        Raises:
            KeyError: the state does not know the task.
        """
        known = self.state.tasks[task]
        told = asyncio.Event()
        waiting = self._ending.setdefault(task, [])
        waiting.append(told)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    if not known.ended:
                        await told.wait()
                    await self.stored()
        finally:
            waiting.remove(told)
            if not waiting:
                self._ending.pop(task, None)
        if self.over and not self.actor.journal.handed_over:
            raise taken_over()
        return known

    async def save(self, value: bytes) -> str:
        """See ``ports.Owner.save``."""
        return await self._values.put(self.state.swarm, value)

    async def load(self, reference: str) -> bytes:
        """See ``ports.Owner.load``."""
        return await self._values.get(self.state.swarm, reference)

    # Its life

    @property
    def over(self) -> bool:
        """Whether this is no owner any more."""
        return self.actor.over.is_set()

    async def start(self) -> None:
        """Serve and decide; returns once hosts and other replicas are heard.

        Raises:
            MeshError: the subjects cannot be served; ``abandon`` must follow.
        """
        await self._endpoints.start()
        tasks = self._tasks
        tasks.spawn(self.actor.run(), name="actor", fatal=True)
        tasks.spawn(self._keep_lease(), name="lease", fatal=True)
        tasks.spawn(self.hosting.liveness.run(), name="liveness", fatal=True)
        tasks.spawn(self._projection.run(), name="projection", fatal=True)
        tasks.spawn(self._outward.run(monotonic), name="outward", fatal=True)

    def resume(self, effects: Sequence[Effect]) -> None:
        """After a takeover: say again what the owner before may not have said, go on with it.

        Args:
            effects: of the change of owner.
        """
        self.hosting.outbox.take(effects)
        self._projection.stored(effects)
        self.hosting.resume()

    async def write_record(self) -> None:
        """Have other replicas know the swarm.

        Raises:
            MeshError: its record could not be written.
        """
        await self._projection.write_swarm()

    async def hand_over(self) -> None:
        """Stop in order: nothing that was decided is left unsaid; then anybody may take over."""
        await self._endpoints.stop(HANDOVER_S)
        with contextlib.suppress(TimeoutError, MeshError):
            async with asyncio.timeout(HANDOVER_S):
                await self.stored()
                await self._projection.settled()
                await self._outward.flush()
        self.actor.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER_S):
                await self.actor.over.wait()
        await self._lease.release()
        self._tell_waiting()
        await self._tasks.close(CLOSE_S)

    async def abandon(self) -> None:
        """Stop at once: another has the swarm, or nobody knows what the log says."""
        self.actor.give_up(taken_over())
        self._tell_waiting()
        await self._endpoints.stop(0.0)
        await self._tasks.close(CLOSE_S)

    def _tell_waiting(self) -> None:
        for waiting in self._ending.values():
            for told in waiting:
                told.set()

    def _stored(self, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        self.hosting.outbox.take(effects)
        self.hosting.outputs.note(events)
        self._projection.stored(effects)
        self._outward.take(events, self.actor.log.sequence)
        count(self._parts.metrics, events)
        for effect in effects:
            if isinstance(effect, GrantEnded) and effect.grant:
                self._parts.grants.revoke(effect.grant)
            elif isinstance(effect, TaskChanged) and effect.ended:
                for told in self._ending.get(effect.task, ()):
                    told.set()

    async def _keep_lease(self) -> None:
        """Renew for ever; a lease that is somebody else's ends the owner."""
        lease = self._lease
        pause_s = self._parts.leases.ttl_s * RENEW_SHARE
        while True:
            await asyncio.sleep(pause_s if lease.held else REGAIN_S)
            try:
                if await lease.renew() or await lease.acquire():
                    continue
                if not await self._is_mine_or_nobodys():
                    break
            except MeshError as error:
                # The log is the fence: without a broker nothing can be stored either.
                _log.info("the lease of %s is not renewed: %s", self.state.swarm, error.message)
        _log.info("the lease of %s is another replica's", self.state.swarm)
        self.actor.give_up(taken_over())

    async def _is_mine_or_nobodys(self) -> bool:
        return await self._lease.holder() in ("", self._parts.bus.instance)

    def _failed(self, _error: BaseException) -> None:
        self.actor.give_up(taken_over())


def new_handle(prefix: str, now_ms: int) -> str:
    """An id that cannot be guessed: ``swarm_…``, ``agent_…``, ``task_…``."""
    return ids.handle(prefix, now_ms, os.urandom(ids.HANDLE_RANDOM_BYTES))
