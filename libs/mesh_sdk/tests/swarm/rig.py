"""The owner of a swarm as a script: speaks ``contracts.swarm`` on a real broker."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from mcp_proto.contracts.swarm import (
    AgentBeat,
    AgentCommand,
    Attach,
    Attached,
    Beat,
    BeatAnswer,
    Bid,
    BidRequest,
    Commanded,
    Results,
    ResultsTaken,
    Spawn,
    Spawned,
    Work,
    WorkItem,
    WorkProgress,
    WorkResult,
    WorkTaken,
    attach_subject,
    beat_subject,
    bid_subject,
    command_subject,
    progress_subject,
    result_subject,
    spawn_subject,
    work_subject,
)
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import ANY
from mesh_chassis.bus.connection import Bus, Msg
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.testing.conditions import eventually

__all__ = ["DEMO", "HOST", "Owner", "owning"]

DEMO = "demo-tenant"
HOST = "agent-host-1"


class Owner:
    """What happened is in the attributes; how it answers is set by them.

    Attributes:
        beats: heard, oldest first.
        results: of each item, as often as it came.
        taken: whether results are acknowledged.
        lose: answers to results that get lost after the results were read.
        deaf: beats are refused.
        cancel: named in each answer to a beat.
        stop: likewise.
        epoch: of this owner.
    """

    def __init__(self, bus: Bus, swarm: str, host: str) -> None:
        self.bus = bus
        self.swarm = swarm
        self.host = host
        self.epoch = 1
        self.beats: list[Beat] = []
        self.results: dict[str, list[WorkResult]] = {}
        self.progress: list[WorkProgress] = []
        self.attaches: list[Attach] = []
        self.attach_answers: list[Attached] = []
        self.taken = True
        self.lose = 0
        self.deaf = False
        self.cancel: set[str] = set()
        self.stop: set[str] = set()
        self.items = 0

    # What hosts say

    async def _attach(self, call: Call) -> bytes:
        self.attaches.append(msgspec.json.decode(call.payload, type=Attach))
        if self.attach_answers:
            return msgspec.json.encode(self.attach_answers.pop(0))
        return msgspec.json.encode(
            Attached(epoch=len(self.attaches), owner_epoch=self.epoch, beat_s=0.2)
        )

    async def _beat(self, call: Call) -> bytes:
        if self.deaf:
            raise MeshError(ErrorKind.OVERLOADED, "the owner is deaf")
        self.beats.append(msgspec.json.decode(call.payload, type=Beat))
        answer = BeatAnswer(
            owner_epoch=self.epoch, cancel=tuple(self.cancel), stop=tuple(self.stop)
        )
        return msgspec.json.encode(answer)

    async def _result(self, call: Call) -> bytes:
        results = msgspec.json.decode(call.payload, type=Results).results
        for one in results:
            self.results.setdefault(one.item, []).append(one)
        if self.lose:
            self.lose -= 1
            raise MeshError(ErrorKind.LOST, "the answer is lost")
        taken = tuple(one.item for one in results) if self.taken else ()
        return msgspec.json.encode(ResultsTaken(owner_epoch=self.epoch, taken=taken))

    async def _progress(self, message: Msg) -> None:
        self.progress.append(msgspec.json.decode(message.data, type=WorkProgress))

    # What it says

    async def ask(self, subject: str, body: object, kind: Any, timeout_s: float = 30.0) -> Any:
        """A request to a host."""
        answer = await self.bus.call(
            subject,
            msgspec.json.encode(body),
            envelope=RequestEnvelope(),
            timeout_s=timeout_s,
            tenant=DEMO,
        )
        return msgspec.json.decode(answer, type=kind)

    async def bid(self, agent_type: str, **wishes: Any) -> Bid:
        """The bid of the one host that there is."""
        request = BidRequest(tenant=DEMO, swarm=self.swarm, agent_type=agent_type, **wishes)
        return await self.ask(bid_subject(), request, Bid)

    async def spawn(
        self,
        agent_type: str,
        *,
        agent: str = "agent_1",
        epoch: int = 1,
        config: dict[str, Any] | None = None,
        runtime: str = "",
        **limits: Any,
    ) -> Spawned:
        """Auction and spawn."""
        bid = await self.bid(agent_type, runtime=runtime)
        if bid.refused:
            return Spawned(refused=bid.refused, message=bid.message)
        spawn = Spawn(
            bid=bid.bid,
            swarm=self.swarm,
            agent=agent,
            epoch=epoch,
            agent_type=agent_type,
            config=msgspec.Raw(msgspec.json.encode(config or {})),
            owner_epoch=self.epoch,
            **limits,
        )
        return await self.ask(spawn_subject(DEMO, self.host), spawn, Spawned)

    def item(
        self,
        payload: object,
        *,
        agent: str = "agent_1",
        kind: str = "call",
        item: str = "",
        **fields: Any,
    ) -> WorkItem:
        """A piece of work."""
        self.items += 1
        return WorkItem(
            agent=agent,
            epoch=fields.pop("epoch", 1),
            item=item or f"task_1.step-{self.items}-1",
            task="task_1",
            phase="phase",
            step=f"step-{self.items}",
            attempt=1,
            kind=kind,  # type: ignore[arg-type]
            payload=msgspec.Raw(msgspec.json.encode(payload)),
            **fields,
        )

    async def send(self, *items: WorkItem) -> dict[str, str]:
        """Work to the host; what it refused."""
        work = Work(swarm=self.swarm, owner_epoch=self.epoch, items=items)
        return (await self.ask(work_subject(DEMO, self.host), work, WorkTaken)).refused

    async def do(self, payload: object, **fields: Any) -> WorkResult:
        """One piece of work, from sending to its result."""
        item = self.item(payload, **fields)
        assert await self.send(item) == {}
        return await self.result(item.item)

    async def result(self, item: str, timeout_s: float = 15.0, nth: int = 1) -> WorkResult:
        """The result of an item, once it came."""
        await eventually(
            lambda: len(self.results.get(item, ())) >= nth,
            timeout_s=timeout_s,
            what=f"result of {item}",
        )
        return self.results[item][nth - 1]

    async def command(self, agent: str = "", **parts: Any) -> Commanded:
        """A command to the host."""
        epoch = parts.pop("owner_epoch", self.epoch)
        command = AgentCommand(swarm=self.swarm, agent=agent, owner_epoch=epoch, **parts)
        return await self.ask(command_subject(DEMO, self.host), command, Commanded)

    def last(self, agent: str = "agent_1") -> AgentBeat | None:
        """What the newest beat says of an agent."""
        for one in self.beats[-1].agents if self.beats else ():
            if one.agent == agent:
                return one
        return None

    async def said(self, state: str, agent: str = "agent_1", timeout_s: float = 15.0) -> AgentBeat:
        """Wait for a beat that says so."""
        seen: list[AgentBeat] = []

        def found() -> bool:
            seen[:] = [
                one
                for beat in self.beats
                for one in beat.agents
                if (one.agent, one.state) == (agent, state)
            ]
            return bool(seen)

        await eventually(found, timeout_s=timeout_s, what=f"beat that says {state}")
        return seen[-1]


@asynccontextmanager
async def owning(bus: Bus, swarm: str, host: str = HOST) -> AsyncGenerator[Owner, None]:
    """Own a swarm."""
    owner = Owner(bus, swarm, host)
    endpoints = [
        Endpoint(bus, subject=subject(DEMO, swarm, ANY), handler=handler)
        for subject, handler in (
            (attach_subject, owner._attach),
            (beat_subject, owner._beat),
            (result_subject, owner._result),
        )
    ]
    for one in endpoints:
        await one.start()
    heard = await bus.subscribe(progress_subject(DEMO, swarm, ANY), owner._progress)
    try:
        yield owner
    finally:
        await asyncio.gather(*(one.drain(1.0) for one in endpoints))
        await heard.unsubscribe()
