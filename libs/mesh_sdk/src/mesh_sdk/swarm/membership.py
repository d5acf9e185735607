"""What this host has of one swarm: its agents, their results, the beats to the owner.

What is lost on the way is found by the next beat, because a beat names everything: so nothing
here waits for a message that must not be missed. Owners older than the newest one heard of are
not believed.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from mcp_proto.contracts.swarm import (
    BEAT_S,
    AgentCommand,
    Beat,
    BeatAnswer,
    Commanded,
    Mail,
    Work,
    WorkProgress,
    WorkResult,
    WorkTaken,
)
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.tasks import Tasks
from mesh_sdk.swarm.outbox import Outbox
from mesh_sdk.swarm.owner import OwnerPort
from mesh_sdk.swarm.resident import BodyGoneError, Resident
from mesh_sdk.swarm.steps import Letter, StepFailedError

__all__ = ["Membership"]

STOP_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL of an agent that is told to stop."""
PING_S = 0.25
"""How long an agent's process may take to answer a ping."""
BEAT_RETRY_S = 1.0
BEAT_GAP_S = 0.02
"""Between two beats, however much changes."""
ORPHAN_S = 900.0
"""Nobody owned the swarm for so long: its agents are ended."""
DONE_MAX = 1_024
DONE_BYTES = 8 * 1024
"""Finished items that a repeat is recognised by; results up to this size are kept with them."""
MAIL_S = 30.0
"""Longest wait for a reply to a letter that says nothing else."""
_JITTER = 0.2

_log = logging.getLogger(__name__)
_json = msgspec.json.Encoder()


