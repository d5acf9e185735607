"""The owner's dealings with hosts: what they say becomes decisions, what they do not say as well.

A host is believed only about agents whose host it is; the broker lets it speak under its own name
only (``contracts.swarm``).
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from mcp_proto.contracts.swarm import (
    AgentCommand,
    Attach,
    Attached,
    Beat,
    BeatAnswer,
    Results,
    ResultsTaken,
    Spawned,
    WorkProgress,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.clock import monotonic
from mesh_chassis.tasks import Tasks, TasksFullError
from swarm_coordinator.core import decide
from swarm_coordinator.core.effects import Effect, StopAgent, work_items
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.orchestrator.actor import Actor
from swarm_coordinator.orchestrator.grants import Grants
from swarm_coordinator.orchestrator.journal import taken_over
from swarm_coordinator.orchestrator.liveness import Liveness
from swarm_coordinator.orchestrator.outbox import Outbox
from swarm_coordinator.orchestrator.outputs import Outputs
from swarm_coordinator.orchestrator.spawning import Spawner
from swarm_coordinator.orchestrator.subscriptions import Serve, sender_of

__all__ = ["Hosting", "claim_hash"]

PROBE_S = 1.0
GONE_AGAIN_S = 0.3
"""A host that the broker does not know is looked for again: it may be reconnecting."""
GONE_LOOKS = 2
BACK_S = 3.0
"""After an own reconnect others may need so long for theirs."""
VERIFY_GAP_S = 1.0
T = TypeVar("T", bound=msgspec.Struct)
_attach = msgspec.json.Decoder(Attach)
_beat = msgspec.json.Decoder(Beat)
_results = msgspec.json.Decoder(Results)
_progress = msgspec.json.Decoder(WorkProgress)
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


def claim_hash(claim: str) -> str:
    """What the log holds of a claim token: its SHA-256, hex."""
    return hashlib.sha256(claim.encode()).hexdigest()


class Hosting:
    """One owner's.

    Args:
        bus: connected.
        actor: decides.
        spawner: places agents.
        grants: fresh contexts.
        tasks: parent of what is under way.
    """

    def __init__(
        self, bus: Bus, actor: Actor, spawner: Spawner, grants: Grants, tasks: Tasks
    ) -> None:
        self._bus = bus
        self._actor = actor
        self._spawner = spawner
        self._tasks = tasks
        self._spawns: dict[str, asyncio.Future[Spawned]] = {}
        self._suspects: set[str] = set()
        self._early: dict[str, tuple[str, Beat]] = {}
        self._verified_at = 0.0
        self.on_reported: Callable[[str], None] = lambda _task: None
        """Called with the id of a task when an agent has told how far one of its steps is."""
        state = actor.state
        self.outputs = Outputs(state)
        self.outbox = Outbox(
            bus, state.tenant, state.swarm, epoch=self._epoch, grants=grants, tasks=tasks
        )
        self.outbox.on_gone = self.gone
        self.outbox.on_refused = self._refused
        self.outbox.on_stale = self._stale
        self.outbox.on_delivered = self._delivered
        self.outbox.on_ungranted = self._ungranted
        self.liveness = Liveness(
            lambda: actor.state.agents,
            clock=monotonic,
            probe=self._probe,
            lost=self._lost,
            tasks=tasks,
        )
        self.serve: dict[str, Serve] = {
            "attach": self.on_attach,
            "beat": self.on_beat,
            "result": self.on_results,
            "progress": self.on_progress,
        }

    # What hosts say

    async def on_attach(self, call: Call) -> bytes:
        """``Attach`` → ``Attached``."""
        host, ask = sender_of(call), _decoded(_attach, call)
        actor = self._actor
        state = actor.state
        try:
            events = decide.attach(
                state, host, ask, claim=claim_hash(ask.claim), now_ms=actor.clock_ms()
            )
        except Refusal as refusal:
            return _encode(Attached(refused=refusal.reason, owner_epoch=state.owner_epoch))
        actor.fold(events)
        epoch = state.agents[ask.agent].epoch
        self.liveness.alive(ask.agent)
        await actor.journal.stored()
        return _encode(Attached(epoch=epoch, owner_epoch=state.owner_epoch))

    async def on_beat(self, call: Call) -> bytes:
        """``Beat`` → ``BeatAnswer``."""
        host, beat = sender_of(call), _decoded(_beat, call)
        actor = self._actor
        now = actor.clock_ms()
        events = decide.beat(actor.state, host, beat, now)
        actor.fold(events)
        self.liveness.note(host, beat, now)
        self._keep_early(host, beat)
        found = decide.reconcile(actor.state, host, beat, now)
        again: list[Effect] = list(work_items(actor.state, found.resend))
        if events:
            await actor.journal.stored()
        self.outbox.take(again)
        return _encode(
            BeatAnswer(owner_epoch=actor.state.owner_epoch, cancel=found.cancel, stop=found.stop)
        )

    def _keep_early(self, host: str, beat: Beat) -> None:
        """The first beat of an agent can overtake its host's answer to the spawn."""
        for one in beat.agents:
            agent = self._actor.state.agents.get(one.agent)
            if agent is not None and agent.status == "spawning" and not agent.host:
                self._early[agent.id] = (host, beat)

    async def on_results(self, call: Call) -> bytes:
        """``Results`` → ``ResultsTaken``, once the log has them."""
        host, said = sender_of(call), _decoded(_results, call)
        actor = self._actor
        found = self.outputs.bounded(said.results)
        actor.fold(decide.results(actor.state, host, found, actor.clock_ms(), actor.seed()))
        for one in found:
            self.liveness.forget_item(one.item)
        # Also without an event: the first copy of a repeated result may be on its way to the log.
        await actor.journal.stored()
        taken = tuple(one.item for one in found)
        return _encode(ResultsTaken(owner_epoch=actor.state.owner_epoch, taken=taken))

    async def on_progress(self, call: Call) -> bytes:
        """``WorkProgress``: kept in memory, and shown."""
        host, progress = sender_of(call), _decoded(_progress, call)
        agent = self._actor.state.agents.get(progress.agent)
        if agent is not None and agent.host == host and progress.item in agent.items:
            self.liveness.note_progress(progress, self._actor.clock_ms())
            self.on_reported(progress.item.partition(".")[0])
        return b"{}"

    # What becomes of what was sent

    def gone(self, host: str) -> None:
        """The broker knows nobody by this name: if that stays so, its agents are lost."""
        if host not in self._suspects:
            self._suspects.add(host)
            self._tasks.spawn(self._confirm_gone(host), name="confirm-gone")

    def begin_spawn(self, agent: str) -> "asyncio.Future[Spawned]":
        """Place an agent; a repeat joins the attempt under way.

        Raises:
            MeshError: ``lost``: another replica owns the swarm, and spawns it. The future raises
                it as well.
        """
        known = self._spawns.get(agent)
        if known is not None and not known.done():
            return known
        told: asyncio.Future[Spawned] = asyncio.get_running_loop().create_future()
        try:
            self._tasks.spawn(self._tell_spawn(agent, told), name="spawn-agent")
        except TasksFullError:
            raise taken_over() from None
        self._spawns[agent] = told
        told.add_done_callback(lambda _done: self._spawns.pop(agent, None))
        return told

    def resume(self) -> None:
        """After a takeover: go on with what the owner before had begun."""
        for agent in self._actor.state.agents.values():
            if agent.status == "spawning" and not agent.external and not agent.host:
                self.begin_spawn(agent.id)

    def _epoch(self) -> int:
        return self._actor.state.owner_epoch

    def _fold(self, events: list[Event]) -> None:
        try:
            self._actor.fold(events)
        except MeshError as error:
            _log.info("not decided: %s", error.message)

    def _refused(self, host: str, refused: Mapping[str, str]) -> None:
        actor = self._actor
        self._fold(decide.refused(actor.state, host, refused, actor.clock_ms(), actor.seed()))

    def _stale(self) -> None:
        """A host has seen a newer owner. It may be wrong; the log is not."""
        now = monotonic()
        if now - self._verified_at >= VERIFY_GAP_S:
            self._verified_at = now
            self._actor.verify()

    def _delivered(self, agent: str, mail: str) -> None:
        actor = self._actor
        if agent in actor.state.agents:
            self._fold(decide.mail_taken(actor.state, agent, (mail,), actor.clock_ms()))

    def _ungranted(self, task: str, error: MeshError) -> None:
        _log.info("task %s is cancelled: its grant has ended (%s)", task, error.message)
        actor = self._actor
        if task in actor.state.tasks:
            self._fold(decide.cancel(actor.state, task, "denied", actor.clock_ms()))

    def _lost(self, agent: str, reason: str) -> None:
        actor = self._actor
        if agent in actor.state.agents:
            _log.info("agent %s is lost: %s", agent, reason)
            self._fold(decide.agent_lost(actor.state, agent, reason, actor.clock_ms()))

    async def _probe(self, agent: str) -> None:
        known = self._actor.state.agents.get(agent)
        if known is None or not known.host:
            return
        ask = AgentCommand(
            swarm=self._actor.state.swarm, owner_epoch=self._epoch(), agent=agent, ping=True
        )
        try:
            answer = await self.outbox.command(known.host, ask, PROBE_S)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:
                self.gone(known.host)
            return  # silence proves nothing
        if not answer.known:
            self._lost(agent, "unknown to its host")

    async def _confirm_gone(self, host: str) -> None:
        try:
            loop = asyncio.get_running_loop()
            if loop.time() - self._bus.link.reconnected_at < BACK_S:
                await asyncio.sleep(BACK_S)
            ask = AgentCommand(swarm=self._actor.state.swarm, owner_epoch=0, ping=True)
            for _ in range(GONE_LOOKS):
                await asyncio.sleep(GONE_AGAIN_S)
                try:
                    await self.outbox.command(host, ask, PROBE_S)
                except MeshError as error:
                    if error.kind is ErrorKind.NO_RUNNER:
                        continue
                return
            for agent in list(self._actor.state.agents.values()):
                if agent.host == host and agent.status not in ("lost", "terminated"):
                    self._lost(agent.id, "its host is gone")
        finally:
            self._suspects.discard(host)

    async def _tell_spawn(self, agent: str, told: "asyncio.Future[Spawned]") -> None:
        """Spawn, and tell who waits; the log is told of an error only where it is news."""
        try:
            spawned = await self._spawn(agent)
        except MeshError as error:
            _fail(told, error)
            if self._actor.journal.ended is None:
                _log.warning("what became of agent %s is not noted: %s", agent, error.message)
        except asyncio.CancelledError:
            _fail(told, taken_over())
            raise
        except Exception as error:
            _fail(told, error)
            raise
        else:
            if not told.done():
                told.set_result(spawned)

    async def _spawn(self, agent_id: str) -> Spawned:
        actor = self._actor
        agent = actor.state.agents.get(agent_id)
        if agent is None or agent.status != "spawning":
            return Spawned(refused="failed", message="the agent waits for no place")
        if agent.external:
            return Spawned(runtime="external", slots=agent.slots)
        placed = await self._spawner.place(actor.state, agent)
        spawned, now = placed.spawned, actor.clock_ms()
        if not placed.host:
            self._early.pop(agent_id, None)
            await actor.commit(
                decide.agent_refused(actor.state, agent_id, spawned.refused, spawned.message, now)
            )
            return spawned
        events = decide.agent_spawned(actor.state, agent_id, placed.host, spawned, now)
        if not events:
            # It was terminated while its process started.
            self.outbox.take([StopAgent(host=placed.host, agent=agent_id)])
            return Spawned(refused="failed", message="the agent was ended before it ran")
        actor.fold(events)
        host, beat = self._early.pop(agent_id, ("", None))
        if beat is not None and host == placed.host:
            actor.fold(decide.beat(actor.state, host, beat, now))
            self.liveness.note(host, beat, now)
        await actor.journal.stored()
        return spawned


def _fail(told: "asyncio.Future[Spawned]", error: Exception) -> None:
    if not told.done():
        told.set_exception(error)
        told.exception()  # nobody may be waiting any more


def _decoded(decoder: "msgspec.json.Decoder[T]", call: Call) -> T:
    try:
        return decoder.decode(call.payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeshError(ErrorKind.PARAMS, f"parameters: {error}") from error