class Membership:
    """One swarm at this host.

    Args:
        bus: connected; its instance is the host.
        tasks: parent of everything here.
        tenant: of the swarm.
        swarm: its id.
        node: name of this machine.
        ended: hears when nothing of the swarm is left here.
        beat_s: interval of beats.
        unknown: hears which agents the owner does not want (they are stopped in any case).
    """

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        tenant: str,
        swarm: str,
        *,
        node: str,
        ended: Callable[["Membership"], None] = lambda _: None,
        beat_s: float = BEAT_S,
        unknown: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.tenant = tenant
        self.swarm = swarm
        self.owner_epoch = 0
        self.residents: dict[str, Resident] = {}
        self.port = OwnerPort(bus, tenant, swarm)
        self.expected = 0
        """Agents that are being started; their swarm is not forgotten meanwhile."""
        self._bus = bus
        self._tasks = tasks
        self._node = node
        self._ended = ended
        self._unknown = unknown
        self.beat_s = beat_s
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self.port.results, self.believes, self._taken)
        self._done: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._beats_heard = 0
        self._heard_at = self._loop.time()
        self._running: list[asyncio.Task[None]] = []

    @property
    def started(self) -> bool:
        """Whether it beats."""
        return bool(self._running)

    @property
    def waiting(self) -> int:
        """Results that the owner has not taken."""
        return len(self._outbox)

    @property
    def busy(self) -> int:
        """Attempts that run or wait here."""
        return sum(one.busy for one in self.residents.values())

    def start(self) -> None:
        """Begin to beat and to deliver, once."""
        if self._running:
            return
        self._running = [
            self._tasks.spawn(self._outbox.run(), name="swarm-results"),
            self._tasks.spawn(self._beats(), name="swarm-beats"),
        ]

    async def close(self, flush_s: float) -> None:
        """Deliver what waits and say who has gone, as far as time goes; then end.

        An agent that has not gone is left as it is: another process may take its place.
        """
        if self._running:
            self.beat_soon()
            stay = any(one.state != "gone" for one in self.residents.values())
            last = self._tasks.spawn(self._delivered(), name="swarm-end") if stay else None
            await asyncio.wait({last or self._running[-1]}, timeout=flush_s)
        if self.waiting:
            _log.warning("%d results of %s were not taken in time", self.waiting, self.swarm)
        self._end()

    def believes(self, owner_epoch: int) -> bool:
        """Whether this owner is not older than another one heard of."""
        if owner_epoch < self.owner_epoch:
            return False
        self.owner_epoch = owner_epoch
        return True

    def beat_soon(self) -> None:
        """Something changed that the owner should know now."""
        self._changed.set()

    def add(self, resident: Resident) -> None:
        """Show an agent to the owner."""
        self.residents[resident.agent] = resident
        self.beat_soon()

    def settle(self, result: WorkResult) -> None:
        """Send the result of an attempt."""
        self._done.pop(result.item, None)
        self._outbox.put(result)

    def unsent(self, agent: str) -> int:
        """Results of an agent that were not taken yet."""
        return self._outbox.count_of(agent)

    async def progress(self, progress: WorkProgress) -> None:
        """Pass on how far an attempt is."""
        await self.port.progress(progress)

    # Of the owner

    def take(self, work: Work) -> WorkTaken:
        """Take work, or say of each item why not; a repeat is the same work."""
        if not self.believes(work.owner_epoch):
            return WorkTaken(refused={item.item: "stale_owner" for item in work.items})
        refused: dict[str, str] = {}
        now_ms = self._bus.server_now_ms()
        for item in work.items:
            resident = self.residents.get(item.agent)
            if resident is None or resident.state == "gone":
                refused[item.item] = "unknown_agent"
            elif item.epoch < resident.epoch:
                refused[item.item] = "epoch"
            elif not (resident.has(item.item) or self._repeated(item.item)):
                reason = resident.refusal()
                if reason:
                    refused[item.item] = reason
                    continue
                # A newer one: the owner had lost this agent and counts its return as a new life.
                resident.epoch = item.epoch
                left_ms = item.deadline_ms - now_ms if item.deadline_ms else item.timeout_ms
                resident.take(item, max(0, min(item.timeout_ms, left_ms)) / 1000)
        return WorkTaken(refused=refused)

    def _repeated(self, item: str) -> bool:
        """Whether it is finished here; its result goes out once more."""
        if self._outbox.holds(item):
            return True
        known = self._done.get(item)
        if known is None:
            return False
        agent, data = known
        if data:
            self._outbox.put_encoded(agent, item, data)
        return True

    async def command(self, command: AgentCommand) -> Commanded:
        """Do what the owner tells; see ``AgentCommand``."""
        resident = self.residents.get(command.agent)
        if resident is not None and resident.state == "gone":
            resident = None
        known = resident is not None or not command.agent
        if not self.believes(command.owner_epoch):
            return Commanded(known=known, message="an owner of an older epoch")
        for item in command.cancel:
            self.cancel(item)
        for item, answers in command.answers.items():
            if not any(one.answer(item, answers) for one in self.residents.values()):
                return Commanded(known=False, message=f"{item} does not wait for answers here")
        if resident is None:
            return Commanded(known=known)
        return await _told(resident, command)

    def cancel(self, item: str) -> bool:
        """End an attempt, of whatever agent; whether it was here."""
        return any(one.cancel(item) for one in self.residents.values())

    # To the owner

    async def _beats(self) -> None:
        while self.residents or self.waiting or self.expected:
            self._changed.clear()
            wait_s = self.beat_s * (1 + random.uniform(-_JITTER, _JITTER))  # noqa: S311
            if self.residents:
                beat = self._beat()
                try:
                    answer = await self.port.beat(beat)
                except MeshError as error:
                    wait_s = min(BEAT_RETRY_S, self.beat_s)
                    _log.debug("a beat of %s was not heard: %s", self.swarm, error.message)
                    self._look_for_owner()
                else:
                    self._heard(beat, answer)
            elif self.waiting and self._orphaned:
                _log.warning(
                    "swarm %s has no owner: %d results are dropped", self.swarm, self.waiting
                )
                break
            await asyncio.sleep(BEAT_GAP_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
        self._end()

    def _beat(self) -> Beat:
        agents = tuple(
            one.beat(self._outbox.items_of(one.agent)) for one in self.residents.values()
        )
        return Beat(boot=self._bus.boot, node=self._node, agents=agents)

    def _heard(self, beat: Beat, answer: BeatAnswer) -> None:
        if not self.believes(answer.owner_epoch):
            return
        self._heard_at = self._loop.time()
        self._beats_heard += 1
        self._news.set()
        for one in beat.agents:
            resident = self.residents.get(one.agent)
            if one.state == "gone" and resident is not None and resident.epoch == one.epoch:
                del self.residents[one.agent]
        for item in answer.cancel:
            self.cancel(item)
        for agent in answer.stop:
            resident = self.residents.get(agent)
            if resident is not None and resident.state != "gone":
                self._unknown(agent)
                self._tasks.spawn(_stopped(resident), name="stop-agent")
        if not self.residents:
            self._changed.set()

    @property
    def _orphaned(self) -> bool:
        return self._loop.time() - self._heard_at >= ORPHAN_S

    def _look_for_owner(self) -> None:
        """Nobody answers beats: agents of a swarm without owner do not stay for ever."""
        if not self._orphaned:
            return
        for agent, resident in list(self.residents.items()):
            if resident.state == "gone":
                del self.residents[agent]
                continue
            _log.warning("swarm %s has no owner: agent %s is ended", self.swarm, agent)
            self._tasks.spawn(_stopped(resident), name="stop-agent")

    async def _delivered(self) -> None:
        """Wait until a beat of now was heard and every result was taken."""
        before = self._beats_heard
        while self.waiting or self._beats_heard == before:
            self._news.clear()
            await self._news.wait()

    def _taken(self, agent: str, item: str, data: bytes) -> None:
        self._done[item] = (agent, data if len(data) <= DONE_BYTES else b"")
        if len(self._done) > DONE_MAX:
            self._done.popitem(last=False)
        self._heard_at = self._loop.time()
        self._news.set()
        if not self.residents:
            self._changed.set()

    def _end(self) -> None:
        running, self._running = self._running, []
        current = asyncio.current_task()
        for task in running:
            if task is not current:
                task.cancel()
        if running:
            self._ended(self)


async def _stopped(resident: Resident) -> None:
    await resident.stop(STOP_GRACE_S)


async def _told(resident: Resident, command: AgentCommand) -> Commanded:
    """What a command is to one agent."""
    answer = Commanded()
    if command.ping:
        alive = await resident.body.ping(PING_S)
        answer = msgspec.structs.replace(answer, alive=alive)
    if command.mail is not None:
        answer = await _deliver(resident, command.mail, answer)
    if command.drain:
        resident.drain()
    if command.stop:
        exited = await resident.stop(STOP_GRACE_S)
        answer = msgspec.structs.replace(answer, exited=exited)
    return answer


async def _deliver(resident: Resident, mail: Mail, answer: Commanded) -> Commanded:
    letter = Letter(
        id=mail.id,
        sender=mail.sender,
        type=mail.type,
        action=mail.action,
        params=msgspec.json.decode(mail.params) if memoryview(mail.params).nbytes else None,
        expect_reply=mail.expect_reply,
    )
    timeout_s = mail.timeout_ms / 1000 or MAIL_S
    try:
        heard, reply = await resident.body.hear(letter, timeout_s)
    except (BodyGoneError, StepFailedError) as error:
        return msgspec.structs.replace(answer, mail="undeliverable", message=str(error))
    except TimeoutError:
        message = f"no reply within {timeout_s:g} s"
        return msgspec.structs.replace(answer, mail="delivered", message=message)
    if not heard:
        message = "the agent takes no letters"
        return msgspec.structs.replace(answer, mail="undeliverable", message=message)
    if not mail.expect_reply:
        return msgspec.structs.replace(answer, mail="delivered")
    raw = msgspec.Raw(_json.encode(reply))
    return msgspec.structs.replace(answer, mail="replied", reply=raw)
